/**
 * Low-rank adaptation (https://arxiv.org/abs/2106.09685): `W x + scale * B A x`, as a layer around any weights. The same
 * layer serves the engine, where an adapter is an input that each call chooses, and the trainer, where it is what is learnt.
 */
import type { Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import type { DecoderWeights } from "./decoder.js";

export interface LoraValues {
  /** float32 `[rank, columns]` */
  a: Value;
  /** float32 `[rows, rank]` */
  b: Value;
  scale: number;
}

export const lora_a_name = (name: string) => `${name.replace(/\.weight$/, "")}.lora_A.weight`;
export const lora_b_name = (name: string) => `${name.replace(/\.weight$/, "")}.lora_B.weight`;

export interface LoraOptions {
  /** The adapter of the tensor `name`, or null where it has none. */
  pair: (name: string) => LoraValues | null;
  /** What goes into the adapters (never into the base) of the tensors `names`, which have one input. Default: the input. */
  dropout?: (x: Value, names: readonly string[]) => Value;
  /** Sees every product with its adapter's share. */
  on_product?: (name: string, product: Value) => void;
}

export class LoraWeights implements DecoderWeights {
  constructor(
    private readonly base: DecoderWeights,
    private readonly options: LoraOptions,
  ) {}

  vector(name: string): Value {
    return this.base.vector(name);
  }

  embedding(name: string, ids: Value): Value {
    return this.base.embedding(name, ids);
  }

  linear(name: string, x: Value): Value {
    return this.linears([name], x)[0]!;
  }

  linears(names: readonly string[], x: Value): Value[] {
    const { pair, dropout, on_product } = this.options;
    const pairs = names.map(pair);
    const input = dropout && pairs.some((one) => one !== null) ? dropout(x, names) : x;
    // Before the base's products, so that backward, theirs come first and are added before they are rearranged.
    const changes = pairs.map((one) => one && low_rank(input, one));
    const products = names.length === 1 ? [this.base.linear(names[0]!, x)] : this.base.linears(names, x);
    return products.map((product, i) => {
      const change = changes[i];
      const sum = change ? op.add(product, change) : product;
      on_product?.(names[i]!, sum);
      return sum;
    });
  }
}

function low_rank(x: Value, { a, b, scale }: LoraValues): Value {
  const down = op.matmul(x, a, { transpose_b: true });
  return op.matmul(down, b, { transpose_b: true, alpha: scale });
}
