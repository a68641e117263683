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
  /** float32 `[]`: what the base's share is multiplied by, where an adapter may take its place. Default 1. */
  keep?: Value;
}

export const lora_a_name = (name: string) => `${name.replace(/\.weight$/, "")}.lora_A.weight`;
export const lora_b_name = (name: string) => `${name.replace(/\.weight$/, "")}.lora_B.weight`;
/** Of the inputs with which an adapter takes the place of a tensor: 0 or 1, and of a vector what is added. */
export const keep_name = (name: string) => `${name}.keep`;
export const replacement_name = (name: string) => `${name}.replacement`;

export interface LoraOptions {
  /** The adapter of the tensor `name`, or null where it has none. */
  pair: (name: string) => LoraValues | null;
  /** What is added to the vector `name` after it was multiplied by `keep`, or null. */
  vector?: (name: string) => { keep: Value; added: Value } | null;
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
    const base = this.base.vector(name);
    const change = this.options.vector?.(name);
    return change ? op.add(op.mul(base, change.keep), change.added) : base;
  }

  embedding(name: string, ids: Value): Value {
    const base = this.base.embedding(name, ids);
    const pair = this.options.pair(name);
    return pair ? sum(base, op.matmul(op.gather(pair.b, ids), pair.a, { alpha: pair.scale }), pair.keep) : base;
  }

  linear(name: string, x: Value, role = name): Value {
    return this.products([role], x, () => [this.base.linear(name, x)])[0]!;
  }

  linears(names: readonly string[], x: Value): Value[] {
    return this.products(names, x, () =>
      names.length === 1 ? [this.base.linear(names[0]!, x)] : this.base.linears(names, x),
    );
  }

  private products(names: readonly string[], x: Value, base: () => Value[]): Value[] {
    const { pair, dropout, on_product } = this.options;
    const pairs = names.map(pair);
    const input = dropout && pairs.some((one) => one !== null) ? dropout(x, names) : x;
    // Before the base's products, so that backward, theirs come first and are added before they are rearranged.
    const changes = pairs.map((one) => one && low_rank(input, one));
    return base().map((product, i) => {
      const change = changes[i];
      const result = change ? sum(product, change, pairs[i]!.keep) : product;
      on_product?.(names[i]!, result);
      return result;
    });
  }
}

const sum = (base: Value, change: Value, keep?: Value): Value => op.add(keep ? op.mul(base, keep) : base, change);

function low_rank(x: Value, { a, b, scale }: LoraValues): Value {
  const down = op.matmul(x, a, { transpose_b: true });
  return op.matmul(down, b, { transpose_b: true, alpha: scale });
}
