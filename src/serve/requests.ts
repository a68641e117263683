/**
 * What requests may hold. A field that is not here is refused by name, never ignored; `null` stands for a field left out, as in
 * OpenAI's API (https://platform.openai.com/docs/api-reference). The OpenAPI page is made from these schemas.
 */
import { z } from "zod";
import { sequence_options } from "../engine/generation_options.js";
import type { OptionRecord } from "../engine/options.js";
import { nearest } from "../nearest.js";
import { ApiError } from "./api_error.js";

/**
 * A list that is looked at item by item, up to the first that is wrong and once its length is right: zod's own would collect what is wrong
 * with each of a million.
 */
function list<T extends z.ZodType>(item: T, min: number, max: number) {
  const { $schema: _, ...items } = z.toJSONSchema(item, { io: "input", unrepresentable: "any" });
  return sequence<z.output<T>>(items, min, max, (one) => item.safeParse(one));
}

type Looked<T> = z.ZodSafeParseResult<T> | { success: true; data: T };

function sequence<T>(items: object, min: number, max: number, look: (one: unknown) => Looked<T>) {
  const schema = z.unknown().meta({ type: "array", items, ...(min > 0 ? { minItems: min } : {}), maxItems: max });
  return schema.transform((given, { issues }): T[] => {
    const wrong = (message: string) => {
      issues.push({ code: "custom", message, input: given });
      return z.NEVER;
    };
    if (!Array.isArray(given)) return wrong(`expected a list, received ${kind_of(given)}`);
    if (given.length < min) return wrong(`expected ${min} item${min === 1 ? "" : "s"} or more`);
    if (given.length > max)
      return wrong(max === 0 ? "expected [], as it is not supported" : `expected at most ${max} items`);
    const out: T[] = [];
    for (const [i, one] of given.entries()) {
      const looked = look(one);
      if (!looked.success) {
        const [first] = looked.error!.issues;
        issues.push({ ...first!, path: [i, ...first!.path], input: one } as z.core.$ZodRawIssue);
        return z.NEVER;
      }
      out.push(looked.data!);
    }
    return out;
  });
}
const kind_of = (value: unknown) => (value === null ? "null" : typeof value);

/** Any object, whose fields nobody looks at. */
const any_object = z
  .custom<Record<string, unknown>>((value) => typeof value === "object" && value !== null && !Array.isArray(value))
  .meta({ type: "object" });

const maybe = <T extends z.ZodType>(schema: T) =>
  schema
    .nullable()
    .transform((value) => value ?? undefined)
    .optional();

/** A number as the library's own table has it, within what OpenAI's API allows. */
function option(name: keyof typeof sequence_options.options, limits: Pick<OptionRecord, "least" | "most"> = {}) {
  const { type, least, above, most, meaning } = { ...sequence_options.options[name]!, ...limits };
  let schema: z.ZodNumber = type === "integer" ? z.int() : z.number();
  if (least !== undefined) schema = schema.min(least);
  else if (above !== undefined) schema = schema.gt(above);
  if (most !== undefined) schema = schema.max(most);
  return { schema, meaning };
}
const sampled = (name: string, limits: Pick<OptionRecord, "least" | "most"> = {}, more = "") => {
  const { schema, meaning } = option(name, limits);
  return maybe(schema).describe(meaning + more);
};
const OWN = "; not in OpenAI's API";

/** Fields of OpenAI's that clients send, and that change nothing here; they are passed to no other server either. */
const without_effect = <T extends z.ZodType>(schema: T, what = "any value") =>
  maybe(schema)
    .transform(() => undefined)
    .describe(`accepted and without effect${what === "any value" ? "" : `, with ${what} only: no other is supported`}`)
    .optional();
const empty = without_effect(list(z.unknown(), 0, 0), "[]");
const nothing = without_effect(z.null(), "null");
const label = without_effect(z.string().max(1000));

const token_id = z
  .int()
  .min(0)
  .max(2 ** 31);

/** So many tokens may one request make likelier: each is looked at at every step. */
const MAX_BIASES = 2 ** 15;
const biases = z
  .unknown()
  .meta({ type: "object", additionalProperties: { type: "number", minimum: -100, maximum: 100 } })
  .transform((given, { issues }): Record<string, number> => {
    const out: Record<string, number> = {};
    const wrong = (message: string, path: string[] = []) => {
      issues.push({ code: "custom", message, path, input: given });
      return z.NEVER;
    };
    if (kind_of(given) !== "object" || Array.isArray(given))
      return wrong("expected an object of token ids and numbers");
    const entries = Object.entries(given as object);
    if (entries.length > MAX_BIASES) return wrong(`expected at most ${MAX_BIASES} tokens`);
    for (const [id, bias] of entries) {
      if (!/^\d{1,10}$/.test(id)) return wrong("expected token ids", [id.slice(0, 100)]);
      if (!(typeof bias === "number" && bias >= -100 && bias <= 100))
        return wrong("expected a number from -100 to 100", [id]);
      out[Number(id)] = bias;
    }
    return out;
  });

/** Longer ones would be looked for at every token. */
const stop_text = z.string().min(1).max(1000);

const sampling = {
  model: z.string().min(1).max(300).describe("a name that GET /v1/models lists"),
  temperature: maybe(option("temperature", { most: 2 }).schema).describe(
    "0 takes the likeliest token; default: the model's, which samples where top_p, top_k, min_p, seed or n asks for it",
  ),
  top_p: sampled("top_p"),
  // vLLM says -1 where others say 0.
  top_k: maybe(option("top_k", { least: -1, most: 1e6 }).schema.transform((k) => Math.max(0, k))).describe(
    `keep the k likeliest tokens; 0 or -1 keeps all${OWN}`,
  ),
  min_p: sampled("min_p", {}, OWN),
  repetition_penalty: sampled("repetition_penalty", { most: 100 }, OWN),
  frequency_penalty: sampled("frequency_penalty", { least: -2, most: 2 }),
  presence_penalty: sampled("presence_penalty", { least: -2, most: 2 }),
  logit_bias: maybe(biases).describe("added to the logits of tokens, by their ids"),
  min_tokens: maybe(option("min_new_tokens", { most: 1e6 }).schema).describe(`no end before so many tokens${OWN}`),
  ignore_eos: maybe(z.boolean()).describe(`an answer ends at max_tokens alone${OWN}`),
  seed: sampled("seed"),
  n: maybe(z.int().min(1).max(16)).describe("answers to each prompt; default 1"),
  stop: maybe(z.union([stop_text, list(stop_text, 0, 16)])).describe("texts that end an answer"),
  max_tokens: maybe(z.int().min(0).max(1e6)).describe("of an answer; the context may end it earlier"),
  stream: maybe(z.boolean()).describe("server-sent events"),
  stream_options: maybe(
    z.strictObject({ include_usage: maybe(z.boolean()), include_obfuscation: without_effect(z.boolean()) }),
  ).describe("with stream"),
  user: label,
};

/** What OpenAI's chats may hold beside that. */
const of_openai = {
  audio: nothing,
  function_call: without_effect(z.enum(["none", "auto"]), '"none" or "auto"'),
  functions: empty,
  metadata: without_effect(any_object),
  moderation: nothing,
  modalities: without_effect(list(z.literal("text"), 1, 1), '["text"]'),
  parallel_tool_calls: without_effect(z.boolean()),
  prediction: nothing,
  prompt_cache_key: label,
  prompt_cache_options: without_effect(any_object),
  prompt_cache_retention: label,
  reasoning_effort: without_effect(z.literal("none"), '"none"'),
  response_format: without_effect(z.strictObject({ type: z.literal("text") }), '{"type": "text"}'),
  safety_identifier: label,
  service_tier: label,
  store: without_effect(z.boolean()),
  tool_choice: without_effect(z.enum(["none", "auto"]), '"none" or "auto"'),
  tools: empty,
  verbosity: without_effect(z.literal("medium"), '"medium"'),
  web_search_options: nothing,
};

const text = z.string().max(4e6);
const role = z.enum(["system", "developer", "user", "assistant"]);
const part = z.strictObject({ type: z.literal("text"), text });
const message = z
  .strictObject({
    role,
    content: z.union([text, list(part, 1, 100)]),
    name: without_effect(z.string().max(100)),
    // What clients send back of an answer's message, where it holds nothing.
    refusal: nothing,
    audio: nothing,
    function_call: nothing,
    tool_calls: empty,
    annotations: empty,
  })
  .transform(({ role, content }) => ({ role, content }));
export const messages_schema = list(message, 1, 1000);

export const chat_schema = z
  .strictObject({
    ...sampling,
    messages: messages_schema,
    max_completion_tokens: maybe(z.int().min(1).max(1e6)).describe(
      "the newer name of max_tokens; default: the model's generation_config.json, else all that the context has room for",
    ),
    logprobs: maybe(z.boolean()),
    top_logprobs: maybe(z.int().min(0).max(20)).describe("with logprobs"),
    continue_final_message: maybe(z.boolean()).describe(`go on with the last message, the assistant's${OWN}`),
    add_generation_prompt: maybe(z.boolean()).describe(`false with continue_final_message, as vLLM has it${OWN}`),
    ...of_openai,
  })
  .check(({ value, issues }) => {
    const wrong = (path: string, message: string) =>
      issues.push({ code: "custom", path: [path], message, input: value });
    if (value.stream_options && !value.stream) wrong("stream_options", "expected only with stream: true");
    if (value.top_logprobs && !value.logprobs) wrong("top_logprobs", "expected only with logprobs: true");
    const { continue_final_message: continues = false, add_generation_prompt = !continues } = value;
    const last = value.messages.at(-1)?.role;
    if (continues && last !== "assistant") wrong("messages", "expected the last to be the assistant's");
    if (!continues && last !== "user")
      wrong("messages", "expected the last to be the user's, or continue_final_message with the assistant's");
    if (add_generation_prompt === continues)
      wrong("add_generation_prompt", "expected false with continue_final_message, and true without");
    if (value.max_tokens === 0) wrong("max_tokens", "expected 1 or more");
    // In OpenAI's words, and with its code.
    if (value.max_tokens !== undefined && value.max_completion_tokens !== undefined)
      issues.push({
        code: "custom",
        path: ["max_tokens"],
        message: "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported",
        params: { code: "invalid_parameter_combination" },
        input: value,
      });
  });

/** Hundreds of thousands of numbers, so by a test and not by a schema. */
const token_ids = sequence<number>({ type: "integer", minimum: 0 }, 1, 2 ** 20, (one) =>
  typeof one === "number" && Number.isInteger(one) && one >= 0 && one <= 2 ** 31
    ? { success: true, data: one }
    : token_id.safeParse(one),
);
export const completion_schema = z
  .strictObject({
    ...sampling,
    prompt: z
      .union([text.min(1), list(text.min(1), 1, 128), token_ids, list(token_ids, 1, 128)])
      .describe("a text, token ids, or a batch of either"),
    echo: maybe(z.boolean()).describe("begin the answer with the prompt; with logprobs, with the prompt's too"),
    logprobs: maybe(z.int().min(0).max(20)).describe("so many of the likeliest tokens at each place"),
    best_of: without_effect(z.literal(1), "1"),
    suffix: without_effect(z.literal(""), "an empty text"),
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
  options: list(text.min(1), 2, 10),
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
  const shape = schema instanceof z.ZodObject ? schema.shape : {};
  for (const field in body) if (!Object.hasOwn(shape, field)) throw unknown_field(field, Object.keys(shape));
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const issue = deepest(parsed.error.issues[0]!);
  const path = issue.path.map(String).join(".");
  if (issue.code === "unrecognized_keys")
    throw unknown_field([...issue.path, issue.keys[0]!].map(String).join("."), []);
  const name = path || "body";
  const { code = "invalid_value" } = (issue.code === "custom" ? issue.params : undefined) ?? {};
  throw new ApiError(400, code as string, `${name}: ${issue.message.replace(/^Invalid input: /, "")}.`, path || null);
}

function unknown_field(field: string, known: readonly string[]): ApiError {
  const name = field.slice(0, 100);
  const near = nearest(name, known);
  const todo = near === undefined ? "leave it out." : `did you mean ${near}?`;
  return new ApiError(400, "unknown_field", `The field ${name} is not supported; ${todo}`, name);
}

/** Of a union that matched nowhere, what is wrong with the branch that came furthest. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const branches = issue.errors.flatMap((errors) => errors.slice(0, 1)).map(deepest);
  const best = branches.reduce((a, b) => (b.path.length > a.path.length ? b : a), branches[0] ?? issue);
  return { ...best, path: [...issue.path, ...best.path] } as z.core.$ZodIssue;
}
