/**
 * generation_config.json as defaults of `generate`, with the meaning that transformers 5.17 gives to each field. A field of another kind
 * (a text where a number belongs) is a damaged file and refused. A value that it cannot mean is left out and told, so that nobody who
 * asks for an answer is refused for what a whole file says; what would change the answer and is not done here is told by name.
 */
import { join } from "node:path";
import { z } from "zod";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";
import { warn } from "../warnings.js";
import type { ModelConfig } from "./config.js";

/** Options of `generate` that a model's file sets. */
export interface GenerationDefaults {
  do_sample?: boolean;
  temperature?: number;
  /** 50 where the file says nothing or null, as in transformers. */
  top_k: number;
  top_p?: number;
  min_p?: number;
  repetition_penalty?: number;
  no_repeat_ngram_size?: number;
  max_new_tokens?: number;
  max_length?: number;
  min_new_tokens?: number;
  min_length?: number;
  max_time?: number;
  stop_strings?: string[];
  bad_words_ids?: number[][];
  suppress_tokens?: number[];
  begin_suppress_tokens?: number[];
  /** The file's, else the configuration's; without what lies outside the vocabulary. */
  eos_token_id: number[];
}

const TOP_K = 50;
/** Keeps the likeliest token alone, as transformers does with 0, and is a top_p that calls may replace. */
const SMALLEST_TOP_P = 1e-9;

/** Fields that change what is generated and are not done here, with the values at which they do nothing. null is always one. */
const not_applied: Record<string, readonly unknown[]> = {
  constraints: [],
  diversity_penalty: [0],
  dola_layers: [],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  exponential_decay_length_penalty: [],
  force_words_ids: [],
  forced_bos_token_id: [],
  forced_eos_token_id: [],
  guidance_scale: [1],
  num_beam_groups: [1],
  num_beams: [1],
  num_return_sequences: [1],
  penalty_alpha: [0],
  sequence_bias: [],
  token_healing: [false],
  top_h: [],
  typical_p: [1],
  watermarking_config: [],
};

/** Fields without effect on what is generated: caches, outputs besides the tokens, faster ways to the same tokens, encoders, padding. */
const WITHOUT_EFFECT =
  /^_|^(assistant_|output_|num_assistant_tokens|encoder_|cache_|use_cache$|return_|compile|disable_compile$|max_cache_len$)|^(bos|pad|decoder_start)_token_id$|^(early_stopping|length_penalty|low_memory|is_assistant|prefill_chunk_size|prompt_lookup_num_tokens|max_matching_ngram_size|speculation_type|use_mtp|target_lookbehind|remove_invalid_values|renormalize_logits|transformers_version|continuous_batching_config|trust_remote_code|chat_format)$/;

type Json = Record<string, unknown>;
type Rule = [name: keyof GenerationDefaults, holds: (value: number) => boolean];
const integer = Number.isSafeInteger;

// NaN is a number too, as in Python.
const number = z.union([z.number(), z.nan(), z.literal([Infinity, -Infinity])], { error: "a number" });
const whole = z.int({ error: "an integer" });
const list = <T extends z.ZodType>(one: T, what: string) => z.array(one, { error: what });
/** What kind of value each field has; null is one that was never set. */
const schema = z
  .looseObject({
    do_sample: z.boolean({ error: "true or false" }),
    temperature: number,
    top_k: whole,
    top_p: number,
    min_p: number,
    repetition_penalty: number,
    no_repeat_ngram_size: whole,
    max_new_tokens: whole,
    max_length: whole,
    min_new_tokens: whole,
    min_length: whole,
    max_time: number,
    suppress_tokens: list(whole, "a list of token ids"),
    begin_suppress_tokens: list(whole, "a list of token ids"),
    bad_words_ids: list(list(whole, "a list of token ids"), "a list of lists of token ids"),
    stop_strings: z.union([z.string(), z.array(z.string())], { error: "a text, or a list of them" }),
    eos_token_id: z.union([whole, z.array(whole)], { error: "a token id, or a list of them" }),
  })
  .partial();

/** Numbers that are taken as they stand. */
const numbers: Rule[] = [
  ["temperature", (v) => v > 0 && v <= 1e6],
  ["top_k", (v) => integer(v) && v >= 0],
  ["top_p", (v) => v > 0 && v <= 1],
  ["min_p", (v) => v >= 0 && v <= 1],
  ["repetition_penalty", (v) => v >= 1e-6 && v <= 1e6],
  ["no_repeat_ngram_size", (v) => integer(v) && v >= 0],
  ["max_new_tokens", (v) => integer(v) && v > 0],
  ["max_length", (v) => integer(v) && v > 0],
  ["min_new_tokens", (v) => integer(v) && v >= 0],
  ["min_length", (v) => integer(v) && v >= 0],
  ["max_time", (v) => v > 0 && Number.isFinite(v)],
];

/** Reads the file of a model's directory; there need not be one. @throws BimedixError bad_config when it is not JSON */
export async function read_generation_config(dir: string, config: ModelConfig): Promise<GenerationDefaults> {
  const file = join(dir, "generation_config.json");
  return parse_generation_config((await read_json(file, "bad_config", true)) ?? {}, config, file);
}

/** @param file names the source in warnings */
export function parse_generation_config(json: Json, config: ModelConfig, file: string): GenerationDefaults {
  // null is what a field says that was never set.
  const given = Object.fromEntries(Object.entries(json).filter(([, value]) => value !== null));
  check_kinds(given, file);
  const ignored: string[] = [];
  const ignore = (name: string) => void ignored.push(`${name} ${JSON.stringify(given[name])}`.slice(0, 100));
  const found: Json = {};
  for (const [name, holds] of numbers) {
    const value = meaning(name, given[name]);
    if (value === undefined) continue;
    if (typeof value === "number" && holds(value)) found[name] = value;
    else ignore(name);
  }
  // The context ends there anyway, and a prompt of that length is refused for its own length.
  if ((found.max_length as number) >= config.max_position_embeddings) delete found.max_length;

  const known = (id: unknown) => integer(id) && (id as number) >= 0 && (id as number) < config.vocab_size;
  for (const name of ["suppress_tokens", "begin_suppress_tokens"] as const) {
    if (!(name in given)) continue;
    found[name] = (given[name] as number[]).filter(known);
  }
  if ("bad_words_ids" in given) {
    const words = given.bad_words_ids as number[][];
    if (words.every(({ length }) => length > 0)) found.bad_words_ids = words.filter((word) => word.every(known));
    else ignore("bad_words_ids");
  }
  if ("stop_strings" in given) {
    const texts = [given.stop_strings].flat();
    if (texts.every((text) => text !== "")) found.stop_strings = texts;
    else ignore("stop_strings");
  }
  const eos = [given.eos_token_id ?? config.eos_token_id].flat();
  // Temperature 0 asks for the likeliest token, which is what not sampling is.
  if (given.do_sample === true && given.temperature !== 0) found.do_sample = true;

  const applied = new Set(["do_sample", "eos_token_id", ...numbers.map(([name]) => name), ...lists]);
  for (const [name, value] of Object.entries(given)) {
    if (applied.has(name) || WITHOUT_EFFECT.test(name)) continue;
    const neutral = Object.hasOwn(not_applied, name) ? not_applied[name]! : [false, 0, ""];
    if (!neutral.includes(value) && !(Array.isArray(value) && value.length === 0)) ignore(name);
  }
  if (ignored.length > 0) warn(`${file}: not applied: ${ignored.join(", ")}.`);
  return { top_k: TOP_K, ...found, eos_token_id: eos.filter(known) as number[] };
}

const lists = ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "stop_strings"];

/** The forms in which a file says "off" or "the likeliest token", as the value that means the same; undefined for nothing. */
function meaning(name: string, value: unknown): unknown {
  if (name === "temperature" && value === 0) return undefined;
  if (name === "top_p" && value === 0) return SMALLEST_TOP_P;
  if (name === "top_k" && value === -1) return 0;
  return value;
}

/** @throws BimedixError bad_config, which names the field and what was expected */
function check_kinds(given: Json, file: string): void {
  const [issue] = schema.safeParse(given).error?.issues ?? [];
  if (!issue) return;
  const field = String(issue.path[0]);
  throw new BimedixError("bad_config", {
    given: `${file}: ${field} ${JSON.stringify(given[field])?.slice(0, 80)}`,
    expected: issue.message,
    todo: "correct the field or take it out",
  });
}
