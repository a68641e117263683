/** 8-bit rows beside torch's arithmetic. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { dequantize_int8, quantize_int8 } from "../../src/model/int8.js";

test("every value becomes the nearest of 255 levels of its row, and the largest itself", () => {
  const columns = 40;
  const values = Float32Array.from(
    { length: 6 * columns },
    (_, i) => Math.sin(i * i) * 10 ** Math.floor(i / columns - 3),
  );
  values.fill(0, 5 * columns);
  const { codes, scales } = quantize_int8(values, columns);
  const again = dequantize_int8({ codes, scales });
  for (const [row, scale] of scales.entries()) {
    const part = [...values.slice(row * columns, (row + 1) * columns)];
    const largest = Math.max(...part.map(Math.abs));
    assert.ok(Math.abs(scale - largest / 127) <= 1e-7 * largest);
    for (const [i, value] of part.entries())
      assert.ok(Math.abs(again[row * columns + i]! - value) <= scale / 2 + 1e-6 * largest);
  }
  assert.deepEqual(codes.subarray(5 * columns), new Int8Array(columns));
});

test("codes are those of torch.round(values * (127 / absmax))", () => {
  // python3 -c 'import torch; w = torch.tensor([[0.1, -0.25, 0.5, -1.0, 0.333], [3, 2, -1, 0.004, -2.99]]); \
  //   m = w.abs().amax(1, keepdim=True); print(torch.round(w * (127 / m)).int(), m / 127)'
  const values = Float32Array.of(0.1, -0.25, 0.5, -1, 0.333, 3, 2, -1, 0.004, -2.99);
  const { codes, scales } = quantize_int8(values, 5);
  assert.deepEqual([...codes], [13, -32, 64, -127, 42, 127, 85, -42, 0, -127]);
  assert.deepEqual([...scales], [1 / 127, 3 / 127].map(Math.fround));
});
