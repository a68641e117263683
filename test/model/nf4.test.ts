/** NF4 beside ONNX Runtime's bnb4 quantizer (tools/make_nf4_fixture.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import {
  ABSMAX_CODE,
  dequantize_absmax,
  dequantize_nf4,
  NF4_BLOCK,
  NF4_LEVELS,
  quantize_absmax,
  quantize_nf4,
} from "../../src/model/nf4.js";
import { max_difference, root } from "../fixtures.js";

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

test("magnitudes quantised again have bitsandbytes' levels, and take the nearest", async () => {
  const fixture = JSON.parse(await readFile(join(root, "test/fixtures/nf4.json"), "utf8")) as Record<string, number[]>;
  assert.ok(max_difference(ABSMAX_CODE, fixture.absmax_code!) < 1e-7);
  const magnitudes = Float32Array.from(fixture.magnitudes!);
  const again = dequantize_absmax(quantize_absmax(magnitudes)).subarray(0, magnitudes.length);
  assert.ok(max_difference(again, fixture.dequantised!) < 1e-6);
  assert.ok(max_difference(again, magnitudes) < 0.005);
});
