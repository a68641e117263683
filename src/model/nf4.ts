/**
 * NF4, the 4-bit format of QLoRA (https://arxiv.org/abs/2305.14314): a block of values is divided by its largest magnitude, and each
 * becomes the index of the nearest of 16 quantiles of a normal distribution. Levels and borders are those of bitsandbytes
 * (csrc/kernels.cu, dQuantizeNF4), so that its codes and ours are the same bytes.
 */
export const NF4_LEVELS: readonly number[] = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
];

/** A value above border i has at least code i + 1. */
const BORDERS = Float32Array.of(
  -0.8480964004993439,
  -0.6106329262256622,
  -0.4599952697753906,
  -0.33967943489551544,
  -0.23460740596055984,
  -0.13791173323988914,
  -0.045525018125772476,
  0.03979014977812767,
  0.1202552504837513,
  0.2035212516784668,
  0.2920137718319893,
  0.3893125355243683,
  0.5016634166240692,
  0.6427869200706482,
  0.8614784181118011,
);

export const NF4_BLOCK = 64;

export interface Nf4 {
  /** Two codes a byte, the earlier in the upper nibble; `values.length / 2` bytes. */
  codes: Uint8Array;
  /** The largest magnitude of each block of 64. */
  absmax: Float32Array;
}

/** @param values whole blocks, row after row */
export function quantize_nf4(values: Float32Array): Nf4 {
  const absmax = new Float32Array(values.length / NF4_BLOCK);
  const codes = new Uint8Array(values.length / 2);
  for (let block = 0; block < absmax.length; block++) {
    const end = (block + 1) * NF4_BLOCK;
    let largest = 0;
    for (let i = end - NF4_BLOCK; i < end; i++) largest = Math.max(largest, Math.abs(values[i]!));
    absmax[block] = largest;
    const inverse = largest > 0 ? Math.fround(1 / largest) : 0;
    for (let i = end - NF4_BLOCK; i < end; i += 2)
      codes[i / 2] = (code_of(values[i]! * inverse) << 4) | code_of(values[i + 1]! * inverse);
  }
  return { codes, absmax };
}

function code_of(value: number): number {
  // As in float32, in which the borders were drawn.
  const x = Math.fround(value);
  let code = 0;
  for (let half = 8; half >= 1; half /= 2) if (x > BORDERS[code + half - 1]!) code += half;
  return code;
}

/** The values that the codes stand for. */
export function dequantize_nf4({ codes, absmax }: Nf4): Float32Array {
  const levels = Float32Array.from(NF4_LEVELS);
  const values = new Float32Array(codes.length * 2);
  for (let i = 0; i < codes.length; i++) {
    const scale = absmax[Math.floor((2 * i) / NF4_BLOCK)]!;
    values[2 * i] = levels[codes[i]! >> 4]! * scale;
    values[2 * i + 1] = levels[codes[i]! & 15]! * scale;
  }
  return values;
}

/** How many magnitudes share a scale when they are quantised again. */
export const ABSMAX_BLOCK = 256;

/**
 * The 256 levels of double quantisation, ascending: in each decade from 1e-6 to 1 the middles of 1, 2, 4 ... 64 equal parts,
 * of both signs, with 0 and 1. Source: create_dynamic_map in bitsandbytes/functional.py, which computes in float32.
 */
export const ABSMAX_CODE: readonly number[] = (() => {
  const levels = [0, 1];
  for (let decade = 0; decade < 7; decade++) {
    const parts = 2 ** decade;
    for (let i = 0; i < parts; i++) {
      const border = (j: number) => Math.fround(0.1 + (0.9 * j) / parts);
      const middle = Math.fround(Math.fround(border(i) + border(i + 1)) / 2);
      const level = Math.fround(10 ** (decade - 6) * middle);
      levels.push(level, -level);
    }
  }
  return levels.sort((a, b) => a - b);
})();

/** Magnitudes in 8 bits: `level[code] * scale + offset`. Codes are padded to whole blocks. */
export interface DoubleQuantized {
  codes: Uint8Array;
  /** One a block of 256. */
  scales: Float32Array;
  /** The mean, which was taken off first. */
  offset: number;
}

/** Quantises the magnitudes of one matrix, as bitsandbytes does with `compress_statistics`. */
export function quantize_absmax(absmax: Float32Array): DoubleQuantized {
  const offset = Math.fround(absmax.reduce((sum, value) => sum + value, 0) / absmax.length);
  const blocks = Math.ceil(absmax.length / ABSMAX_BLOCK);
  const codes = new Uint8Array(blocks * ABSMAX_BLOCK);
  const scales = new Float32Array(blocks);
  for (let block = 0; block < blocks; block++) {
    const values = absmax.subarray(block * ABSMAX_BLOCK, (block + 1) * ABSMAX_BLOCK).map((value) => value - offset);
    scales[block] = values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    const inverse = scales[block]! > 0 ? 1 / scales[block]! : 0;
    for (const [i, value] of values.entries()) codes[block * ABSMAX_BLOCK + i] = nearest(value * inverse);
  }
  return { codes, scales, offset };
}

/** The index of the nearest level. */
function nearest(value: number): number {
  let low = 0;
  let high = ABSMAX_CODE.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (ABSMAX_CODE[middle]! <= value) low = middle;
    else high = middle;
  }
  return value - ABSMAX_CODE[low]! <= ABSMAX_CODE[high]! - value ? low : high;
}

/** The magnitudes that the codes stand for, padding included. */
export function dequantize_absmax({ codes, scales, offset }: DoubleQuantized): Float32Array {
  return Float32Array.from(
    codes,
    (code, i) => Math.fround(ABSMAX_CODE[code]! * scales[Math.floor(i / ABSMAX_BLOCK)]!) + offset,
  );
}
