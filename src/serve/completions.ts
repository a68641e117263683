/** Answers in OpenAI's form, whole or as a stream of events, from the tokens that the engine gives. */
import { randomUUID } from "node:crypto";
import type { z } from "zod";
import type { Assistant } from "../assistant/assistant.js";
import type { RemoteAssistant } from "../assistant/remote.js";
import type { GenerateOptions, Score, TokenLogprob } from "../engine/engine.js";
import { asked_sampling } from "../engine/sampler.js";
import { plain_messages } from "../text/chat.js";
import { StopStrings } from "../text/stop.js";
import { StreamingDecoder, type Tokenizer } from "../text/tokenizer.js";
import { ApiError } from "./api_error.js";
import type { chat_schema, completion_schema } from "./requests.js";

export type ChatRequest = z.output<typeof chat_schema>;
export type CompletionRequest = z.output<typeof completion_schema>;

/** A model as requests name it. */
export interface Served {
  name: string;
  assistant: Assistant;
  adapter: string | null;
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
}

/** A token with its log-probability; null for a prompt's first, which nothing precedes. */
interface LoggedToken {
  token_id: number;
  logprob: number | null;
  top: TokenLogprob[];
  /** Characters of the answer before it. */
  offset: number;
}

/** A piece of an answer: text that is complete, and the tokens that completed it. */
interface Piece {
  text: string;
  tokens: LoggedToken[];
  /** How many tokens were written for it, the one that ends an answer among them; a prompt's own are not. */
  generated: number;
  finish_reason: "stop" | "length" | null;
}

interface Choice {
  input_ids: number[];
  options: GenerateOptions & { stop?: string | readonly string[] };
  /** The answer goes on in the prompt's own text, and does not begin a turn. */
  continues: boolean;
  /** The prompt again, where it is asked for. */
  echo: { text: string; tokens: LoggedToken[] } | null;
}

/** How a kind of answer is written down. */
interface Form {
  object: string;
  chunk_object: string;
  /** What stands in a choice of the whole answer. */
  whole: (pieces: readonly Piece[]) => Record<string, unknown>;
  /** What stands in a choice of an event. */
  part: (piece: Piece, first: boolean) => Record<string, unknown>;
}

/** An answer that is being made: the events of a stream, or everything. */
export interface Answer {
  /** Objects, one an event. */
  events: AsyncGenerator<unknown>;
  whole: () => Promise<unknown>;
  usage: Usage;
}

/** So many sequences may one request ask for. */
const MAX_CHOICES = 128;

/** So many log-probabilities of prompts may one answer hold: they are made in the process that all requests share. */
const MAX_PROMPT_LOGPROBS = 2 ** 20;

/** The answer of another server, under the name that the model has here. */
export function forwarded_answer(
  path: string,
  request: ChatRequest | CompletionRequest,
  remote: RemoteAssistant,
  signal: AbortSignal,
): Answer {
  const usage: Usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  const renamed = (event: unknown) => {
    const one = event as { usage?: Partial<Usage> | null };
    for (const key of Object.keys(usage) as (keyof Usage)[]) usage[key] = one.usage?.[key] ?? usage[key];
    return { ...one, model: request.model };
  };
  async function* events(): AsyncGenerator<unknown> {
    for await (const event of remote.forward_events(path, request, signal)) yield renamed(event);
  }
  return { events: events(), whole: async () => renamed(await remote.forward(path, request, signal)), usage };
}

export function chat_answer(request: ChatRequest, served: Served, signal: AbortSignal): Answer {
  const { tokenizer } = served.assistant;
  const input_ids = tokenizer.apply_chat_template(plain_messages(request.messages));
  const max_new_tokens = request.max_completion_tokens ?? request.max_tokens;
  const top_logprobs = request.logprobs ? (request.top_logprobs ?? 0) : undefined;
  const logprobs = (tokens: readonly LoggedToken[]) =>
    request.logprobs
      ? { logprobs: { content: tokens.map((token) => chat_logprob(token, tokenizer)), refusal: null } }
      : { logprobs: null };
  const form: Form = {
    object: "chat.completion",
    chunk_object: "chat.completion.chunk",
    whole: (pieces) => ({
      message: { role: "assistant", content: pieces.map(({ text }) => text).join(""), refusal: null },
      ...logprobs(pieces.flatMap(({ tokens }) => tokens)),
    }),
    part: ({ text, tokens }, first) => ({
      delta: { ...(first ? { role: "assistant" } : {}), content: text },
      ...logprobs(tokens),
    }),
  };
  const choices = Array.from({ length: request.n ?? 1 }, (_, i): Choice => {
    return {
      input_ids,
      options: generate_options(request, served, i, { max_new_tokens, top_logprobs }),
      continues: false,
      echo: null,
    };
  });
  return make_answer(request, served, "chatcmpl-", form, choices, input_ids.length, signal);
}

export async function completion_answer(
  request: CompletionRequest,
  served: Served,
  signal: AbortSignal,
): Promise<Answer> {
  const { tokenizer } = served.assistant;
  const { logprobs: top_logprobs, max_tokens = 16, n = 1 } = request;
  const prompts = to_prompts(request.prompt, tokenizer);
  const prompt_tokens = prompts.reduce((sum, { length }) => sum + length, 0);
  const refuse = (what: string) => new ApiError(400, "invalid_value", `prompt and n: at most ${what}.`, "prompt");
  if (prompts.length * n > MAX_CHOICES) throw refuse(`${MAX_CHOICES} answers in one request`);
  if (request.echo && prompt_tokens * n * (1 + (top_logprobs ?? 0)) > MAX_PROMPT_LOGPROBS)
    throw refuse(`${MAX_PROMPT_LOGPROBS} log-probabilities of prompts (tokens x n x (1 + logprobs)) in one request`);
  const echoes = request.echo ? await echo(prompts, served, top_logprobs, signal) : null;
  const form: Form = {
    object: "text_completion",
    chunk_object: "text_completion",
    whole: (pieces) => {
      const tokens = pieces.flatMap((piece) => piece.tokens);
      return {
        text: pieces.map(({ text }) => text).join(""),
        logprobs: top_logprobs === undefined ? null : text_logprobs(tokens, tokenizer),
      };
    },
    part: ({ text, tokens }) => ({
      text,
      logprobs: top_logprobs === undefined ? null : text_logprobs(tokens, tokenizer),
    }),
  };
  const choices = prompts.flatMap((input_ids, p) =>
    Array.from({ length: n }, (_, i): Choice => {
      const options = generate_options(request, served, i, { max_new_tokens: max_tokens, top_logprobs });
      return { input_ids, options, continues: true, echo: echoes?.[p] ?? null };
    }),
  );
  return make_answer(request, served, "cmpl-", form, choices, prompt_tokens, signal);
}

function to_prompts(prompt: CompletionRequest["prompt"], tokenizer: Tokenizer): number[][] {
  if (typeof prompt === "string") return [tokenizer.encode(prompt)];
  if (typeof prompt[0] === "number") return [prompt as number[]];
  return (prompt as (string | number[])[]).map((one) => (typeof one === "string" ? tokenizer.encode(one) : one));
}

/** The prompts as the beginning of their answers; their tokens are scored where log-probabilities are asked for. */
async function echo(
  prompts: readonly number[][],
  { assistant, adapter }: Served,
  top_logprobs: number | undefined,
  signal: AbortSignal,
): Promise<{ text: string; tokens: LoggedToken[] }[]> {
  const scored = new Map<number, Score>();
  const long = prompts.map((ids, i) => ({ ids, i })).filter(({ ids }) => ids.length > 1);
  if (top_logprobs !== undefined && long.length > 0) {
    const requests = long.map(({ ids }) => ({ context: ids.slice(0, 1), continuation: ids.slice(1) }));
    const scores = await assistant.model.engine.score(requests, { top_logprobs, adapter, signal });
    for (const [at, { i }] of long.entries()) scored.set(i, scores[at]!);
  }
  return prompts.map((ids, i) => {
    const decoder = new StreamingDecoder(assistant.tokenizer, { skip_special_tokens: true });
    let text = "";
    const tokens = ids.map((token_id, place): LoggedToken => {
      const { logprob, top } = scored.get(i)?.tokens?.[place - 1] ?? { logprob: null, top: [] };
      const offset = text.length;
      text += decoder.push(token_id);
      return { token_id, logprob, top, offset };
    });
    return { text, tokens };
  });
}

function generate_options(
  request: ChatRequest | CompletionRequest,
  { assistant, adapter }: Served,
  number: number,
  { max_new_tokens, top_logprobs }: { max_new_tokens?: number | undefined; top_logprobs?: number | undefined },
): Choice["options"] {
  const { temperature, top_p, top_k, min_p, repetition_penalty, seed, stop, ignore_eos, n = 1 } = request;
  const given = {
    max_new_tokens,
    top_logprobs,
    top_p,
    top_k,
    min_p,
    repetition_penalty,
    stop,
    eos_token_id: ignore_eos ? null : undefined,
    seed: seed === undefined ? undefined : seed + number,
    ...asked_sampling({ temperature, top_p, top_k, min_p, seed, several: n > 1 || undefined }),
  };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { ...assistant.model.generation_config, ...set, adapter };
}

/** The pieces of one answer; the last has a finish_reason. */
async function* pieces_of(
  { input_ids, options, continues, echo }: Choice,
  served: Served,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const { tokenizer, model } = served.assistant;
  const { stop, ...rest } = options;
  const { max_new_tokens, eos_token_id = model.config.eos_token_id } = rest;
  if (echo) yield { ...echo, generated: 0, finish_reason: max_new_tokens === 0 ? "length" : null };
  if (max_new_tokens === 0) return;
  const ends = new Set(eos_token_id === null ? [] : [eos_token_id].flat());
  const decoder = new StreamingDecoder(tokenizer, { skip_special_tokens: true });
  // What the prompt begins, a word or a character, the answer may end.
  if (continues) for (const id of input_ids) decoder.push(id);
  const stops = new StopStrings(stop);
  let offset = echo?.text.length ?? 0;
  let tokens: LoggedToken[] = [];
  let generated = 0;
  const piece = (text: string, finish_reason: Piece["finish_reason"]): Piece => {
    const one = { text, tokens, generated, finish_reason };
    [tokens, generated] = [[], 0];
    return one;
  };
  let finish_reason: Piece["finish_reason"] = "length";
  for await (const { token_id, logprob, top } of model.engine.generate([input_ids], { ...rest, signal })) {
    generated++;
    const ended = ends.has(token_id);
    const has_text = !ended && token_id < tokenizer.vocab_size;
    // lm-evaluation-harness takes all but the last for the prompt's: a text has every token, a message its words'.
    if (has_text || continues) tokens.push({ token_id, logprob: logprob ?? null, top: top ?? [], offset });
    if (ended) {
      finish_reason = "stop";
      break;
    }
    if (!has_text) continue;
    const decoded = decoder.push(token_id);
    offset += decoded.length;
    const text = stops.push(decoded);
    if (stops.found !== null) {
      yield piece(text, "stop");
      return;
    }
    // What is no character yet, or may begin a stop text, goes with the next.
    if (text !== "") yield piece(text, null);
  }
  yield piece(stops.push(decoder.flush()) + stops.flush(), finish_reason);
}

function make_answer(
  request: ChatRequest | CompletionRequest,
  served: Served,
  prefix: string,
  form: Form,
  choices: readonly Choice[],
  prompt_tokens: number,
  signal: AbortSignal,
): Answer {
  const usage: Usage = { prompt_tokens, completion_tokens: 0, total_tokens: prompt_tokens };
  const head = { id: prefix + randomUUID(), created: Math.floor(Date.now() / 1000), model: request.model };
  async function* pieces(): AsyncGenerator<{ from: number; value: Piece }> {
    for await (const one of merged(choices.map((choice) => pieces_of(choice, served, signal)))) {
      usage.completion_tokens += one.value.generated;
      usage.total_tokens += one.value.generated;
      yield one;
    }
  }
  async function* events(): AsyncGenerator<unknown> {
    const began = new Set<number>();
    const with_usage = request.stream_options?.include_usage ?? false;
    for await (const { from, value: piece } of pieces()) {
      const choice = { index: from, ...form.part(piece, !began.has(from)), finish_reason: piece.finish_reason };
      began.add(from);
      yield { ...head, object: form.chunk_object, choices: [choice], ...(with_usage ? { usage: null } : {}) };
    }
    if (with_usage) yield { ...head, object: form.chunk_object, choices: [], usage };
  }
  const whole = async () => {
    const all: Piece[][] = choices.map(() => []);
    for await (const { from, value } of pieces()) all[from]!.push(value);
    return {
      ...head,
      object: form.object,
      choices: all.map((own, index) => ({ index, ...form.whole(own), finish_reason: own.at(-1)?.finish_reason })),
      usage,
    };
  };
  return { events: events(), whole, usage };
}

/** What several generators give, as it comes. Leaving the loop ends all of them. */
async function* merged<T>(generators: readonly AsyncGenerator<T>[]): AsyncGenerator<{ from: number; value: T }> {
  if (generators.length === 1) {
    for await (const value of generators[0]!) yield { from: 0, value };
    return;
  }
  const next = (from: number) => {
    const result = generators[from]!.next().then((result) => ({ from, result }));
    // It may fail while nobody waits for it, and is asked later.
    result.catch(() => {});
    return result;
  };
  const pending = new Map(generators.map((_, from) => [from, next(from)]));
  try {
    while (pending.size > 0) {
      const { from, result } = await Promise.race(pending.values());
      if (result.done) pending.delete(from);
      else {
        pending.set(from, next(from));
        yield { from, value: result.value };
      }
    }
  } finally {
    await Promise.all(generators.map((generator) => generator.return(undefined).catch(() => {})));
  }
}

/** Rows that round a vocabulary up to an even number stand for no text. */
const text_of = (id: number, tokenizer: Tokenizer) => (id < tokenizer.vocab_size ? tokenizer.id_to_text(id) : "");

function chat_logprob({ token_id, logprob, top }: LoggedToken, tokenizer: Tokenizer) {
  const entry = (id: number, value: number | null) => ({
    token: text_of(id, tokenizer),
    logprob: value,
    bytes: id < tokenizer.vocab_size ? [...tokenizer.id_to_bytes(id)] : [],
  });
  return { ...entry(token_id, logprob), top_logprobs: top.map((one) => entry(one.token_id, one.logprob)) };
}

function text_logprobs(tokens: readonly LoggedToken[], tokenizer: Tokenizer) {
  return {
    tokens: tokens.map(({ token_id }) => text_of(token_id, tokenizer)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top, logprob }) =>
      logprob === null ? null : Object.fromEntries(top.map((one) => [text_of(one.token_id, tokenizer), one.logprob])),
    ),
    text_offset: tokens.map(({ offset }) => offset),
  };
}
