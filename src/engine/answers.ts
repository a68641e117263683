/**
 * What OpenAI-compatible servers answer, as far as this program reads it. Their answers are outside data: each is held against one of these
 * before anything is done with it; fields that are not named here are passed over, or on.
 */
import { z } from "zod";
import { BimedixError } from "../errors.js";
import { shaped } from "../shape.js";

/** Levels of arrays and objects in one another; the API has about ten. */
const MAX_DEPTH = 100;
/** Elements of lists that grow with what was asked, far above any request of this program. */
const MAX_LIST = 100_000;

/** Elements are looked at once their number is known. */
const list = <T extends z.ZodType>(element: T) => z.array(z.unknown()).max(MAX_LIST).pipe(z.array(element));
const count = z.int().nonnegative().nullish();
const usage = z.looseObject({ prompt_tokens: count, completion_tokens: count, total_tokens: count }).nullish();
/** Some servers give a text in parts. */
const content = z.union([z.string(), list(z.looseObject({ text: z.string().nullish() }))]).nullish();
const logged_token = z.looseObject({
  token: z.string(),
  top_logprobs: list(z.looseObject({ token: z.string(), logprob: z.number() })).nullish(),
});
const choice = z.looseObject({
  index: z.int().nonnegative().nullish(),
  finish_reason: z.string().nullish(),
  message: z.looseObject({ content }).nullish(),
  delta: z.looseObject({ content }).nullish(),
  text: z.string().nullish(),
});

/** An event of a stream. */
export const completion_event = z.looseObject({
  error: z.unknown().optional(),
  choices: list(choice).nullish(),
  usage,
});
export type Completion = z.output<typeof completion_event>;
export const completion = completion_event.refine(({ error, choices }) => Boolean(error ?? choices), "no choices");

/** An answer with the log-probabilities of what was written. */
export const logged_completion = z.looseObject({
  choices: list(z.looseObject({ logprobs: z.looseObject({ content: list(logged_token).nullish() }).nullish() })),
});

/** An answer with the log-probabilities of a prompt. */
export const echoed_completion = z.looseObject({
  choices: list(
    z.looseObject({
      index: z.int().nonnegative().nullish(),
      logprobs: z
        .looseObject({
          token_logprobs: list(z.number().nullable()).nullish(),
          top_logprobs: list(z.record(z.string(), z.number()).nullable()).nullish(),
        })
        .nullish(),
    }),
  ),
});

export const model_list = z.looseObject({
  data: list(z.looseObject({ id: z.string(), max_model_len: z.number().positive().nullish() })),
});

/** What /v1/mcqa of this project answers. */
export const mcqa_answer = z.object({
  language: z.enum(["en", "ar"]),
  answer: z.string(),
  options: list(z.object({ letter: z.string(), text: z.string(), probability: z.number().min(0).max(1) })),
});

export const refused = (where: string, what: string, parts: { expected: string; todo: string }) =>
  new BimedixError("server_refused", { given: `${where} ${what}`, ...parts });

/** An answer that is not of the API that was asked. */
export class AnswerError extends BimedixError {}

const EXPECTED = { expected: "an OpenAI-compatible server", todo: "check the URL" };

/** JSON as a schema has it. @param what of the server it is, as a part of a sentence @throws AnswerError server_refused */
export function read_answer<T extends z.ZodType>(url: string, text: string, schema: T, what = "answers"): z.output<T> {
  // What it was and not what was read of it: nothing is lost on its way to a client.
  try {
    return shaped(schema, parse(url, text, what), { where: `${url} ${what}`, code: "server_refused", ...EXPECTED });
  } catch (error) {
    throw new AnswerError("server_refused", (error as Error).message);
  }
}

function parse(url: string, text: string, what: string): unknown {
  if (is_deep(text)) throw refused(url, `${what} with more than ${MAX_DEPTH} levels`, EXPECTED);
  try {
    return JSON.parse(text);
  } catch {
    throw refused(url, what === "answers" ? "does not answer in JSON" : `${what} that is not JSON`, EXPECTED);
  }
}

/** Writing what is deep overflows the stack, where reading it does not. */
function is_deep(text: string): boolean {
  let depth = 0;
  let in_string = false;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (in_string) {
      if (code === 0x5c) at++;
      else if (code === 0x22) in_string = false;
    } else if (code === 0x22) in_string = true;
    else if (code === 0x5b || code === 0x7b) {
      if (++depth > MAX_DEPTH) return true;
    } else if (code === 0x5d || code === 0x7d) depth--;
  }
  return false;
}
