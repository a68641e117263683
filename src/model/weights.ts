/**
 * The weights of a model as the decoder asks for them: by the checkpoint's names, whatever they are stored as.
 * A matrix is float32 (one tensor under its own name), quantised by blocks (`NAME.q4` or `NAME.q8`, and `NAME.scales`) or by rows
 * (`NAME.int8`, and `NAME.scales`), or in NF4.
 */
import { BimedixError } from "../errors.js";
import type { DataType, Graph, TensorBytes, Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import type { DecoderWeights } from "./decoder.js";
import { ABSMAX_CODE, NF4_BLOCK } from "./nf4.js";

export const codes_name = (name: string, bits: 4 | 8) => `${name}.q${bits}`;
export const scales_name = (name: string) => `${name}.scales`;
export const int8_name = (name: string) => `${name}.int8`;
/** uint8 `[rows, columns / 2]` of a matrix in NF4; its largest magnitudes are the scales, or, quantised again, the three parts below. */
export const nf4_name = (name: string) => `${name}.nf4`;
export const double_names = (name: string) => ({
  codes: `${name}.scales.codes`,
  scales: `${name}.scales.scales`,
  offset: `${name}.scales.offset`,
});

export interface StoredTensor {
  dtype: DataType;
  dims: readonly number[];
  bytes: TensorBytes;
}

/** The keys of a converted graph's metadata under which `tensor_table` stands, and the sha256 of that and of the file behind it. */
export const TENSOR_TABLE = "bimedix.tensors";
export const TENSOR_CHECKSUM = "bimedix.sha256";

/** Where each tensor lies in a file of weights, as JSON: the graph beside it joins some, and a reader wants them all. */
export function tensor_table(stored: ReadonlyMap<string, StoredTensor>): string {
  const rows = [...stored].map(([name, { dtype, dims, bytes }]) => {
    if (!("location" in bytes)) throw new TypeError(`${name} is not in a file`);
    return [name, dtype, dims, bytes.offset];
  });
  return JSON.stringify(rows);
}

/** The table of the file `location`, which has `size` bytes. @throws RangeError for what cannot be true */
export function parse_tensor_table(json: string, location: string, size: number): Map<string, StoredTensor> {
  const natural = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
  const rows: unknown = JSON.parse(json);
  if (!Array.isArray(rows)) throw new RangeError("a table that is no list");
  const tensors = new Map<string, StoredTensor>();
  let end = 0;
  for (const row of rows) {
    const [name, dtype, dims, offset] = Array.isArray(row) ? row : [];
    const known = dtype === "float32" || dtype === "uint8" || dtype === "int8";
    if (typeof name !== "string" || !known || !Array.isArray(dims) || !dims.every(natural) || !natural(offset))
      throw new RangeError(`a table with the row ${String(JSON.stringify(row)).slice(0, 100)}`);
    const byte_length = dims.reduce((product, dim) => product * dim, dtype === "float32" ? 4 : 1);
    if (tensors.has(name)) throw new RangeError(`a table with ${name} twice`);
    if (offset < end) throw new RangeError(`${name} begins at byte ${offset}, before byte ${end}, where another ends`);
    end = offset + byte_length;
    if (end > size) throw new RangeError(`${name} ends at byte ${end} of ${size}`);
    tensors.set(name, { dtype, dims, bytes: { location, offset, byte_length } });
  }
  return tensors;
}

/** That a table is the one that the converter writes for a model. @throws RangeError which names the first tensor that is other */
export function compare_tables(
  given: ReadonlyMap<string, StoredTensor>,
  expected: ReadonlyMap<string, StoredTensor>,
): void {
  const text = (tensor: StoredTensor | undefined) =>
    tensor ? `${tensor.dtype}[${tensor.dims}] at byte ${(tensor.bytes as { offset: number }).offset}` : "none";
  for (const name of new Set([...expected.keys(), ...given.keys()])) {
    const [one, other] = [text(given.get(name)), text(expected.get(name))];
    if (one !== other) throw new RangeError(`${name} is ${one}, and by config.json ${other}`);
  }
}

export class Weights implements DecoderWeights {
  private readonly values = new Map<string, Value>();

  /**
   * @param accuracy_level of quantised products: 0 computes in float32; 4 rounds activations to int8 by blocks first,
   * which is what makes prefill fast, and may flip near-ties.
   * @param kind whether tensors are part of the graph, or inputs of it under their names, as in training
   */
  constructor(
    readonly graph: Graph,
    private readonly stored: ReadonlyMap<string, StoredTensor>,
    private readonly accuracy_level: 0 | 4,
    private readonly kind: "part" | "input" = "part",
  ) {}

  vector(name: string): Value {
    return this.value(name);
  }

  /** `x [tokens, columns]` times the transpose of `name [rows, columns]`. */
  linear(name: string, x: Value): Value {
    const weight = this.quantized(name);
    if (weight) return op.linear_quantized(x, weight, this.accuracy_level);
    if (this.stored.has(int8_name(name)))
      return op.linear_int8(x, { codes: this.value(int8_name(name)), scales: this.value(scales_name(name)) });
    const nf4 = this.nf4(name);
    return nf4 ? op.linear_nf4(x, nf4) : op.linear(x, this.value(name));
  }

  /**
   * `linear` for several weights of one `x`. Quantised matrices that lie one behind the other in their file are one matrix:
   * `x` is rounded once, and there is one product to start instead of several.
   */
  linears(names: readonly string[], x: Value): Value[] {
    const stacked = this.stacked(names);
    if (!stacked) return names.map((name) => this.linear(name, x));
    const rows = names.map((name) => this.quantized_dims(name)!.rows);
    const product = op.linear_quantized(x, stacked, this.accuracy_level);
    return op.split(product, -1, this.graph.constant("int64", rows), rows);
  }

  /** The rows `ids` of table `name [rows, columns]`, in float32. */
  embedding(name: string, ids: Value): Value {
    const weight = this.quantized(name);
    if (!weight) return op.gather(this.value(name), ids);
    // The lookup wants the same bytes as a table; a tied output layer reads them as blocks.
    const { rows, columns, bits, block_size } = weight;
    const table = (part: string, width: number) => {
      const { dtype, bytes } = this.stored.get(part)!;
      return this.graph.weight(`${part}.table`, dtype, [rows, width], bytes);
    };
    const codes = table(codes_name(name, bits), (columns * bits) / 8);
    return op.gather_quantized(codes, table(scales_name(name), columns / block_size), ids, columns, bits, block_size);
  }

  private nf4(name: string): op.Nf4Matrix | null {
    const stored = this.stored.get(nf4_name(name));
    if (!stored) return null;
    const [rows, half] = stored.dims as [number, number];
    const shape = { rows, columns: half * 2, block_size: NF4_BLOCK };
    return { ...shape, codes: this.value(nf4_name(name), [rows * half]), absmax: this.absmax(name) };
  }

  /** The largest magnitudes of a matrix in NF4: as stored, or dequantised. */
  private absmax(name: string): Value {
    const parts = double_names(name);
    const stored = this.stored.get(parts.codes);
    if (!stored) return this.value(scales_name(name));
    const { graph } = this;
    const [groups, size] = stored.dims as [number, number];
    const table = graph.constant("float32", ABSMAX_CODE);
    const level = op.gather(table, op.cast(this.value(parts.codes), "int32"));
    const scaled = op.mul(level, this.value(parts.scales, [groups, 1]));
    return op.reshape(op.add(scaled, this.value(parts.offset)), [-1], [groups * size]);
  }

  private quantized(name: string): op.Quantized | null {
    const dims = this.quantized_dims(name);
    return dims && { ...dims, codes: this.value(codes_name(name, dims.bits)), scales: this.value(scales_name(name)) };
  }

  private quantized_dims(name: string): Omit<op.Quantized, "codes" | "scales"> | null {
    for (const bits of [4, 8] as const) {
      const stored = this.stored.get(codes_name(name, bits));
      if (!stored) continue;
      const [rows, blocks, block_bytes] = stored.dims as [number, number, number];
      const block_size = (block_bytes * 8) / bits;
      return { rows, columns: blocks * block_size, bits, block_size };
    }
    return null;
  }

  private stacked(names: readonly string[]): op.Quantized | null {
    const parts = names.map((name) => this.quantized_dims(name));
    const [first] = parts;
    if (!first || parts.some((part) => part?.bits !== first.bits || part.block_size !== first.block_size)) return null;
    const codes = this.joined(names.map((name) => codes_name(name, first.bits)));
    const scales = this.joined(names.map(scales_name));
    return codes && scales && { ...first, rows: codes.dims[0] as number, codes, scales };
  }

  /** Tensors that lie one behind the other in one file, as one: their first dimensions add up. */
  private joined(names: readonly string[]): Value | null {
    const [first, ...rest] = names.map((name) => this.stored.get(name)!);
    if (!first || !("location" in first.bytes)) return null;
    const bytes = { ...first.bytes };
    let length = first.dims[0]!;
    for (const { bytes: next, dims } of rest) {
      if (!("location" in next) || next.location !== bytes.location || next.offset !== bytes.offset + bytes.byte_length)
        return null;
      bytes.byte_length += next.byte_length;
      length += dims[0]!;
    }
    return this.graph.weight(names.join(" + "), first.dtype, [length, ...first.dims.slice(1)], bytes);
  }

  protected value(name: string, dims?: readonly number[]): Value {
    let value = this.values.get(name);
    if (!value) {
      const stored = this.stored.get(name);
      if (!stored) {
        throw new BimedixError("bad_checkpoint", {
          given: `a model without the tensor ${name}`,
          expected: "every weight of the architecture",
          todo: "download or convert the model again",
        });
      }
      const { dtype, dims: own, bytes } = stored;
      const shape = dims ?? own;
      value =
        this.kind === "input" ? this.graph.input(name, dtype, shape) : this.graph.weight(name, dtype, shape, bytes);
      this.values.set(name, value);
    }
    return value;
  }
}
