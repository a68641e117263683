/** NF4 beside ONNX Runtime's bnb4 quantizer (tools/make_nf4_fixture.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { dequantize_nf4, NF4_BLOCK, NF4_LEVELS, quantize_nf4 } from "../../src/model/nf4.js";
import { root } from "../fixtures.js";

interface Fixture {
  values: number[];
  codes: number[];
  absmax: number[];
}

test("codes and scales are the bytes of the reference, on the borders too", async () => {
  const fixture = JSON.parse(await readFile(join(root, "test/fixtures/nf4.json"), "utf8")) as Fixture;
  const { codes, absmax } = quantize_nf4(Float32Array.from(fixture.values));
  assert.deepEqual([...absmax], fixture.absmax);
  assert.deepEqual([...codes], fixture.codes);
});

test("every value becomes the nearest level of its block", () => {
  const values = Float32Array.from({ length: 10 * NF4_BLOCK }, (_, i) => Math.sin(i * i) * (1 + (i % 7)));
  const quantized = quantize_nf4(values);
  for (const [i, value] of dequantize_nf4(quantized).entries()) {
    const scale = quantized.absmax[Math.floor(i / NF4_BLOCK)]!;
    const nearest = Math.min(...NF4_LEVELS.map((level) => Math.abs(level * scale - values[i]!)));
    assert.ok(Math.abs(value - values[i]!) <= nearest + 1e-6 * scale);
  }
});
