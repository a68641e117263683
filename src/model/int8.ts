/**
 * Rows of signed 8-bit codes with one float32 scale a row, as in LLM.int8() (https://arxiv.org/abs/2208.07339): value = code * scale.
 * A whole row shares its scale, so that a product with rows of 8-bit activations is one product of integers, which a processor's
 * dot-product instructions compute at three times the speed of float32.
 */

export interface Int8Rows {
  /** `[rows, columns]`, -127 to 127. */
  codes: Int8Array;
  /** `[rows]` */
  scales: Float32Array;
}

/** @param values whole rows */
export function quantize_int8(values: Float32Array, columns: number): Int8Rows {
  const codes = new Int8Array(values.length);
  const scales = new Float32Array(values.length / columns);
  for (const row of scales.keys()) {
    const start = row * columns;
    let largest = 0;
    for (let i = start; i < start + columns; i++) largest = Math.max(largest, Math.abs(values[i]!));
    scales[row] = largest / 127;
    const inverse = largest > 0 ? 127 / largest : 0;
    for (let i = start; i < start + columns; i++) {
      const value = values[i]! * inverse;
      codes[i] = value < 0 ? value - 0.5 : value + 0.5;
    }
  }
  return { codes, scales };
}

/** The values that the codes stand for. */
export function dequantize_int8({ codes, scales }: Int8Rows): Float32Array {
  const columns = codes.length / scales.length;
  return Float32Array.from(codes, (code, i) => code * scales[Math.floor(i / columns)]!);
}
