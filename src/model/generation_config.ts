/**
 * generation_config.json as defaults of `generate`, with the meaning that transformers 5.17 gives to each field. What it cannot
 * mean is left out and told, so that nobody who asks for an answer is refused for what a file says; what would change the answer and is not
 * done here is told by name.
 */
import { join } from "node:path";
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

/** Numbers that are taken as they stand. */
const numbers: Rule[] = [
  ["temperature", (v) => v > 0 && v <= 1e6],
  ["top_k", (v) => integer(v) && v >= 0],
  ["top_p", (v) => v > 0 && v <= 1],
  ["min_p", (v) => v >= 0 && v <= 1],
  ["repetition_penalty", (v) => v > 0 && v <= 1e6],
  ["no_repeat_ngram_size", (v) => integer(v) && v >= 0],
  ["max_new_tokens", (v) => integer(v) && v > 0],
  ["max_length", (v) => integer(v) && v > 0],
  ["min_new_tokens", (v) => integer(v) && v >= 0],
  ["min_length", (v) => integer(v) && v >= 0],
  ["max_time", (v) => v > 0],
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
  const ignored: string[] = [];
  const ignore = (name: string) => void ignored.push(`${name} ${JSON.stringify(given[name])}`);
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
    if (is_list(given[name], integer)) found[name] = (given[name] as number[]).filter(known);
    else ignore(name);
  }
  if ("bad_words_ids" in given) {
    const words = given.bad_words_ids;
    if (is_list(words, (word) => is_list(word, integer) && word.length > 0))
      found.bad_words_ids = (words as number[][]).filter((word) => word.every(known));
    else ignore("bad_words_ids");
  }
  if ("stop_strings" in given) {
    const texts = [given.stop_strings].flat();
    if (texts.every((text) => typeof text === "string" && text !== "")) found.stop_strings = texts;
    else ignore("stop_strings");
  }
  let eos = [given.eos_token_id ?? config.eos_token_id].flat();
  if (!eos.every(integer)) {
    ignore("eos_token_id");
    eos = config.eos_token_id;
  }
  // Temperature 0 asks for the likeliest token, which is what not sampling is.
  if (given.do_sample === true && given.temperature !== 0) found.do_sample = true;

  const applied = new Set(["do_sample", "eos_token_id", ...numbers.map(([name]) => name), ...lists]);
  for (const [name, value] of Object.entries(given)) {
    if (applied.has(name) || WITHOUT_EFFECT.test(name)) continue;
    if (!(not_applied[name] ?? [false, 0, ""]).includes(value) && !(is_list(value) && value.length === 0)) ignore(name);
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

const is_list = (value: unknown, holds: (item: unknown) => boolean = () => true): value is unknown[] =>
  Array.isArray(value) && value.every(holds);
