/**
 * The weights of a model as the decoder asks for them: by the checkpoint's names, whatever they are stored as.
 * A matrix is float32 (one tensor under its own name) or blockwise quantised (`NAME.q4` or `NAME.q8`, and `NAME.scales`).
 */
import { BimedixError } from "../errors.js";
import type { DataType, Graph, TensorBytes, Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";

export const codes_name = (name: string, bits: 4 | 8) => `${name}.q${bits}`;
export const scales_name = (name: string) => `${name}.scales`;

export interface StoredTensor {
  dtype: DataType;
  dims: readonly number[];
  bytes: TensorBytes;
}

export class Weights {
  private readonly values = new Map<string, Value>();

  /**
   * @param accuracy_level of quantised products: 0 computes in float32; 4 rounds activations to int8 by blocks first,
   * which is what makes prefill fast, and may flip near-ties.
   */
  constructor(
    readonly graph: Graph,
    private readonly stored: ReadonlyMap<string, StoredTensor>,
    private readonly accuracy_level: 0 | 4,
  ) {}

  vector(name: string): Value {
    return this.value(name);
  }

  /** A float32 matrix `[rows, columns]` that is never quantised (the router). */
  matrix(name: string): Value {
    return this.value(name);
  }

  /** `x [tokens, columns]` times the transpose of `name [rows, columns]`. */
  linear(name: string, x: Value): Value {
    const weight = this.quantized(name);
    return weight ? op.linear_quantized(x, weight, this.accuracy_level) : op.linear(x, this.value(name));
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

  private quantized(name: string): op.Quantized | null {
    for (const bits of [4, 8] as const) {
      const stored = this.stored.get(codes_name(name, bits));
      if (!stored) continue;
      const [rows, blocks, block_bytes] = stored.dims as [number, number, number];
      const block_size = (block_bytes * 8) / bits;
      const codes = this.value(codes_name(name, bits));
      return { rows, columns: blocks * block_size, bits, block_size, codes, scales: this.value(scales_name(name)) };
    }
    return null;
  }

  private value(name: string): Value {
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
      value = this.graph.weight(name, stored.dtype, stored.dims, stored.bytes);
      this.values.set(name, value);
    }
    return value;
  }
}
