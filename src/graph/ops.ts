/**
 * The operators that the decoder is written in, one function each: element types and dimensions are checked
 * where the graph is built. Standard operators: https://onnx.ai/onnx/operators/ ; the contrib ones (`MICROSOFT`):
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 */
import { type DataType, type Dim, data_types, Graph, MICROSOFT, type Value } from "./graph.js";

type Attributes = Parameters<Value["graph"]["node"]>[3];

function single(
  op: string,
  inputs: (Value | null)[],
  dims: readonly Dim[],
  {
    dtype = inputs[0]!.dtype,
    attributes = {},
    domain = "",
  }: { dtype?: DataType; attributes?: Attributes; domain?: string } = {},
): Value {
  return inputs[0]!.graph.node(op, inputs, [{ dtype, dims }], attributes, domain)[0]!;
}

/** Says what the gradient of `of` is, given that of `value`, the result of the newest node, which is computed from it. */
function with_adjoint(value: Value, of: Value, gradient: (gradient: Value) => Value): Value {
  value.graph.nodes.at(-1)!.adjoint = { of, gradient };
  return value;
}

function fail(op: string, inputs: (Value | null)[], why: string): never {
  throw new TypeError(`${op}(${inputs.join(", ")}): ${why}`);
}

function same(op: string, inputs: Value[], a: Dim, b: Dim): void {
  if (a !== b) fail(op, inputs, `dimensions ${a} and ${b} differ`);
}

/** Numpy broadcasting; a named dimension equals only itself and 1. */
function broadcast_dims(op: string, inputs: Value[], a: readonly Dim[], b: readonly Dim[]): Dim[] {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const x = a[i - rank + a.length] ?? 1;
    const y = b[i - rank + b.length] ?? 1;
    if (x !== y && x !== 1 && y !== 1) fail(op, inputs, `cannot broadcast ${x} with ${y}`);
    return x === 1 ? y : x;
  });
}

function broadcast(op: string, a: Value, b: Value): Dim[] {
  if (a.dtype !== b.dtype) fail(op, [a, b], "element types differ");
  return broadcast_dims(op, [a, b], a.dims, b.dims);
}

const binary = (op: string) => (a: Value, b: Value) => single(op, [a, b], broadcast(op, a, b));
const unary = (op: string) => (x: Value) => single(op, [x], x.dims);

export const add = binary("Add");
export const sub = binary("Sub");
export const mul = binary("Mul");
export const div = binary("Div");
export const sqrt = unary("Sqrt");
export const sigmoid = unary("Sigmoid");
export const exp = unary("Exp");
export const cos = unary("Cos");
export const sin = unary("Sin");

/** int64 `[n, depth]`: 1 where the column is the row's index, from `indices` int64 `[n]`. */
export function one_hot(indices: Value, depth: number): Value {
  const constant = (...values: number[]) => indices.graph.constant("int64", values);
  return single("OneHot", [indices, constant(depth), constant(0, 1)], [...indices.dims, depth]);
}

/** Element-wise `a > b`, as bool. */
export const greater = (a: Value, b: Value) => single("Greater", [a, b], broadcast("Greater", a, b), { dtype: "bool" });
export const and = binary("And");

/** `a` where `condition` holds and `b` elsewhere, for scalars or vectors of one element. */
export const where = (condition: Value, a: Value, b: Value) =>
  single("Where", [condition, a, b], condition.dims, { dtype: a.dtype });

export function cast(x: Value, dtype: DataType): Value {
  return x.dtype === dtype ? x : single("Cast", [x], x.dims, { dtype, attributes: { to: data_types[dtype] } });
}

/** `x * sigmoid(x)`: QuickGelu is `x * sigmoid(alpha x)`, one kernel where Sigmoid and Mul would be two. */
export const silu = (x: Value) =>
  single("QuickGelu", [x], x.dims, { attributes: { alpha: { float: 1 } }, domain: MICROSOFT });

export const softmax = (x: Value) => single("Softmax", [x], x.dims, { attributes: { axis: -1 } });

export const log_softmax = (x: Value) => single("LogSoftmax", [x], x.dims, { attributes: { axis: -1 } });

/** Of every row of `x [rows, n]`, the entries at `indices` int64 `[rows, k]`: `[rows, k]`. */
export const gather_last = (x: Value, indices: Value) =>
  single("GatherElements", [x, indices], indices.dims, { attributes: { axis: -1 } });

/** The sum over `axis`, which stays as 1 unless `keepdims` is false. */
export function reduce_sum(x: Value, axis: number, keepdims = true): Value {
  const at = axis < 0 ? axis + x.dims.length : axis;
  const dims = keepdims ? x.dims.with(at, 1) : x.dims.toSpliced(at, 1);
  return single("ReduceSum", [x, x.graph.constant("int64", [axis])], dims, {
    attributes: { keepdims: Number(keepdims) },
  });
}

/**
 * `[..., M, K] x [..., K, N]`, the leading dimensions broadcast; `transpose_a` takes a as `[..., K, M]`, `transpose_b` takes b as
 * `[..., N, K]`, and the product is multiplied by `alpha`.
 */
export function matmul(a: Value, b: Value, { transpose_a = false, transpose_b = false, alpha = 1 } = {}): Value {
  same("MatMul", [a, b], a.dim(transpose_a ? -2 : -1), b.dim(transpose_b ? -1 : -2));
  const batch = broadcast_dims("MatMul", [a, b], a.dims.slice(0, -2), b.dims.slice(0, -2));
  const dims = [...batch, a.dim(transpose_a ? -1 : -2), b.dim(transpose_b ? -2 : -1)];
  if (!transpose_a && !transpose_b && alpha === 1) return single("MatMul", [a, b], dims);
  const attributes = { transA: Number(transpose_a), transB: Number(transpose_b), alpha: { float: alpha } };
  return single("FusedMatMul", [a, b], dims, { attributes, domain: MICROSOFT });
}

/** `x [M, K]` times the transpose of `weight [N, K]`, the way every checkpoint stores a linear layer. */
export function linear(x: Value, weight: Value): Value {
  same("Gemm", [x, weight], x.dim(1), weight.dim(1));
  return single("Gemm", [x, weight], [x.dim(0), weight.dim(0)], { attributes: { transB: 1 } });
}

/** A blockwise quantised matrix `[rows, columns]`: unsigned codes, one float32 scale a block of a row. */
export interface Quantized {
  rows: number;
  columns: number;
  bits: 4 | 8;
  block_size: number;
  /** uint8 `[rows, columns / block_size, block_size * bits / 8]`, two 4-bit codes a byte, the lower nibble first. */
  codes: Value;
  /** float32 `[rows * columns / block_size]`. */
  scales: Value;
}

/** `linear` for a quantised weight. Accuracy level 0 computes in float32, level 4 rounds activations to int8 first. */
export function linear_quantized(x: Value, weight: Quantized, accuracy_level: 0 | 4): Value {
  same("MatMulNBits", [x], x.dim(-1), weight.columns);
  const { rows: N, columns: K, bits, block_size } = weight;
  return single("MatMulNBits", [x, weight.codes, weight.scales], [...x.dims.slice(0, -1), N], {
    attributes: { K, N, bits, block_size, accuracy_level },
    domain: MICROSOFT,
  });
}

/** A matrix in 8 bits, quantised by rows: see src/model/int8.ts. */
export interface Int8Matrix {
  /** int8 `[rows, columns]` */
  codes: Value;
  /** float32 `[rows]` */
  scales: Value;
}

/**
 * `linear` for a weight in 8 bits: every row of `x` is rounded to 8 bits too, by its own largest magnitude, and the product is one of
 * integers. The derivative rounds in the same way, and does not see the rounding of `x`.
 */
export function linear_int8(x: Value, weight: Int8Matrix): Value {
  const { codes, scales } = weight;
  same("MatMulIntegerToFloat", [x, codes], x.dim(1), codes.dim(1));
  const product = int8_product(x, transpose(codes, [1, 0]), scales, 1);
  return with_adjoint(product, x, (gradient) => {
    const one = x.graph.constant("float32", [1], []);
    const back = (rows: Value, digits: 1 | 2) => int8_product(mul(rows, scales), codes, one, digits);
    const made = gradient.graph.maker(gradient);
    if (made?.op_type !== "ScatterElements") return back(gradient, 1);
    // The gradient of a loss: one entry a row, by itself, and thousands of small ones which together weigh as much. In one digit those
    // would be zero, and the whole no better than in NF4 (docs/log.md).
    const [others, at, entry] = made.inputs as [Value, Value, Value];
    const attributes = { axis: -1 };
    const rest = single("ScatterElements", [others, at, zeros_like(entry)], others.dims, { attributes });
    const rows = reshape(at, [-1], [x.dim(0)]);
    const values = mul(cast(gather(codes, rows), "float32"), unsqueeze(gather(scales, rows), 1));
    return add(back(rest, 2), mul(add(gather_last(others, at), entry), values));
  });
}

/**
 * `x [M, K]` times int8 `codes [K, N]` times a scale a column, or one for all. Each row of `x` is written in 8-bit digits of a scale of
 * its own: the second is of what the first leaves.
 */
function int8_product(x: Value, codes: Value, scales: Value, digits: 1 | 2): Value {
  const { graph } = x;
  const one = (value: number) => graph.constant("float32", [value], []);
  const over_row = (op: string) =>
    single(op, [x, graph.constant("int64", [-1])], [x.dim(0), 1], { attributes: { keepdims: 1 } });
  // A row of zeros has some scale too.
  const bounds = [over_row("ReduceMax"), mul(over_row("ReduceMin"), one(-1)), one(1e-30)];
  const largest = single("Max", bounds, [x.dim(0), 1]);
  const by_row = reshape(mul(largest, one(1 / 127)), [-1], [x.dim(0)]);
  // Of no rows, ONNX Runtime 1.30 reduces `[0, K]` to `[0, K]`.
  const row_scales = reshape(by_row, [-1, 1], [x.dim(0), 1]);
  // The instructions multiply unsigned by signed bytes.
  const zero = cast(one(128), "uint8");
  const by_rows = { dtype: "uint8" as DataType, attributes: { axis: 0 } };
  const zeros = expand_like(zero, by_row);
  const rounded = single("QuantizeLinear", [x, by_row, zeros], x.dims, by_rows);
  const product = single("MatMulIntegerToFloat", [rounded, codes, one(1), scales, zero], [x.dim(0), codes.dim(1)], {
    dtype: "float32",
    domain: MICROSOFT,
  });
  const first = mul(product, row_scales);
  if (digits === 1) return first;
  const kept = single("DequantizeLinear", [rounded, by_row, zeros], x.dims, { ...by_rows, dtype: "float32" });
  return add(first, int8_product(sub(x, kept), codes, scales, 1));
}

/** A matrix `[rows, columns]` in NF4: see src/model/nf4.ts. */
export interface Nf4Matrix {
  rows: number;
  columns: number;
  block_size: number;
  /** uint8 `[rows * columns / 2]`, the earlier of two codes in the upper nibble. */
  codes: Value;
  /** float32 `[rows * columns / block_size]` */
  absmax: Value;
}

const nf4_product = (x: Value, { rows: N, columns: K, block_size, codes, absmax }: Nf4Matrix) =>
  single("MatMulBnb4", [x, codes, absmax], [...x.dims.slice(0, -1), N], {
    attributes: { K, N, block_size, quant_type: 1 },
    domain: MICROSOFT,
  });

/** `linear` for a weight in NF4, computed in float32. */
export function linear_nf4(x: Value, weight: Nf4Matrix): Value {
  same("MatMulBnb4", [x], x.dim(-1), weight.columns);
  return nf4_product(x, weight);
}

/** Rows of the identity that `matmul_nf4` multiplies. */
const STRIDE = 16;

/**
 * `x [M, rows]` times a weight in NF4, not transposed: what `linear_nf4`'s derivative needs. The operator multiplies by the
 * transpose alone, so it is made to dequantise: 16 rows of the identity times the codes read as `[rows * columns / 16, 16]`
 * give `[16, rows, columns / 16]`, in which entry j holds every 16th column from j on. A product with each, and their columns
 * in turn, is the result; that takes no longer than a product with a float32 matrix. A table lookup takes half as long again.
 */
export function matmul_nf4(x: Value, weight: Nf4Matrix): Value {
  const { rows, columns } = weight;
  same("MatMulBnb4", [x], x.dim(1), rows);
  const [tokens, width] = [x.dim(0), columns / STRIDE];
  const eye = Array.from({ length: STRIDE ** 2 }, (_, i) => Number(i % (STRIDE + 1) === 0));
  const identity = x.graph.constant("float32", eye, [STRIDE, STRIDE]);
  const strided = nf4_product(identity, { ...weight, rows: rows * width, columns: STRIDE });
  const product = matmul(unsqueeze(x, 0), reshape(strided, [STRIDE, rows, width], [STRIDE, rows, width]));
  // As two dimensions, for which the runtime has a fast transpose.
  const turned = transpose(reshape(product, [STRIDE, -1], [STRIDE, "entries"]), [1, 0]);
  return reshape(turned, [-1, columns], [tokens, columns]);
}

/** @param graph that of `x`, or a branch of it */
export function gather(x: Value, indices: Value, axis = 0, graph = x.graph): Value {
  const dims = [...x.dims.slice(0, axis), ...indices.dims, ...x.dims.slice(axis + 1)];
  return graph.node("Gather", [x, indices], [{ dtype: x.dtype, dims }], { axis })[0]!;
}

/** The value of one of two branches, each a graph of its own that may read what is around it; a bool `[]` says which. */
export function either(
  condition: Value,
  then_branch: (branch: Graph) => Value,
  else_branch: (branch: Graph) => Value,
  dims: readonly Dim[],
): Value {
  const branch = (name: string, build: (branch: Graph) => Value) => {
    const graph = new Graph(name, condition.graph);
    const value = build(graph);
    graph.output(value.name, value);
    return { graph, dtype: value.dtype };
  };
  const [then, otherwise] = [branch("then", then_branch), branch("else", else_branch)];
  if (then.dtype !== otherwise.dtype) fail("If", [condition], `branches give ${then.dtype} and ${otherwise.dtype}`);
  const attributes = { then_branch: then.graph, else_branch: otherwise.graph };
  return single("If", [condition], dims, { dtype: then.dtype, attributes });
}

/** The rows of `x` in the order `indices`, whose derivative is `adjoint`: the rows back in their places, and repeated ones summed. */
export function reorder(x: Value, indices: Value, adjoint: (gradient: Value) => Value): Value {
  return with_adjoint(gather(x, indices), x, adjoint);
}

/** Rows of a quantised table, dequantised: `[...indices, columns]` in float32. Its scales are 2-D. */
export function gather_quantized(
  codes: Value,
  scales: Value,
  indices: Value,
  columns: number,
  bits: 4 | 8,
  block_size: number,
): Value {
  return single("GatherBlockQuantized", [codes, indices, scales], [...indices.dims, columns], {
    dtype: "float32",
    attributes: { gather_axis: 0, quantize_axis: 1, block_size, bits },
    domain: MICROSOFT,
  });
}

/**
 * `shape` is known, with -1 for what is left, or computed (an int64 vector); `dims` names the result for the checks.
 */
export function reshape(x: Value, shape: readonly number[] | Value, dims: readonly Dim[]): Value {
  return single("Reshape", [x, "graph" in shape ? shape : x.graph.constant("int64", shape)], dims);
}

/** The whole shape as an int64 vector. */
export const shape_of = (x: Value): Value => single("Shape", [x], [x.dims.length], { dtype: "int64" });

/** Zeros in the shape of `x`. */
export const zeros_like = (x: Value): Value => single("ConstantOfShape", [shape_of(x)], x.dims, { dtype: "float32" });

/** `x` repeated along its dimensions of 1 to the shape of `like`. */
export const expand_like = (x: Value, like: Value): Value => single("Expand", [x, shape_of(like)], like.dims);

/** @param graph that of `x`, or a branch of it */
export function unsqueeze(x: Value, axis: number, graph = x.graph): Value {
  const dims = x.dims.toSpliced(axis, 0, 1);
  return graph.node("Unsqueeze", [x, graph.constant("int64", [axis])], [{ dtype: x.dtype, dims }])[0]!;
}

/**
 * Zeros in the shape of `x`, with each row of `updates` put at its index along the first axis. An index that occurs twice is added twice only
 * in small cases: ONNX Runtime 1.30 adds in several threads without a lock and loses some.
 */
export function scatter_rows(x: Value, indices: Value, updates: Value): Value {
  const at = unsqueeze(indices, indices.dims.length);
  return single("ScatterND", [zeros_like(x), at, updates], x.dims, { attributes: { reduction: "add" } });
}

/** Zeros in the shape of `x`, with `updates` put at `indices` of the last axis. */
export function scatter_last(x: Value, indices: Value, updates: Value): Value {
  return single("ScatterElements", [zeros_like(x), indices, updates], x.dims, { attributes: { axis: -1 } });
}

/** `x` with `updates` added at `indices` of the last axis. */
export function add_last(x: Value, indices: Value, updates: Value): Value {
  return single("ScatterElements", [x, indices, updates], x.dims, { attributes: { axis: -1, reduction: "add" } });
}

export function transpose(x: Value, perm: readonly number[]): Value {
  const dims = perm.map((axis) => x.dim(axis));
  return single("Transpose", [x], dims, { attributes: { perm } });
}

/** Joins along `axis`; the result's dimension there is `dim` (the sum, or its name). */
export function concat(values: Value[], axis: number, dim: Dim): Value {
  const [first] = values;
  return single("Concat", values, first!.dims.with(axis < 0 ? axis + first!.dims.length : axis, dim), {
    attributes: { axis },
  });
}

/** Cuts along `axis` into `dims.length` parts whose sizes the int64 vector `sizes` holds, known or computed. */
export function split(x: Value, axis: number, sizes: Value, dims: readonly Dim[]): Value[] {
  const at = axis < 0 ? axis + x.dims.length : axis;
  const outputs = dims.map((dim) => ({ dtype: x.dtype, dims: x.dims.with(at, dim) }));
  return x.graph.node("Split", [x, sizes], outputs, { axis });
}

/** The `k` largest (or smallest) along the last axis in order, ties to the lower index: `[values, indices]`. */
export function top_k(x: Value, k: Value, dim: Dim, { largest = true } = {}): [Value, Value] {
  const dims = x.dims.with(-1, dim);
  const outputs = [
    { dtype: x.dtype, dims },
    { dtype: "int64" as const, dims },
  ];
  const [values, indices] = x.graph.node("TopK", [x, k], outputs, { axis: -1, largest: Number(largest), sorted: 1 });
  return [values!, indices!];
}

/**
 * `x [rows, columns]` with a share `p` of its entries set to 0 and the others divided by `1 - p`. Which ones, `seed` int64 `[1]`
 * decides: the same seed gives the same entries in every run. A row and a column each have a hash, and an entry is kept by the
 * upper bits of their product, because a whole hash for every entry would take as long as the matrix behind it.
 */
export function dropout(x: Value, p: number, seed: Value): Value {
  const { graph } = x;
  const int = (value: number) => graph.constant("int64", [value]);
  const hash = (n: Value, salt: number) => {
    // A step of a linear congruential generator and an xorshift, twice, in 32 bits.
    let h = add(mul(add(range(n, "n"), int(1)), int(0x9e3779b9)), mul(add(seed, int(salt)), int(0x85ebca6b)));
    for (const factor of [0x7feb352d, 0x846ca68b]) {
      const bits = cast(h, "uint32");
      const shift = cast(graph.constant("int64", [15]), "uint32");
      const right = single("BitShift", [bits, shift], bits.dims, { attributes: { direction: "RIGHT" } });
      h = mul(cast(single("BitwiseXor", [bits, right], bits.dims), "int64"), int(factor));
    }
    return cast(cast(h, "uint32"), "int32");
  };
  const one = cast(int(1), "int32");
  const row = reshape(hash(length_of(x, 0), 1), [-1, 1], [x.dim(0), 1]);
  const odd = single("BitwiseOr", [hash(length_of(x, 1), 2), one], ["n"]);
  const product = mul(row, reshape(odd, [1, -1], [1, x.dim(1)]));
  const threshold = cast(int(Math.round((p - 0.5) * 2 ** 32)), "int32");
  const kept = cast(greater(product, threshold), "float32");
  return mul(x, mul(kept, graph.constant("float32", [1 / (1 - p)], [])));
}

/** The length of `axis` as an int64 vector of one element. */
export function length_of(x: Value, axis: number): Value {
  return single("Shape", [x], [1], { dtype: "int64", attributes: { start: axis, end: axis + 1 } });
}

/** `0 .. n-1` in int64; `n` is a vector of one element. */
export function range(n: Value, dim: Dim): Value {
  const scalar = (v: Value) => single("Squeeze", [v], []);
  const { graph } = n;
  const [zero, one] = [0, 1].map((i) => scalar(graph.constant("int64", [i])));
  return single("Range", [zero!, scalar(n), one!], [dim], { dtype: "int64" });
}

/** Root mean square normalisation over the last axis, in float32. */
export function rms_norm(x: Value, weight: Value, epsilon: number): Value {
  same("SimplifiedLayerNormalization", [x, weight], x.dim(-1), weight.dim(0));
  return single("SimplifiedLayerNormalization", [x, weight], x.dims, {
    attributes: { epsilon: { float: epsilon }, axis: -1 },
  });
}

/** The residual sum `x + skip` and its `rms_norm`, in one pass: `[normalised, sum]`. */
export function skip_rms_norm(x: Value, skip: Value, weight: Value, epsilon: number): [Value, Value] {
  same("SkipSimplifiedLayerNormalization", [x, weight], x.dim(-1), weight.dim(0));
  const { graph, dtype, dims } = x;
  // Outputs 1 and 2 (mean and inverse deviation) are for training elsewhere and are never filled on the CPU.
  const outputs = [
    { dtype, dims },
    { dtype, dims: [] },
    { dtype, dims: [] },
    { dtype, dims },
  ];
  const attributes = { epsilon: { float: epsilon } };
  const [normed, , , sum] = graph.node(
    "SkipSimplifiedLayerNormalization",
    [x, skip, weight],
    outputs,
    attributes,
    MICROSOFT,
  );
  return [normed!, sum!];
}

/** Rotary embedding of `x [1, heads, tokens, head_dim]` in the half-split order; row `positions` of the tables applies. */
export function rotary(x: Value, positions: Value, cos_table: Value, sin_table: Value): Value {
  const attributes = { interleaved: 0 };
  return single("RotaryEmbedding", [x, positions, cos_table, sin_table], x.dims, { attributes, domain: MICROSOFT });
}
