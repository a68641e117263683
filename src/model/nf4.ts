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
  for (let half = 8; half > 0; half /= 2) if (x > BORDERS[code + half - 1]!) code += half;
  return code;
}

/** The values that the codes stand for. */
export function dequantize_nf4({ codes, absmax }: Nf4): Float32Array {
  return Float32Array.from({ length: codes.length * 2 }, (_, i) => {
    const code = i % 2 === 0 ? codes[i / 2]! >> 4 : codes[(i - 1) / 2]! & 15;
    return Math.fround(NF4_LEVELS[code]!) * absmax[Math.floor(i / NF4_BLOCK)]!;
  });
}
