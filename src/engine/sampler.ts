/**
 * The choice of the next token, in the order and with the meaning of transformers' logits processors
 * (generation/logits_process.py): processors, then temperature, top-k, top-p and min-p.
 */
import { BimedixError } from "../errors.js";
import type { GenerateOptions, SamplingOptions, TokenLogprob } from "./engine.js";
import { sequence_options } from "./generation_options.js";
import { check_options } from "./options.js";
import { create_processors } from "./processors.js";

/** Chooses the next token of one sequence from its logits, and remembers it. */
export type Sampler = (logits: Float32Array) => number;

/** @throws BimedixError bad_option */
export function check_sampling(options: GenerateOptions): void {
  const { do_sample, temperature } = check_options(options, sequence_options, "an engine");
  if (do_sample !== true || temperature !== 0) return;
  throw new BimedixError("bad_option", {
    given: "temperature 0 with do_sample true",
    expected: "a number above 0",
    todo: "for the likeliest token set do_sample to false",
  });
}

/**
 * What a person asked for: temperature 0 takes the likeliest token, as on every command line; whoever says anything else about
 * sampling gets samples, also of a model whose own files do not sample; and where nothing is said the model's files decide.
 */
export function asked_sampling({ temperature, ...others }: Readonly<Record<string, unknown>>): SamplingOptions {
  if (temperature === 0) return { do_sample: false };
  if (typeof temperature === "number") return { do_sample: true, temperature };
  return Object.values(others).some((value) => value !== undefined) ? { do_sample: true } : {};
}

/**
 * @param prompt tokens that stand before what is chosen
 * @param stream numbers the sequences of a batch, so that one seed gives each its own randomness
 */
export function create_sampler(options: GenerateOptions, prompt: readonly number[] = [], stream = 0): Sampler {
  const { do_sample = false, seed } = options;
  const random = generator(seed === undefined ? Math.floor(Math.random() * 2 ** 32) : seed, stream);
  const processors = create_processors(options, prompt.length);
  const tokens = processors.length > 0 ? [...prompt] : null;
  const draw = (logits: Float32Array, best: number): number => {
    const kept = candidates(logits, options, best);
    const { weights, total } = weights_of(kept);
    let rest = random() * total;
    let at = 0;
    while (at < weights.length - 1 && (rest -= weights[at]!) >= 0) at++;
    return kept.tokens[at]!;
  };
  return (given) => {
    let best = argmax(given);
    let logits = given;
    if (tokens) {
      logits = given.slice();
      for (const process of processors) process(logits, tokens);
      best = best_of(logits);
    }
    const token = do_sample ? draw(logits, best) : best;
    tokens?.push(token);
    return token;
  };
}

/** Tokens to choose among, and for each how far it is below the likeliest: a probability is in proportion to `exp(-depth)`. */
export interface Candidates {
  tokens: Int32Array;
  depths: Float64Array;
}

/** In nats: what is less likely than the likeliest by e^40 is never drawn. */
const DEEPEST = 40;

/**
 * What temperature, top-k, top-p and min-p leave, in no order. It takes time in proportion to the vocabulary, whatever is left, in
 * loops over typed arrays: done with objects, this is where most of a small model's time for a token goes (docs/log.md).
 */
export function candidates(logits: Float32Array, options: SamplingOptions, likeliest = argmax(logits)): Candidates {
  const { temperature = 1, top_k = 0, top_p = 1, min_p = 0 } = options;
  const best = logits[likeliest]!;
  const few = top_k > 0 && top_k <= FEW;
  const tokens = few ? largest(logits, top_k) : new Int32Array(logits.length);
  const kept: Candidates = { tokens, depths: new Float64Array(tokens.length) };
  for (let i = 0; i < tokens.length; i++) {
    if (!few) tokens[i] = i;
    kept.depths[i] = (best - logits[tokens[i]!]!) / temperature;
  }
  if (top_k > FEW) keep_leading(kept, top_k, () => 1);
  if (top_p < 1) keep_leading(kept, top_p * weights_of(kept).total, (depth) => Math.exp(-depth));
  keep_within(kept, Math.min(DEEPEST, -Math.log(min_p)));
  return kept;
}

function weights_of({ depths }: Candidates): { weights: Float64Array; total: number } {
  const weights = new Float64Array(depths.length);
  let total = 0;
  for (let i = 0; i < depths.length; i++) total += weights[i] = Math.exp(-depths[i]!);
  return { weights, total };
}

function keep_within(kept: Candidates, deepest: number): void {
  const { tokens, depths } = kept;
  let count = 0;
  for (let i = 0; i < depths.length; i++) {
    if (depths[i]! > deepest) continue;
    tokens[count] = tokens[i]!;
    depths[count++] = depths[i]!;
  }
  shorten(kept, count);
}

const BUCKETS = 1024;
const bucket_of = (depth: number) => Math.min(BUCKETS - 1, Math.floor((depth / DEEPEST) * BUCKETS));

/**
 * Keeps the likeliest tokens whose values together reach `goal`; of equal ones those with the lower id. Values are summed up by depth,
 * so only tokens as deep as where the goal lies need sorting.
 */
function keep_leading(kept: Candidates, goal: number, value: (depth: number) => number): void {
  const { tokens, depths } = kept;
  const sums = new Float64Array(BUCKETS);
  for (let i = 0; i < depths.length; i++) sums[bucket_of(depths[i]!)]! += value(depths[i]!);
  let last = 0;
  let reached = 0;
  while (last < BUCKETS - 1 && reached + sums[last]! < goal) reached += sums[last++]!;
  const border: { token: number; depth: number }[] = [];
  let count = 0;
  for (let i = 0; i < depths.length; i++) {
    const [token, depth] = [tokens[i]!, depths[i]!];
    const bucket = bucket_of(depth);
    if (bucket === last) border.push({ token, depth });
    if (bucket >= last) continue;
    tokens[count] = token;
    depths[count++] = depth;
  }
  border.sort((a, b) => a.depth - b.depth || a.token - b.token);
  for (const { token, depth } of border) {
    // The likeliest stays, whatever the goal.
    if (reached >= goal && count > 0) break;
    reached += value(depth);
    tokens[count] = token;
    depths[count++] = depth;
  }
  shorten(kept, count);
}

function shorten(kept: Candidates, count: number): void {
  kept.tokens = kept.tokens.subarray(0, count);
  kept.depths = kept.depths.subarray(0, count);
}

/** The index of the first maximum. @throws BimedixError non_finite_logits */
export function argmax(logits: Float32Array): number {
  let best = 0;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    if (logits[i]! > logits[best]!) best = i;
    sum += logits[i]! - logits[i]!;
  }
  if (sum === 0) return best;
  throw new BimedixError("non_finite_logits", {
    given: "a model that computed NaN or infinite logits",
    expected: "finite numbers",
    todo: "check the weights, or use another dtype",
  });
}

/** The same where some tokens are forbidden. @throws BimedixError bad_option where all are */
function best_of(logits: Float32Array): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  if (logits[best]! > Number.NEGATIVE_INFINITY) return best;
  throw new BimedixError("bad_option", {
    given: "options that forbid every token",
    expected: "one that is left to choose",
    todo: "change suppress_tokens, bad_words_ids or no_repeat_ngram_size",
  });
}

/** The likeliest token, and the logarithm of the sum of the exponentials of all logits. */
export function log_sum_exp(logits: Float32Array): { best: number; total: number } {
  const best = argmax(logits);
  const max = logits[best]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
  return { best, total: max + Math.log(sum) };
}

/** Beyond so many, to count by depth is faster than to put each in its place. */
const FEW = 256;

/** The indices of the `count` largest in order, ties to the lower one. */
function largest(values: Float32Array, count: number): Int32Array {
  const top = new Int32Array(Math.min(count, values.length));
  const found = new Float32Array(top.length);
  let size = 0;
  /** What is not above it has no place any more. */
  let least = top.length > 0 ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value <= least) continue;
    let at = size < top.length ? size++ : size - 1;
    for (; at > 0 && value > found[at - 1]!; at--) {
      found[at] = found[at - 1]!;
      top[at] = top[at - 1]!;
    }
    found[at] = value;
    top[at] = i;
    if (size === top.length) least = found[size - 1]!;
  }
  return top.subarray(0, size);
}

/** The log-probability of a token and the `count` likeliest with theirs, in order, ties to the lower id. */
export function token_logprobs(
  logits: Float32Array,
  token_id: number,
  count: number,
): { logprob: number; top: TokenLogprob[] } {
  const { total } = log_sum_exp(logits);
  const logprob = (token: number) => logits[token]! - total;
  const top = largest(logits, count);
  return {
    logprob: logprob(token_id),
    top: Array.from(top, (token) => ({ token_id: token, logprob: logprob(token) })),
  };
}

/** Uniform numbers in [0, 1): splitmix32, whose state is one integer (https://doi.org/10.1145/2714064.2660195). */
function generator(seed: number, stream: number): () => number {
  let state = (seed ^ Math.imul(stream + 1, 0x9e3779b9)) >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}
