/** The options of `generate`: transformers' names and meaning, with OpenAI's penalties and `logit_bias`. */
import { BimedixError } from "../errors.js";
import { check_options, type OptionTable } from "./options.js";

const ids = "token ids" as const;

/** What one sequence needs to choose its tokens; the rest concerns a call. */
const of_a_sequence = {
  do_sample: { type: "boolean", meaning: "sample, or take the likeliest token" },
  temperature: { type: "number", least: 0, most: 1e6, meaning: "divides the logits; above 0 where it samples" },
  top_k: { type: "integer", least: 0, meaning: "keep the k likeliest tokens; 0 keeps all" },
  top_p: { type: "number", least: 0, most: 1, meaning: "keep the fewest tokens whose probabilities reach this sum" },
  min_p: { type: "number", least: 0, most: 1, meaning: "keep tokens this probable relative to the likeliest" },
  repetition_penalty: {
    type: "number",
    least: 1e-6,
    most: 1e6,
    meaning: "divides positive and multiplies negative logits of tokens that occurred, prompt included",
  },
  frequency_penalty: {
    type: "number",
    least: -100,
    most: 100,
    meaning: "taken from a token's logit each time that the answer has it already (OpenAI)",
  },
  presence_penalty: {
    type: "number",
    least: -100,
    most: 100,
    meaning: "taken once from the logits of tokens that the answer has already (OpenAI)",
  },
  no_repeat_ngram_size: {
    type: "integer",
    least: 0,
    meaning: "no sequence of so many tokens occurs twice, prompt included; 0 allows all",
  },
  logit_bias: { type: "object", meaning: "added to logits, by token id (OpenAI)" },
  sequence_bias: {
    type: "object",
    meaning: "pairs [token ids, bias]: added to the logit of the token that ends the sequence",
  },
  bad_words_ids: { type: "lists of token ids", meaning: "sequences of tokens that do not occur" },
  suppress_tokens: { type: ids, meaning: "tokens that are never chosen" },
  begin_suppress_tokens: { type: ids, meaning: "tokens that are not chosen first" },
  min_new_tokens: { type: "integer", least: 0, meaning: "no eos_token_id before so many new tokens" },
  max_new_tokens: { type: "integer", least: 1, meaning: "length of the continuation; the context may end it earlier" },
  eos_token_id: { type: ids, nullable: true, meaning: "tokens that end a sequence; null: none does" },
  seed: { type: "integer", meaning: "makes sampling repeatable" },
  top_logprobs: {
    type: "integer",
    least: 0,
    meaning: "gives stream() each token's log-probability, and so many of the likeliest",
  },
  adapter: { type: "text", nullable: true, meaning: "the name of a loaded adapter; null is the base model" },
} as const satisfies OptionTable["options"];

const of_a_call = {
  max_length: { type: "integer", least: 1, meaning: "prompt and continuation together; max_new_tokens goes before it" },
  min_length: { type: "integer", least: 0, meaning: "prompt and continuation together; min_new_tokens goes before it" },
  max_time: { type: "number", above: 0, meaning: "seconds after which no further token is written" },
  num_return_sequences: { type: "integer", least: 1, most: 1024, meaning: "continuations of each prompt, by sampling" },
  stop_strings: { type: "texts", meaning: "texts that end a sequence, and stay in it" },
  stop: { type: "texts", meaning: "another name of stop_strings" },
  generation_config: { type: "object", meaning: "options by name; those given beside it go before it" },
  streamer: {
    type: "streamer",
    meaning: "a TextStreamer, anything with put and end, or a function that is given each token",
  },
  signal: { type: "signal", meaning: "ends the work" },
} as const satisfies OptionTable["options"];

/** transformers' options that do nothing here, because they do nothing there either at these values, or are about its own workings. */
const without_effect: OptionTable["without_effect"] = {
  assistant_confidence_threshold: "any",
  assistant_early_exit: "any",
  assistant_ensemble_weight: "any",
  assistant_lookbehind: "any",
  assistant_model: [],
  bos_token_id: "any",
  cache_config: [],
  cache_implementation: [],
  compile_config: "any",
  constraints: [],
  continuous_batching_config: [],
  custom_generate: [],
  decoder_start_token_id: [],
  disable_compile: "any",
  diversity_penalty: [0],
  dola_layers: [],
  early_stopping: "any",
  encoder_no_repeat_ngram_size: [0],
  encoder_repetition_penalty: [1],
  epsilon_cutoff: [0],
  eta_cutoff: [0],
  exponential_decay_length_penalty: [],
  force_words_ids: [],
  forced_bos_token_id: [],
  forced_decoder_ids: [],
  forced_eos_token_id: [],
  guidance_scale: [1],
  inputs_embeds: [],
  is_assistant: [false],
  is_encoder_decoder: [false],
  length_penalty: "any",
  logits_processor: [[]],
  low_memory: "any",
  max_cache_len: "any",
  max_matching_ngram_size: "any",
  negative_prompt_ids: [],
  num_assistant_tokens: "any",
  num_assistant_tokens_schedule: "any",
  num_beam_groups: [1],
  num_beams: [1],
  output_attentions: [false],
  output_hidden_states: [false],
  output_logits: [false],
  output_scores: [false],
  pad_token_id: "any",
  past_key_values: [],
  penalty_alpha: [0],
  position_ids: [],
  prefill_chunk_size: "any",
  prefix_allowed_tokens_fn: [],
  prompt_lookup_num_tokens: [],
  remove_invalid_values: [false],
  renormalize_logits: "any",
  return_dict_in_generate: [false],
  return_legacy_cache: "any",
  speculation_type: [],
  stopping_criteria: [[]],
  synced_gpus: [false],
  target_lookbehind: "any",
  token_healing: [false],
  token_type_ids: [],
  tokenizer: "any",
  top_h: [],
  transformers_version: "any",
  trust_remote_code: "any",
  typical_p: [1],
  use_cache: "any",
  use_model_defaults: [true],
  use_mtp: [false],
  watermarking_config: [],
};

export const sequence_options: OptionTable = { options: of_a_sequence, without_effect: {} };

const { adapter, top_logprobs } = of_a_sequence;
export const score_options: OptionTable = {
  options: { adapter, top_logprobs, prefix: { type: "integer", least: 0, meaning: "" } },
  without_effect: {},
};
export const forward_options: OptionTable = {
  options: { adapter, output_logits: { type: "boolean", meaning: "" } },
  without_effect: {},
};
export const generation_options: OptionTable = {
  options: { ...of_a_sequence, ...of_a_call },
  without_effect,
  instead: {
    logits_processor: "use logit_bias, sequence_bias, bad_words_ids or suppress_tokens",
    num_beams: "sample several with num_return_sequences",
    output_logits: "use forward(), or stream() with top_logprobs",
    output_scores: "use stream() with top_logprobs",
    return_dict_in_generate: "use stream() with top_logprobs",
    stopping_criteria: "use stop_strings, or leave the loop over stream()",
  },
};

/**
 * Options of `generate` as given by a call, checked; `generation_config` is spread out below what stands beside it.
 *
 * @throws BimedixError bad_option
 */
export function check_generation_options(given: object): Record<string, unknown> {
  const { generation_config, ...own } = check_options(given, generation_options, "generate");
  check_biases(own);
  if (generation_config === undefined) return own;
  // What a configuration's file says of itself begins with an underscore.
  const entries = Object.entries(generation_config as object).filter(([name]) => !name.startsWith("_"));
  return { ...check_generation_options(Object.fromEntries(entries)), ...own };
}

const MOST_BIAS = 1e6;

function check_biases({ logit_bias, sequence_bias }: Record<string, unknown>): void {
  // Minus infinity forbids a token; what float32 takes for infinity in the other direction leaves no distribution.
  const bias = (value: unknown) => typeof value === "number" && value <= MOST_BIAS;
  const id = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  const refuse = (name: string, expected: string) =>
    new BimedixError("bad_option", { given: `another ${name}`, expected, todo: "change it or leave it out" });
  if (
    logit_bias &&
    (Array.isArray(logit_bias) || !Object.entries(logit_bias).every(([key, value]) => /^\d+$/.test(key) && bias(value)))
  )
    throw refuse("logit_bias", `an object of numbers up to ${MOST_BIAS} by token id`);
  const pair = (one: unknown) =>
    Array.isArray(one) &&
    one.length === 2 &&
    Array.isArray(one[0]) &&
    one[0].length > 0 &&
    one[0].every(id) &&
    bias(one[1]);
  if (sequence_bias && !(Array.isArray(sequence_bias) && sequence_bias.every(pair)))
    throw refuse("sequence_bias", "a list of [token ids, number]");
}
