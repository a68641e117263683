/**
 * What requests may hold. A field that is not here is refused by name, never ignored; `null` stands for a field left out, as in
 * OpenAI's API (https://platform.openai.com/docs/api-reference). The OpenAPI page is made from these schemas.
 */
import { z } from "zod";
import { ApiError } from "./api_error.js";

const maybe = <T extends z.ZodType>(schema: T) =>
  schema
    .nullable()
    .transform((value) => value ?? undefined)
    .optional();

/** Fields of OpenAI's that change nothing at this one value, which clients send. */
const only = <T extends z.ZodType>(schema: T, what: string) =>
  maybe(schema).describe(`accepted with ${what} only, as it is not supported otherwise`);
const neutral = {
  frequency_penalty: only(z.literal(0), "0"),
  presence_penalty: only(z.literal(0), "0"),
  logit_bias: only(z.strictObject({}), "{}"),
};

/** Longer ones would be looked for at every token. */
const stop_text = z.string().min(1).max(1000);

const sampling = {
  model: z.string().min(1).max(300).describe("a name that GET /v1/models lists"),
  temperature: maybe(z.number().min(0).max(2)).describe(
    "0 takes the likeliest token; default: the model's, which samples where top_p, top_k, min_p, seed or n asks for it",
  ),
  top_p: maybe(z.number().gt(0).max(1)),
  top_k: maybe(z.int().min(0).max(1e6)).describe("0 keeps all; not in OpenAI's API"),
  min_p: maybe(z.number().min(0).max(1)).describe("not in OpenAI's API"),
  repetition_penalty: maybe(z.number().gt(0).max(100)).describe("not in OpenAI's API"),
  ignore_eos: maybe(z.boolean()).describe("an answer ends at max_tokens alone; not in OpenAI's API"),
  seed: maybe(z.int()).describe("makes sampling repeatable"),
  n: maybe(z.int().min(1).max(16)).describe("answers to each prompt; default 1"),
  stop: maybe(z.union([stop_text, z.array(stop_text).max(16)])).describe("texts that end an answer"),
  max_tokens: maybe(z.int().min(0).max(1e6)).describe("of an answer; the context may end it earlier"),
  stream: maybe(z.boolean()).describe("server-sent events"),
  stream_options: maybe(z.strictObject({ include_usage: maybe(z.boolean()) })).describe("with stream"),
  user: maybe(z.string().max(1000)).describe("accepted and not used"),
  ...neutral,
};

const text = z.string().max(4e6);
const role = z.enum(["system", "developer", "user", "assistant"]);
const part = z.strictObject({ type: z.literal("text"), text });
/** What clients send back of an answer's message, where it holds nothing. */
const nothing = z.null().optional().describe("accepted with null only, as it is not supported otherwise");
const no_list = only(z.array(z.never()).max(0), "null or []");
export const messages_schema = z
  .array(
    z
      .strictObject({
        role,
        content: z.union([text, z.array(part).min(1).max(100)]),
        name: maybe(z.string().max(100)).describe("accepted and not used"),
        refusal: nothing,
        audio: nothing,
        function_call: nothing,
        tool_calls: no_list,
        annotations: no_list,
      })
      .transform(({ role, content, name }) => ({ role, content, name })),
  )
  .min(1)
  .max(1000);

export const chat_schema = z
  .strictObject({
    ...sampling,
    messages: messages_schema,
    max_completion_tokens: maybe(z.int().min(1).max(1e6)).describe("the newer name of max_tokens"),
    logprobs: maybe(z.boolean()),
    top_logprobs: maybe(z.int().min(0).max(20)).describe("with logprobs"),
    response_format: only(z.strictObject({ type: z.literal("text") }), '{"type": "text"}'),
    tools: only(z.array(z.never()).max(0), "[]"),
    tool_choice: only(z.literal("none"), '"none"'),
    store: only(z.literal(false), "false"),
  })
  .check(({ value, issues }) => {
    const wrong = (path: string, message: string) =>
      issues.push({ code: "custom", path: [path], message, input: value });
    if (value.stream_options && !value.stream) wrong("stream_options", "expected only with stream: true");
    if (value.top_logprobs !== undefined && !value.logprobs) wrong("top_logprobs", "expected only with logprobs: true");
    if (value.messages.at(-1)?.role !== "user") wrong("messages", "expected the last to be the user's");
    if (value.max_tokens === 0) wrong("max_tokens", "expected 1 or more");
    if (value.max_tokens !== undefined && value.max_completion_tokens !== undefined)
      wrong("max_tokens", "expected either max_tokens or max_completion_tokens");
  });

const token_ids = z
  .array(
    z
      .int()
      .min(0)
      .max(2 ** 31),
  )
  .min(1);
export const completion_schema = z
  .strictObject({
    ...sampling,
    prompt: z
      .union([text.min(1), z.array(text.min(1)).min(1).max(128), token_ids, z.array(token_ids).min(1).max(128)])
      .describe("a text, token ids, or a batch of either"),
    echo: maybe(z.boolean()).describe("begin the answer with the prompt; with logprobs, with the prompt's too"),
    logprobs: maybe(z.int().min(0).max(20)).describe("so many of the likeliest tokens at each place"),
    best_of: only(z.literal(1), "1"),
    suffix: only(z.literal(""), "an empty text"),
  })
  .check(({ value, issues }) => {
    const wrong = (path: string, message: string) =>
      issues.push({ code: "custom", path: [path], message, input: value });
    if (value.stream_options && !value.stream) wrong("stream_options", "expected only with stream: true");
    if (value.max_tokens === 0 && !value.echo) wrong("max_tokens", "expected 1 or more, or echo");
    if (value.max_tokens === 0 && (value.n ?? 1) > 1) wrong("n", "expected 1 with max_tokens 0");
  });

const model = sampling.model.optional();
const language = maybe(z.enum(["en", "ar"])).describe("default: the question's");

export const mcqa_schema = z.strictObject({
  model,
  question: text.min(1),
  options: z.array(text.min(1)).min(2).max(10),
  language,
});

export const tokenize_schema = z
  .strictObject({
    model,
    prompt: text.optional(),
    messages: messages_schema.optional().describe("a conversation, in the model's format, instead of a prompt"),
    add_special_tokens: maybe(z.boolean()).describe("put <s> in front of a prompt; default true"),
  })
  .check(({ value, issues }) => {
    if ((value.prompt === undefined) === (value.messages === undefined))
      issues.push({ code: "custom", path: ["prompt"], message: "expected either prompt or messages", input: value });
  });

export const routing_schema = z.strictObject({ model, prompt: text.min(1) });

/** @throws ApiError 400 that names the first field that is wrong */
export function parse<T extends z.ZodType>(schema: T, body: unknown): z.output<T> {
  if (typeof body !== "object" || body === null || Array.isArray(body))
    throw new ApiError(400, "invalid_body", "The body is not a JSON object.");
  if (Object.hasOwn(body, "__proto__"))
    throw new ApiError(400, "unknown_field", "The field __proto__ is not supported; leave it out.", "__proto__");
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const issue = deepest(parsed.error.issues[0]!);
  const path = issue.path.map(String).join(".");
  if (issue.code === "unrecognized_keys") {
    const name = [...issue.path, issue.keys[0]!].map(String).join(".").slice(0, 100);
    throw new ApiError(400, "unknown_field", `The field ${name} is not supported; leave it out.`, name);
  }
  const name = path || "body";
  throw new ApiError(400, "invalid_value", `${name}: ${issue.message.replace(/^Invalid input: /, "")}.`, path || null);
}

/** Of a union that matched nowhere, what is wrong with the branch that came furthest. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const branches = issue.errors.flatMap((errors) => errors.slice(0, 1)).map(deepest);
  const best = branches.reduce((a, b) => (b.path.length > a.path.length ? b : a), branches[0] ?? issue);
  return { ...best, path: [...issue.path, ...best.path] } as z.core.$ZodIssue;
}
