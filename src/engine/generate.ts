/** What a call of `generate` means to an engine: prompts without padding, lengths in new tokens, and what ends or watches its tokens. */
import { BimedixError } from "../errors.js";
import { StreamingDecoder, type Tokenizer } from "../text/tokenizer.js";
import type { AdapterOption, GeneratedToken, GenerateOptions, SamplingOptions } from "./engine.js";
import { check_generation_options } from "./generation_options.js";
import type { Streamer } from "./streamers.js";

/** Options of `generate`; docs/options.md lists them. Any other is refused by name. */
export interface GenerationConfig extends SamplingOptions, AdapterOption {
  /** Keep the k likeliest tokens when sampling; 0 keeps all. Default: the model's, else 50, as in transformers. */
  top_k?: number;
  /** Length of the continuation; the context's length ends it earlier. Default: the model's, else 256. */
  max_new_tokens?: number;
  /** Prompt and continuation together; `max_new_tokens` goes before it. */
  max_length?: number;
  /** No end before so many new tokens. */
  min_new_tokens?: number;
  /** Prompt and continuation together; `min_new_tokens` goes before it. */
  min_length?: number;
  /** Seconds after which no further token is written. */
  max_time?: number;
  /** Continuations of each prompt, one after the other in the output; above 1 it has to sample. Default 1. */
  num_return_sequences?: number;
  /** null never stops. Default: what generation_config.json or config.json says. */
  eos_token_id?: number | readonly number[] | null;
  /** Accepted, and without effect: nothing is padded. */
  pad_token_id?: number | null;
  /** Only 1. */
  num_beams?: number;
  /** Texts that end a sequence; they stay in the output. */
  stop_strings?: string | readonly string[];
  /** Another name of `stop_strings`. */
  stop?: string | readonly string[];
  /** With each token of `stream`, its log-probability and those of so many of the likeliest. */
  top_logprobs?: number;
}

type Row = ArrayLike<number> | ArrayLike<bigint> | ArrayLike<boolean>;
/** Token ids, or what says of each whether it is seen. */
export type TokenRows = Row | readonly Row[] | { readonly data: Row; readonly dims: readonly number[] };

export interface ModelGenerateOptions extends GenerationConfig {
  /** `[batch, length]`, of different lengths if need be; `[length]` is one prompt. Typed arrays and tensors (`data`, `dims`) are as good. */
  input_ids: TokenRows;
  /** 0 where a token is padding, at the left or between; as `input_ids`. */
  attention_mask?: TokenRows;
  /** Options by name; those beside it go before it, and it goes before the model's own. */
  generation_config?: GenerationConfig;
  /** A `TextStreamer` or its like, of one sequence, or a function that is given every token. */
  streamer?: Streamer | ((token: GeneratedToken) => void);
  signal?: AbortSignal;
}

/** A call, as the engine takes it and as its tokens are followed. */
export interface Call {
  /** Without padding, each as often as it has continuations. */
  prompts: readonly (readonly number[])[];
  /** The same as they were given. */
  rows: readonly (readonly number[])[];
  options: GenerateOptions;
  stop: readonly string[];
  streamer: ModelGenerateOptions["streamer"] | undefined;
  max_time: number;
}

/** @param defaults the model's own generation_config @throws BimedixError bad_option */
export function prepare_call(given: ModelGenerateOptions, defaults: GenerationConfig): Call {
  const { input_ids, inputs = input_ids, attention_mask, ...options } = { ...given } as Record<string, unknown>;
  const rows = to_rows(inputs, "input_ids");
  const mask = attention_mask ? to_rows(attention_mask, "values of attention_mask") : undefined;
  const own = check_generation_options(options) as Omit<ModelGenerateOptions, "input_ids">;
  const unpadded = without_padding(rows, mask);
  const longest = unpadded.reduce((most, { length }) => Math.max(most, length), 0);
  const { max_length: _, min_length: __, stop_strings: its_stops, max_time: its_time, ...model } = defaults;
  const { stop, stop_strings, streamer, num_return_sequences = 1, ...timed } = own;
  const { max_time = its_time ?? Number.POSITIVE_INFINITY, ...rest } = timed;
  const { max_length: ___, min_length: ____, ...whole } = { ...model, ...rest, ...lengths(own, defaults, longest) };
  if (num_return_sequences > 1 && whole.do_sample !== true)
    throw bad_option(
      `num_return_sequences ${num_return_sequences} without do_sample`,
      "1, as all would be the same",
      "set do_sample",
    );
  const several = <T>(list: readonly T[]) => list.flatMap((one) => Array<T>(num_return_sequences).fill(one));
  const prompts = several(unpadded);
  if (streamer && typeof streamer !== "function" && prompts.length > 1)
    throw bad_option(
      `a streamer with put() for ${prompts.length} sequences`,
      "one",
      "give a function, which is told the sequence",
    );
  return {
    prompts,
    rows: several(rows),
    options: whole,
    stop: [stop ?? [], stop_strings ?? (stop === undefined ? its_stops : undefined) ?? []].flat(),
    streamer,
    max_time,
  };
}

/** What the call says goes before what the model's file says, in whichever of its two units. */
function lengths(
  own: GenerationConfig,
  defaults: GenerationConfig,
  longest: number,
): Pick<GenerateOptions, "max_new_tokens" | "min_new_tokens"> {
  const by_call = own.max_new_tokens !== undefined || own.max_length !== undefined;
  const { max_new_tokens, max_length } = by_call ? own : defaults;
  let most = max_new_tokens ?? (max_length === undefined ? undefined : max_length - longest);
  // A file's number is no reason to refuse a prompt.
  if (!by_call && most !== undefined && most < 1) most = undefined;
  if (most !== undefined && most < 1)
    throw bad_option(
      `max_length ${max_length} with a prompt of ${longest} tokens`,
      "more than the prompt has",
      "raise it, or give max_new_tokens",
    );
  const minimum = own.min_new_tokens !== undefined || own.min_length !== undefined ? own : defaults;
  const least = minimum.min_new_tokens ?? (minimum.min_length ?? 0) - longest;
  return { ...(most === undefined ? {} : { max_new_tokens: most }), ...(least > 0 ? { min_new_tokens: least } : {}) };
}

/** Tokens that an answer may have where its request does not say: as the model's file says, else as many as the context has. */
export function answer_length(
  { generation_config, config }: { generation_config: GenerationConfig; config: { max_position_embeddings: number } },
  prompt: number,
): number {
  const { max_new_tokens, max_length = 0 } = generation_config;
  return max_new_tokens ?? (max_length > prompt ? max_length - prompt : config.max_position_embeddings);
}

/**
 * That a mask beside a block of tokens hides none of them.
 * @throws BimedixError bad_option
 */
export function check_no_padding(input_ids: readonly (readonly number[])[], attention_mask: unknown): void {
  if (attention_mask === undefined || attention_mask === null) return;
  const seen = without_padding(input_ids, to_rows(attention_mask, "values of attention_mask"));
  if (seen.some(({ length }, i) => length < input_ids[i]!.length))
    throw bad_option("an attention_mask with zeros", "ones", "call forward for each sequence, without its padding");
}

/** A masked token is not seen and has no position, so it is left out; but what comes after the last token would be read from it. */
function without_padding(
  input_ids: readonly (readonly number[])[],
  mask: readonly (readonly number[])[] | undefined,
): readonly (readonly number[])[] {
  if (!mask) return input_ids;
  if (
    mask.length !== input_ids.length ||
    mask.some((row, i) => row.length !== input_ids[i]!.length || !row.every((value) => value === 0 || value === 1))
  )
    throw bad_option(
      "an attention_mask of another shape than input_ids, or with other values than 0 and 1",
      "one value a token",
      "pass the tokenizer's",
    );
  if (mask.some((row) => row.at(-1) === 0))
    throw bad_option(
      "an attention_mask with padding at the right",
      "padding at the left, or none",
      "set the tokenizer's padding_side to left",
    );
  return input_ids.map((row, i) => row.filter((_, at) => mask[i]![at] === 1));
}

/**
 * A batch in the forms in which programs have it: rows of numbers, 64-bit integers or booleans, typed or not; one row by itself, as
 * `apply_chat_template` gives a conversation's; or a tensor's `data` and `dims`.
 */
function to_rows(value: unknown, name: string): number[][] {
  const row = (one: unknown): number[] | null => {
    if (!Array.isArray(one) && !(ArrayBuffer.isView(one) && !(one instanceof DataView))) return null;
    const values = Array.from(one as ArrayLike<unknown>);
    const plain = values.every((id) => ["number", "bigint", "boolean"].includes(typeof id));
    return plain ? values.map(Number) : null;
  };
  const { data, dims } = (value ?? {}) as { data?: unknown; dims?: unknown };
  if (Array.isArray(dims) && dims.length === 2) {
    const [height, width] = dims as [number, number];
    const all = row(data);
    if (all?.length !== height * width) throw no_batch(name);
    return Array.from({ length: height }, (_, i) => all.slice(i * width, (i + 1) * width));
  }
  const one = row(value);
  if (one && one.length > 0) return [one];
  const rows = Array.isArray(value) && value.length > 0 ? value.map(row) : [null];
  if (!rows.every((ids) => ids !== null)) throw no_batch(name);
  return rows;
}

const no_batch = (name: string) =>
  bad_option(`${name} that are not a batch`, "number[][], as the tokenizer returns", "pass the tokenizer's output");

/** @throws BimedixError bad_option */
export function check_batch(input_ids: unknown): void {
  if (!(Array.isArray(input_ids) && input_ids.length > 0 && input_ids.every(Array.isArray)))
    throw no_batch("input_ids");
}

const bad_option = (given: string, expected: string, todo: string) =>
  new BimedixError("bad_option", { given, expected, todo });

/** Whether a sequence has come to a stop string: one that ends in its newest token, though it may begin in the prompt, as in transformers. */
export class StopWatch {
  private readonly decoder: StreamingDecoder;
  private tail = "";
  private readonly longest: number;

  constructor(
    private readonly tokenizer: Tokenizer,
    prompt: readonly number[],
    private readonly strings: readonly string[],
  ) {
    this.decoder = new StreamingDecoder(tokenizer);
    this.longest = Math.max(...strings.map(({ length }) => length));
    for (const token of prompt) this.push(token);
  }

  /** Whether the token ends a stop string. */
  push(token: number): boolean {
    // Rows that round a vocabulary up to an even number stand for no text.
    if (token >= this.tokenizer.vocab_size) return false;
    const piece = this.decoder.push(token);
    const text = this.tail + piece;
    this.tail = text.slice(-this.longest);
    return piece !== "" && this.strings.some((one) => text.slice(-(piece.length + one.length - 1)).includes(one));
  }
}
