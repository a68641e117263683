/** Answers in OpenAI's form, whole or as a stream of events, from the tokens that the engine gives. */
import { randomUUID } from "node:crypto";
import type { z } from "zod";
import type { RemoteAssistant } from "../assistant/remote.js";
import { check_generation, check_prompt } from "../engine/checks.js";
import type { Score } from "../engine/engine.js";
import { answer_length } from "../engine/generate.js";
import { asked_sampling } from "../engine/sampler.js";
import { plain_messages } from "../text/chat.js";
import { StreamingDecoder } from "../text/tokenizer.js";
import { ApiError, of_the_stream } from "./api_error.js";
import { bytes_of, chat_logprob, type LoggedToken, TokenBytes, text_logprobs } from "./logprobs.js";
import { type Choice, merged, type Piece, pieces_of, type Served } from "./pieces.js";
import type { chat_schema, completion_schema } from "./requests.js";
import { turn } from "./turns.js";

export type ChatRequest = z.output<typeof chat_schema>;
export type CompletionRequest = z.output<typeof completion_schema>;

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
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
  /** When its first text came, as performance.now() says it; null before. */
  first: number | null;
  /** Whether what is wrong from the start was found when it was made: its stream need not wait to see. */
  checked: boolean;
}

/** So many sequences may one request ask for. */
const MAX_CHOICES = 128;

/** So many log-probabilities of prompts may one answer hold: they are made in the process that all requests share. */
const MAX_PROMPT_LOGPROBS = 2 ** 18;

/** So many biases may the answers of one request have together: each goes to the model with its own. */
const MAX_BIASES = 2 ** 17;

/** The answer of another server, under the name that the model has here. */
export function forwarded_answer(
  path: string,
  request: ChatRequest | CompletionRequest,
  remote: RemoteAssistant,
  signal: AbortSignal,
): Answer {
  const usage: Usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  const answer: Answer = { events: events(), whole, usage, first: null, checked: false };
  const renamed = (event: unknown) => {
    const one = event as { usage?: Partial<Usage> | null; error?: unknown };
    // What it says may hold what was asked, so it is passed on, and not logged.
    if (one.error) throw of_the_stream(one.error);
    answer.first ??= performance.now();
    for (const key of Object.keys(usage) as (keyof Usage)[]) usage[key] = one.usage?.[key] ?? usage[key];
    return { ...one, model: request.model };
  };
  async function* events(): AsyncGenerator<unknown> {
    for await (const event of remote.forward_events(path, request, signal)) yield renamed(event);
  }
  async function whole(): Promise<unknown> {
    return renamed(await remote.forward(path, request, signal));
  }
  return answer;
}

export async function chat_answer(request: ChatRequest, served: Served, signal: AbortSignal): Promise<Answer> {
  const { tokenizer, model } = served.assistant;
  const { continue_final_message: continues = false } = request;
  const text = { messages: plain_messages(request.messages), continue_final_message: continues };
  const [input_ids] = (await served.tokens.of(text, model.config.max_position_embeddings - 1, signal)) as [number[]];
  const max_new_tokens = request.max_completion_tokens ?? request.max_tokens ?? answer_length(model, input_ids.length);
  const top_logprobs = request.logprobs ? (request.top_logprobs ?? 0) : undefined;
  const logprobs = (tokens: readonly LoggedToken[]) => ({
    logprobs:
      top_logprobs === undefined
        ? null
        : { content: tokens.map((token) => chat_logprob(token, top_logprobs, tokenizer)), refusal: null },
  });
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
      continues,
      every_token: false,
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
  const refuse = (what: string) => new ApiError(400, "invalid_value", `prompt and n: at most ${what}.`, "prompt");
  const count = is_batch(request.prompt) ? request.prompt.length : 1;
  if (count * n > MAX_CHOICES) throw refuse(`${MAX_CHOICES} answers in one request`);
  const prompts = await to_prompts(request.prompt, served, max_tokens === 0 ? 0 : 1, signal);
  const prompt_tokens = prompts.reduce((sum, { length }) => sum + length, 0);
  if (request.echo && prompt_tokens * n * (1 + (top_logprobs ?? 0)) > MAX_PROMPT_LOGPROBS)
    throw refuse(`${MAX_PROMPT_LOGPROBS} log-probabilities of prompts (tokens x n x (1 + logprobs)) in one request`);
  for (const prompt of prompts) check_prompt(served.assistant.model.config, prompt, max_tokens === 0 ? 0 : 1);
  const echoes = request.echo ? echo(prompts, served, { top_logprobs, alone: max_tokens === 0 }, signal) : null;
  // It may fail while nobody waits for it, and is asked later.
  echoes?.catch(() => {});
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
      const echo = echoes?.then((all) => all[p]!) ?? null;
      return { input_ids, options, continues: true, every_token: true, echo };
    }),
  );
  return make_answer(request, served, "cmpl-", form, choices, prompt_tokens, signal);
}

type Prompt = CompletionRequest["prompt"];
const is_batch = (prompt: Prompt): prompt is string[] | number[][] =>
  typeof prompt !== "string" && typeof prompt[0] !== "number";

/** @param room tokens that have to fit behind each */
async function to_prompts(
  prompt: Prompt,
  { assistant, tokens }: Served,
  room: number,
  signal: AbortSignal,
): Promise<number[][]> {
  const all = is_batch(prompt) ? prompt : [prompt as string | number[]];
  const texts = all.filter((one) => typeof one === "string");
  const { max_position_embeddings } = assistant.model.config;
  return texts.length > 0 ? tokens.of({ texts }, max_position_embeddings - room, signal) : (all as number[][]);
}

/**
 * The prompts as the beginning of their answers; their tokens are scored where log-probabilities are asked for.
 *
 * @param asked.alone nothing follows, so that bytes at the end wait for no others
 */
async function echo(
  prompts: readonly number[][],
  { assistant, adapter }: Served,
  { top_logprobs, alone }: { top_logprobs: number | undefined; alone: boolean },
  signal: AbortSignal,
): Promise<{ text: string; tokens: LoggedToken[] }[]> {
  const scored = new Map<number, Score>();
  const long = prompts.map((ids, i) => ({ ids, i })).filter(({ ids }) => ids.length > 1);
  if (top_logprobs !== undefined && long.length > 0) {
    const requests = long.map(({ ids }) => ({ context: ids.slice(0, 1), continuation: ids.slice(1) }));
    const scores = await assistant.model.engine.score(requests, { top_logprobs, adapter, signal });
    for (const [at, { i }] of long.entries()) scored.set(i, scores[at]!);
  }
  const echoes: { text: string; tokens: LoggedToken[] }[] = [];
  for (const [i, ids] of prompts.entries()) {
    // A thousand tokens with twenty log-probabilities each take some tens of milliseconds.
    if (top_logprobs !== undefined) await turn();
    const { tokenizer } = assistant;
    const decoder = new StreamingDecoder(tokenizer, { skip_special_tokens: true });
    const tokens = new TokenBytes();
    let text = "";
    for (const [place, token_id] of ids.entries()) {
      const { logprob, top } = scored.get(i)?.tokens?.[place - 1] ?? { logprob: null, top: [] };
      const piece = decoder.push(token_id);
      const bytes = tokenizer.is_special(token_id) ? new Uint8Array() : bytes_of(token_id, tokenizer);
      tokens.push({ token_id, logprob, top, offset: 0, bytes }, piece);
      text += piece;
    }
    const left = alone ? decoder.flush() : "";
    tokens.place(left);
    echoes.push({ text: text + left, tokens: tokens.end() });
  }
  return echoes;
}

function generate_options(
  request: ChatRequest | CompletionRequest,
  { assistant, adapter }: Served,
  number: number,
  { max_new_tokens, top_logprobs }: { max_new_tokens?: number | undefined; top_logprobs?: number | undefined },
): Choice["options"] {
  const { temperature, top_p, top_k, min_p, seed, stop, ignore_eos, n = 1 } = request;
  const given = {
    max_new_tokens,
    min_new_tokens: request.min_tokens,
    top_logprobs,
    top_p,
    top_k,
    min_p,
    repetition_penalty: request.repetition_penalty,
    frequency_penalty: request.frequency_penalty,
    presence_penalty: request.presence_penalty,
    logit_bias: request.logit_bias,
    stop,
    eos_token_id: ignore_eos ? null : undefined,
    seed: seed === undefined ? undefined : seed + number,
    ...asked_sampling({ temperature, top_p, top_k, min_p, seed, several: n > 1 || undefined }),
  };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const { max_length: _, min_length: __, max_time: ___, stop_strings, ...model } = assistant.model.generation_config;
  return { ...model, ...(stop_strings === undefined ? {} : { stop: stop_strings }), ...set, adapter };
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
  const { config } = served.assistant.model;
  const { logit_bias = {} } = request;
  if (choices.length * Object.keys(logit_bias).length > MAX_BIASES)
    throw new ApiError(
      400,
      "invalid_value",
      `logit_bias: at most ${MAX_BIASES} for all answers together.`,
      "logit_bias",
    );
  for (const { input_ids, options } of choices) {
    const { stop: _, ...rest } = options;
    if (rest.max_new_tokens !== 0) check_generation(config, [input_ids], rest);
  }
  const usage: Usage = { prompt_tokens, completion_tokens: 0, total_tokens: prompt_tokens };
  const head = { id: prefix + randomUUID(), created: Math.floor(Date.now() / 1000), model: request.model };
  async function* pieces(): AsyncGenerator<{ from: number; value: Piece }> {
    for await (const one of merged(choices.map((choice) => pieces_of(choice, served, signal)))) {
      answer.first ??= performance.now();
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
    const made = [];
    for (const [index, own] of all.entries()) {
      if (all.length > 1) await turn();
      made.push({ index, ...form.whole(own), finish_reason: own.at(-1)?.finish_reason });
    }
    return { ...head, object: form.object, choices: made, usage };
  };
  const answer: Answer = { events: events(), whole, usage, first: null, checked: true };
  return answer;
}
