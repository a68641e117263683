/**
 * Reverse-mode differentiation: to a graph are added the nodes that compute gradients. A rule an operator, in the notation of its
 * mathematics; test/graph/gradient.test.ts checks each alone by finite differences.
 *
 * What a node needs again (probabilities, normalised rows) is read from the forward pass or computed once more, whichever the
 * operator gives; the runtime merges what is computed twice.
 */
import type { Node, Value } from "./graph.js";
import * as op from "./ops.js";

/** A node's inputs' gradients from its outputs'; `needs(i)` says whether input i's is asked for. */
type Rule = (node: Node, outputs: (Value | undefined)[], needs: (input: number) => boolean) => (Value | null)[];

/**
 * The gradients of a scalar with respect to `wanted`, from those with respect to `seeds`, which later parts of a model
 * computed. A wanted value that no seed depends on has none.
 *
 * @throws TypeError for an operator without a rule
 */
export function gradients(seeds: ReadonlyMap<Value, Value>, wanted: readonly Value[]): Map<Value, Value> {
  const [first] = seeds.keys();
  const nodes = first ? [...first.graph.nodes] : [];
  const depends = new Set(wanted);
  for (const { inputs, outputs } of nodes) {
    if (!inputs.some((input) => input && depends.has(input))) continue;
    for (const output of outputs) if (output.dtype === "float32") depends.add(output);
  }
  const found = new Map(seeds);
  const give = (value: Value, gradient: Value) => {
    const before = found.get(value);
    found.set(value, before ? sum(before, gradient) : gradient);
  };
  for (const node of nodes.reverse()) {
    const outputs = node.outputs.map((output) => found.get(output));
    const needs = (i: number) => node.inputs[i] != null && depends.has(node.inputs[i]);
    if (outputs.every((gradient) => !gradient) || !node.inputs.some((_, i) => needs(i))) continue;
    if (node.adjoint) {
      const { of, gradient } = node.adjoint;
      if (depends.has(of)) give(of, gradient(outputs[0]!));
      continue;
    }
    const rule = rules[node.op_type];
    if (!rule) throw new TypeError(`${node.op_type} has no derivative here`);
    for (const [i, gradient] of rule(node, outputs, needs).entries()) {
      const input = node.inputs[i];
      if (!gradient || !input || !needs(i)) continue;
      give(input, gradient);
    }
  }
  return new Map(wanted.flatMap((value) => (found.has(value) ? [[value, found.get(value)!]] : [])));
}

const maker = (value: Value): Node | undefined => value.graph.maker(value);

/** `a + b`; where both end in the same rearrangement, that is done once, after adding. */
function sum(a: Value, b: Value): Value {
  const [made_a, made_b] = [maker(a), maker(b)];
  const moves = made_a?.op_type === "Reshape" || made_a?.op_type === "Transpose";
  const [from_a, from_b] = [made_a?.inputs[0], made_b?.inputs[0]];
  const alike =
    moves &&
    made_a.op_type === made_b?.op_type &&
    made_a.inputs[1] === made_b.inputs[1] &&
    JSON.stringify([made_a.attributes, from_a!.dims]) === JSON.stringify([made_b.attributes, from_b!.dims]);
  if (!alike) return op.add(a, b);
  const { inputs, attributes } = made_a;
  const total = sum(from_a!, from_b!);
  return made_a.op_type === "Reshape"
    ? op.reshape(total, inputs[1]!, a.dims)
    : op.transpose(total, attributes.perm as number[]);
}

const scalar = (like: Value, value: number) => like.graph.constant("float32", [value], []);
const negative = (x: Value) => op.mul(x, scalar(x, -1));
/** Sums a gradient over what broadcasting repeated. */
function reduced(gradient: Value, like: Value): Value {
  let sum = gradient;
  while (sum.dims.length > like.dims.length) sum = op.reduce_sum(sum, 0, false);
  for (const [axis, dim] of like.dims.entries()) if (dim === 1 && sum.dims[axis] !== 1) sum = op.reduce_sum(sum, axis);
  return sum;
}

/** Only where it is needed. */
const maybe = (needed: boolean, make: () => Value): Value | null => (needed ? make() : null);

/** Through `weight * x / rms(x)`: for x, and for the weight. Source: the quotient rule; https://arxiv.org/abs/1910.07467 */
function through_rms_norm(x: Value, weight: Value, epsilon: number, gradient: Value): { x: Value; weight: Value } {
  const size = x.dim(-1) as number;
  const mean = (value: Value) => op.mul(op.reduce_sum(value, -1), scalar(value, 1 / size));
  const rms = op.sqrt(op.add(mean(op.mul(x, x)), scalar(x, epsilon)));
  const normed = op.div(x, rms);
  const scaled = op.mul(gradient, weight);
  const along = op.mul(normed, mean(op.mul(scaled, normed)));
  return { x: op.div(op.sub(scaled, along), rms), weight: reduced(op.mul(gradient, normed), weight) };
}

/** Through `alpha * a b`, either factor transposed or not. A factor that is shared by a batch sums over it. */
function through_product(
  { inputs: [a, b] }: Node,
  g: Value,
  needs: (input: number) => boolean,
  alpha: number,
  transpose_a: boolean,
  transpose_b: boolean,
): (Value | null)[] {
  const left = () =>
    transpose_a
      ? op.matmul(b!, g, { transpose_a: transpose_b, transpose_b: true, alpha })
      : op.matmul(g, b!, { transpose_b: !transpose_b, alpha });
  const right = () =>
    transpose_b
      ? op.matmul(g, a!, { transpose_a: true, transpose_b: transpose_a, alpha })
      : op.matmul(a!, g, { transpose_a: !transpose_a, alpha });
  return [maybe(needs(0), () => reduced(left(), a!)), maybe(needs(1), () => reduced(right(), b!))];
}

const epsilon_of = ({ attributes }: Node) => (attributes.epsilon as { float: number }).float;

const rules: Record<string, Rule> = {
  Add: ({ inputs: [a, b] }, [g]) => [reduced(g!, a!), reduced(g!, b!)],
  Sub: ({ inputs: [a, b] }, [g], needs) => [reduced(g!, a!), maybe(needs(1), () => reduced(negative(g!), b!))],
  Mul: ({ inputs: [a, b] }, [g], needs) => [
    maybe(needs(0), () => reduced(op.mul(g!, b!), a!)),
    maybe(needs(1), () => reduced(op.mul(g!, a!), b!)),
  ],
  Div: ({ inputs: [a, b], outputs: [y] }, [g], needs) => [
    maybe(needs(0), () => reduced(op.div(g!, b!), a!)),
    maybe(needs(1), () => reduced(negative(op.div(op.mul(g!, y!), b!)), b!)),
  ],
  // x * sigmoid(x)
  QuickGelu: ({ inputs: [x], outputs: [y] }, [g]) => {
    const s = op.sigmoid(x!);
    return [op.mul(g!, op.add(s, op.sub(y!, op.mul(y!, s))))];
  },
  LogSoftmax: ({ outputs: [y] }, [g]) => {
    // Of a loss, the gradient is zero but for one entry a row: that one is added last, without a matrix of zeros.
    const made = maker(g!);
    const [, indices, entries] = made?.op_type === "ScatterElements" ? made.inputs : [];
    const spread = op.mul(op.exp(y!), negative(op.reduce_sum(entries ?? g!, -1)));
    return [entries ? op.add_last(spread, indices!, entries) : op.add(g!, spread)];
  },
  GatherElements: ({ inputs: [x, indices] }, [g]) => [op.scatter_last(x!, indices!, g!), null],
  Softmax: ({ outputs: [y] }, [g]) => [op.mul(y!, op.sub(g!, op.reduce_sum(op.mul(g!, y!), -1)))],
  ReduceSum: ({ inputs: [x, axes], attributes }, [g]) => {
    const [axis] = x!.graph.integers(axes!)!;
    const at = axis! < 0 ? axis! + x!.dims.length : axis!;
    return [op.expand_like(attributes.keepdims === 1 ? g! : op.unsqueeze(g!, at), x!)];
  },
  MatMul: (node, [g], needs) => through_product(node, g!, needs, 1, false, false),
  FusedMatMul: (node, [g], needs) => {
    const { alpha, transA, transB } = node.attributes as { alpha: { float: number }; transA: number; transB: number };
    return through_product(node, g!, needs, alpha.float, transA === 1, transB === 1);
  },
  // x times the transpose of the weight
  Gemm: (node, [g], needs) => through_product(node, g!, needs, 1, false, true),
  // The codes are not differentiable.
  MatMulBnb4: ({ inputs: [, codes, absmax], attributes }, [g]) => {
    const { N: rows, K: columns, block_size } = attributes as Record<string, number>;
    return [
      op.matmul_nf4(g!, { rows: rows!, columns: columns!, block_size: block_size!, codes: codes!, absmax: absmax! }),
    ];
  },
  Gather: ({ inputs: [x, indices], attributes }, [g]) => {
    if (attributes.axis !== 0) throw new TypeError("Gather has a derivative here along axis 0 only");
    return [op.scatter_rows(x!, indices!, g!), null];
  },
  Reshape: ({ inputs: [x] }, [g]) => [op.reshape(g!, op.shape_of(x!), x!.dims), null],
  Transpose: ({ attributes }, [g]) => {
    const perm = attributes.perm as readonly number[];
    return [
      op.transpose(
        g!,
        perm.map((_, axis) => perm.indexOf(axis)),
      ),
    ];
  },
  Concat: ({ inputs, attributes }, [g]) => {
    const axis = attributes.axis as number;
    const at = axis < 0 ? axis + g!.dims.length : axis;
    const lengths = inputs.map((input) => op.length_of(input!, at));
    const dims = inputs.map((input) => input!.dim(at));
    return op.split(g!, at, op.concat(lengths, 0, lengths.length), dims);
  },
  Split: ({ inputs: [x], outputs, attributes }, gradient) => {
    const axis = attributes.axis as number;
    const parts = outputs.map((output, i) => gradient[i] ?? op.zeros_like(output));
    return [op.concat(parts, axis, x!.dim(axis)), null];
  },
  TopK: ({ inputs: [x], outputs: [, indices] }, [g]) => [g ? op.scatter_last(x!, indices!, g) : null, null],
  SimplifiedLayerNormalization: (node, [g]) => {
    const [x, weight] = node.inputs;
    const through = through_rms_norm(x!, weight!, epsilon_of(node), g!);
    return [through.x, through.weight];
  },
  SkipSimplifiedLayerNormalization: (node, [normed, , , sum]) => {
    const through = normed && through_rms_norm(node.outputs[3]!, node.inputs[2]!, epsilon_of(node), normed);
    const both = through && sum ? op.add(through.x, sum) : (through?.x ?? sum ?? null);
    return [both, both, through?.weight ?? null];
  },
  // A rotation's derivative is the rotation back.
  RotaryEmbedding: ({ inputs: [, positions, cos, sin] }, [g]) => [
    op.rotary(g!, positions!, cos!, negative(sin!)),
    null,
    null,
    null,
  ],
};
