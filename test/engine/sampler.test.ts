/** The sampler beside transformers' logits processors (tools/make_sampler_fixture.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { SamplingOptions } from "../../src/engine/engine.js";
import { type GenerationConfig, prepare_call } from "../../src/engine/generate.js";
import { create_processors, penalize } from "../../src/engine/processors.js";
import { asked_sampling, candidates, create_sampler } from "../../src/engine/sampler.js";
import { BimedixError } from "../../src/errors.js";
import { max_difference, root } from "../fixtures.js";

interface Fixture {
  logits: number[];
  seen: number[];
  cases: { options: SamplingOptions; probabilities: number[] }[];
  processors: {
    tokens: number[];
    prompt: number;
    eos_token_id: number[];
    /** null is minus infinity. */
    cases: { options: GenerationConfig; length: number; logits: (number | null)[] }[];
  };
}
const fixture = JSON.parse(await readFile(join(root, "test/fixtures/sampler.json"), "utf8")) as Fixture;

function probabilities_of(logits: Float32Array, options: SamplingOptions): Float64Array {
  const { tokens, depths } = candidates(logits, options);
  const total = depths.reduce((sum, depth) => sum + Math.exp(-depth), 0);
  const probabilities = new Float64Array(logits.length);
  for (const [i, token] of tokens.entries()) probabilities[token] = Math.exp(-depths[i]!) / total;
  return probabilities;
}

for (const { options, probabilities } of fixture.cases) {
  test(`${JSON.stringify(options)} keeps what transformers keeps`, () => {
    const logits = Float32Array.from(fixture.logits);
    penalize(logits, new Set(fixture.seen), options.repetition_penalty ?? 1);
    const own = probabilities_of(logits, options);
    assert.ok(max_difference(own, probabilities) < 1e-6);
    assert.deepEqual([...own.keys()].filter((i) => own[i]! > 0).length, probabilities.filter((p) => p > 0).length);
  });
}

for (const { options, length, logits } of fixture.processors.cases) {
  test(`${JSON.stringify(options)} at ${length} tokens changes the logits as transformers does`, () => {
    const { tokens, prompt, eos_token_id } = fixture.processors;
    const input_ids = [tokens.slice(0, prompt)];
    const call = prepare_call({ input_ids, eos_token_id, ...options }, {});
    const processors = create_processors(call.options, prompt);
    // Step by step, as they see a sequence grow.
    let own = new Float32Array();
    for (let at = prompt; at <= length; at++) {
      own = Float32Array.from(fixture.logits);
      for (const process of processors) process(own, tokens.slice(0, at));
    }
    for (const [i, expected] of logits.entries())
      if (expected === null) assert.equal(own[i], Number.NEGATIVE_INFINITY, `token ${i}`);
      else assert.ok(Math.abs(own[i]! - expected) < 1e-5, `token ${i}: ${own[i]} and ${expected}`);
  });
}

test("penalties of OpenAI count the answer's tokens alone; a bias is added", () => {
  const process = create_processors({ frequency_penalty: 0.5, presence_penalty: 0.25, logit_bias: { 3: 2 } }, 2);
  const logits = new Float32Array(5);
  for (const one of process) one(logits, [0, 1, 1, 2, 1]);
  assert.deepEqual([...logits], [0, -1.25, -0.75, 2, 0]);
});

test("what is forbidden is never chosen, and something must be left", () => {
  for (const do_sample of [false, true]) {
    const sample = create_sampler({ do_sample, suppress_tokens: [2], top_k: 3, top_p: 0, seed: 1 }, [0]);
    assert.equal(sample(Float32Array.of(0, 3, 5)), 1);
    assert.throws(
      () => create_sampler({ do_sample, suppress_tokens: [0, 1, 2] }, [0])(Float32Array.of(0, 3, 5)),
      (error) => error instanceof BimedixError && error.code === "bad_option",
    );
  }
});

test("a large vocabulary, flat or steep, keeps what sorting all of it keeps", () => {
  for (const spread of [0, 0.3, 8]) {
    // Ties too: every value occurs about three times.
    const logits = Float32Array.from({ length: 3000 }, (_, i) => spread * Math.sin((i * 7919) % 1009));
    const sorted = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]! || a - b);
    const weight = (token: number) => Math.exp(logits[token]! - logits[sorted[0]!]!);
    const total = sorted.reduce((sum, token) => sum + weight(token), 0);
    for (const top_p of [0.2, 0.9, 0.999]) {
      let sum = 0;
      const nucleus = sorted.slice(0, sorted.findIndex((token) => (sum += weight(token)) >= top_p * total) + 1);
      // Sums in another order differ in their last bits: by one token at most.
      const { tokens } = candidates(logits, { top_p });
      assert.ok(Math.abs(tokens.length - nucleus.length) <= 1, `${tokens.length} and ${nucleus.length}`);
      assert.deepEqual(
        [...tokens].sort((a, b) => logits[b]! - logits[a]! || a - b),
        sorted.slice(0, tokens.length),
      );
    }
    for (const top_k of [1, 50, 2999, 5000]) {
      const { tokens } = candidates(logits, { top_k });
      assert.deepEqual(new Set(tokens), new Set(sorted.slice(0, top_k)));
    }
  }
});

test("draws follow the probabilities", () => {
  const sample = create_sampler({ do_sample: true, seed: 11 });
  const logits = Float32Array.from([0, Math.log(2), Math.log(5), -60]);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < 8000; i++) counts[sample(logits.slice())]!++;
  // Four standard deviations of a binomial with 8,000 draws are below 0.025.
  for (const [i, share] of [1 / 8, 2 / 8, 5 / 8, 0].entries()) assert.ok(Math.abs(counts[i]! / 8000 - share) < 0.025);
});

test("logits that are not finite are an error and never a token", () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    for (const options of [{}, { do_sample: true }, { suppress_tokens: [0] }]) {
      assert.throws(
        () => create_sampler(options)(Float32Array.from([0, bad, 1])),
        (error) => error instanceof BimedixError && error.code === "non_finite_logits",
      );
    }
  }
});

test("who says how to sample gets samples, temperature 0 the likeliest token, and who says nothing what the model's files say", () => {
  assert.deepEqual(asked_sampling({ temperature: 0, top_p: 0.9 }), { do_sample: false });
  assert.deepEqual(asked_sampling({ temperature: 0.5 }), { do_sample: true, temperature: 0.5 });
  assert.deepEqual(asked_sampling({ temperature: undefined, top_p: 0.9 }), { do_sample: true });
  assert.deepEqual(asked_sampling({ temperature: undefined, top_p: undefined }), {});
});
