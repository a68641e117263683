/** The sampler beside transformers' logits processors (tools/make_sampler_fixture.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import type { SamplingOptions } from "../../src/engine/engine.js";
import { candidates, create_sampler, penalize } from "../../src/engine/sampler.js";
import { BimedixError } from "../../src/errors.js";
import { max_difference, root } from "../fixtures.js";

interface Fixture {
  logits: number[];
  seen: number[];
  cases: { options: SamplingOptions; probabilities: number[] }[];
}
const fixture = JSON.parse(await readFile(join(root, "test/fixtures/sampler.json"), "utf8")) as Fixture;

for (const { options, probabilities } of fixture.cases) {
  test(`${JSON.stringify(options)} keeps what transformers keeps`, () => {
    const logits = Float32Array.from(fixture.logits);
    penalize(logits, new Set(fixture.seen), options.repetition_penalty ?? 1);
    const kept = candidates(logits, options);
    const total = kept.reduce((sum, { weight }) => sum + weight, 0);
    const own = new Float64Array(logits.length);
    for (const { token, weight } of kept) own[token] = weight / total;
    assert.ok(max_difference(own, probabilities) < 1e-6);
    assert.deepEqual([...own.keys()].filter((i) => own[i]! > 0).length, probabilities.filter((p) => p > 0).length);
  });
}

test("draws follow the probabilities", () => {
  const sample = create_sampler({ do_sample: true, seed: 11 });
  const logits = Float32Array.from([0, Math.log(2), Math.log(5), -60]);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < 8000; i++) counts[sample(logits.slice(), new Set())]!++;
  // Four standard deviations of a binomial with 8,000 draws are below 0.025.
  for (const [i, share] of [1 / 8, 2 / 8, 5 / 8, 0].entries()) assert.ok(Math.abs(counts[i]! / 8000 - share) < 0.025);
});

test("logits that are not finite are an error and never a token", () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    for (const options of [{}, { do_sample: true }]) {
      assert.throws(
        () => create_sampler(options)(Float32Array.from([0, bad, 1]), new Set()),
        (error) => error instanceof BimedixError && error.code === "non_finite_logits",
      );
    }
  }
});
