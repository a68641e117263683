/**
 * The choice of the next token, in the order and with the meaning of transformers' logits processors
 * (generation/logits_process.py): repetition penalty, then temperature, top-k, top-p and min-p.
 */
import { BimedixError } from "../errors.js";
import type { SamplingOptions, TokenLogprob } from "./engine.js";

/** `(logits) => token`. `seen` holds the tokens that occurred and is kept by the caller. */
export type Sampler = (logits: Float32Array, seen: ReadonlySet<number>) => number;

/** @throws BimedixError bad_option */
export function check_sampling(options: SamplingOptions): void {
  const rules: [keyof SamplingOptions, (value: number) => boolean, string][] = [
    ["temperature", (v) => v > 0 && v <= 1e6, "a number above 0 (for greedy decoding leave do_sample false)"],
    ["top_k", (v) => Number.isSafeInteger(v) && v >= 0, "an integer from 0"],
    ["top_p", (v) => v > 0 && v <= 1, "a number above 0 and at most 1"],
    ["min_p", (v) => v >= 0 && v <= 1, "a number from 0 to 1"],
    ["repetition_penalty", (v) => v > 0 && v <= 1e6, "a number above 0"],
    ["seed", (v) => Number.isSafeInteger(v), "an integer"],
  ];
  for (const [name, holds, expected] of rules) {
    const value: unknown = options[name];
    if (value !== undefined && !(typeof value === "number" && holds(value))) {
      throw new BimedixError("bad_option", {
        given: `${name} ${JSON.stringify(value) ?? String(value)}`,
        expected,
        todo: "change it or leave it out",
      });
    }
  }
}

/** @param stream numbers the sequences of a batch, so that one seed gives each its own randomness. */
export function create_sampler(options: SamplingOptions, stream = 0): Sampler {
  const { do_sample = false, seed } = options;
  const random = generator(seed === undefined ? Math.floor(Math.random() * 2 ** 32) : seed, stream);
  const { repetition_penalty = 1 } = options;
  return (given, seen) => {
    let logits = given;
    if (repetition_penalty !== 1) penalize((logits = given.slice()), seen, repetition_penalty);
    if (!do_sample) return argmax(logits);
    const kept = candidates(logits, options);
    let rest = random() * kept.reduce((sum, { weight }) => sum + weight, 0);
    for (const { token, weight } of kept) {
      rest -= weight;
      if (rest < 0) return token;
    }
    return kept.at(-1)!.token;
  };
}

/** Divides positive and multiplies negative logits of the tokens `seen`, in place. */
export function penalize(logits: Float32Array, seen: Iterable<number>, penalty: number): void {
  for (const token of seen) logits[token]! *= logits[token]! > 0 ? 1 / penalty : penalty;
}

/** The tokens to choose among, likeliest first, with their weights relative to the likeliest (which has 1). */
export function candidates(logits: Float32Array, options: SamplingOptions): { token: number; weight: number }[] {
  const { temperature = 1, top_k = 0, top_p = 1, min_p = 0 } = options;
  const best = logits[argmax(logits)]!;
  // A weight below e^-40 cannot matter, and leaving it out spares the sort most of the vocabulary.
  const floor = best - 40 * temperature;
  const weighed = (token: number) => ({ token, weight: Math.exp((logits[token]! - best) / temperature) });
  let kept: { token: number; weight: number }[] = [];
  if (top_k > 0 && top_k <= FEW) {
    // To sort a whole vocabulary takes longer than a small model's next token.
    kept = largest(logits, top_k)
      .filter((token) => logits[token]! >= floor)
      .map(weighed);
  } else {
    for (let token = 0; token < logits.length; token++) if (logits[token]! >= floor) kept.push(weighed(token));
    kept.sort((a, b) => b.weight - a.weight || a.token - b.token);
    if (top_k > 0) kept = kept.slice(0, top_k);
  }
  if (top_p < 1) {
    const total = kept.reduce((sum, { weight }) => sum + weight, 0);
    let sum = 0;
    kept = kept.slice(0, kept.findIndex(({ weight }) => (sum += weight) >= top_p * total) + 1 || kept.length);
  }
  return min_p > 0 ? kept.filter(({ weight }) => weight >= min_p) : kept;
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

/** The likeliest token, and the logarithm of the sum of the exponentials of all logits. */
export function log_sum_exp(logits: Float32Array): { best: number; total: number } {
  const best = argmax(logits);
  const max = logits[best]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - max);
  return { best, total: max + Math.log(sum) };
}

/** Beyond so many, sorting all is faster than putting each in its place. */
const FEW = 256;

/** The `count` largest in order, ties to the lower index. */
function largest(values: Float32Array, count: number): number[] {
  const top: number[] = [];
  for (let i = 0; i < values.length && count > 0; i++) {
    if (top.length === count && values[i]! <= values[top.at(-1)!]!) continue;
    let at = top.length;
    while (at > 0 && values[i]! > values[top[at - 1]!]!) at--;
    top.splice(at, 0, i);
    if (top.length > count) top.pop();
  }
  return top;
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
  return { logprob: logprob(token_id), top: top.map((token) => ({ token_id: token, logprob: logprob(token) })) };
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
