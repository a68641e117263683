/** What is wrong with prompts and options, before anything is computed. */
import { BimedixError } from "../errors.js";
import type { ModelConfig } from "../model/config.js";
import type { GenerateOptions } from "./engine.js";
import { named_tokens } from "./processors.js";
import { check_sampling } from "./sampler.js";

type Limits = Pick<ModelConfig, "vocab_size" | "max_position_embeddings">;

/** @throws BimedixError bad_option, empty_prompt, context_length_exceeded, token_out_of_range */
export function check_generation(
  config: Limits,
  prompts: readonly (readonly number[])[],
  { signal: _, ...options }: GenerateOptions,
): void {
  check_sampling(options);
  check_tokens(config, named_tokens(options));
  for (const prompt of prompts) check_prompt(config, prompt, 1);
}

/** @param room tokens that have to fit behind it @throws BimedixError empty_prompt, context_length_exceeded, token_out_of_range */
export function check_prompt(config: Limits, tokens: readonly number[], room: number): void {
  const { max_position_embeddings } = config;
  if (tokens.length === 0) {
    throw new BimedixError("empty_prompt", {
      given: "a prompt without tokens",
      expected: "at least one",
      todo: "give some text, or let the tokenizer add <s>",
    });
  }
  if (tokens.length + room > max_position_embeddings) {
    throw new BimedixError("context_length_exceeded", {
      given: `a prompt of ${tokens.length} tokens`,
      expected: `at most ${max_position_embeddings - room}`,
      todo: "shorten it",
    });
  }
  check_tokens(config, tokens);
}

/** That something is a list, of which each item holds. @throws BimedixError bad_option */
export function check_list(given: unknown, expected: string, holds: (item: unknown) => boolean): void {
  if (Array.isArray(given) && given.every(holds)) return;
  throw new BimedixError("bad_option", { given: "something else", expected, todo: "pass such a list" });
}

/** @throws BimedixError token_out_of_range */
export function check_tokens({ vocab_size }: Limits, tokens: readonly number[]): void {
  const wrong = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocab_size);
  if (wrong !== undefined) {
    throw new BimedixError("token_out_of_range", {
      given: `token id ${String(wrong)}`,
      expected: `0 to ${vocab_size - 1}`,
      todo: "use the tokenizer of this model",
    });
  }
}
