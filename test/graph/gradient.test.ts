/** Every operator's derivative alone, by finite differences, and whole chains of them. */
import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { describe, test } from "node:test";
import { gradients } from "../../src/graph/gradient.js";
import { type Dim, Graph, type Value } from "../../src/graph/graph.js";
import * as op from "../../src/graph/ops.js";
import { create_session, type Feeds, float32, int64 } from "../../src/graph/session.js";
import { dequantize_int8, quantize_int8 } from "../../src/model/int8.js";
import { dequantize_nf4, NF4_BLOCK, quantize_nf4 } from "../../src/model/nf4.js";
import { max_difference } from "../fixtures.js";

const STEP = 1e-2;

/** Repeatable numbers between -1 and 1, none near 0 where a difference would say little. */
function numbers(count: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const x = state / 2 ** 31 - 1;
    return x + Math.sign(x) * 0.1;
  });
}

interface Case {
  /** The inputs' shapes; all are differentiated. */
  inputs: number[][];
  /** Names in place of some lengths, as in the decoder. */
  dims?: (readonly Dim[])[];
  build: (graph: Graph, inputs: Value[]) => Value[];
}

/** The gradients of a random weighting of all outputs, computed and by central differences. */
async function check({ inputs: shapes, dims = shapes, build }: Case): Promise<void> {
  const graph = new Graph("case");
  const inputs = shapes.map((_, i) => graph.input(`x${i}`, "float32", dims[i]!));
  const outputs = build(graph, inputs);
  for (const [i, output] of outputs.entries()) graph.output(`y${i}`, output);
  const seeds = outputs.map((output, i) => graph.input(`seed${i}`, "float32", output.dims));
  const found = gradients(new Map(outputs.map((output, i) => [output, seeds[i]!])), inputs);
  assert.equal(found.size, inputs.length);
  // A gradient may be the seed itself, which cannot be an output under another name.
  const one = graph.constant("float32", [1], []);
  for (const [i, input] of inputs.entries()) graph.output(`dx${i}`, op.mul(found.get(input)!, one));
  const session = await create_session(graph, { folder: tmpdir(), threads: 1 });
  const values = shapes.map((shape, i) =>
    numbers(
      shape.reduce((a, b) => a * b, 1),
      i + 1,
    ),
  );
  let weights: Float32Array[] | null = null;
  const run = async () => {
    const feeds: Feeds = {};
    for (const [i, value] of values.entries()) feeds[`x${i}`] = float32(value, shapes[i]!);
    if (weights === null) {
      // The shapes of the outputs are known after a run, for which any seeds do.
      const probe = new Graph("probe");
      const again = build(
        probe,
        shapes.map((_, i) => probe.input(`x${i}`, "float32", dims[i]!)),
      );
      for (const [i, output] of again.entries()) probe.output(`y${i}`, output);
      const first = await create_session(probe, { folder: tmpdir(), threads: 1 });
      const result = await first.run(feeds);
      weights = again.map((_, i) => numbers(result[`y${i}`]!.size, 100 + i));
      lengths = again.map((_, i) => result[`y${i}`]!.dims);
      await first.release();
    }
    for (const [i, weight] of weights.entries()) feeds[`seed${i}`] = float32(weight, lengths[i]!);
    return session.run(feeds);
  };
  let lengths: (readonly number[])[] = [];
  const loss = async () => {
    const result = await run();
    return weights!.reduce((sum, weight, i) => {
      const y = result[`y${i}`]!.data as Float32Array;
      return sum + weight.reduce((total, w, j) => total + w * y[j]!, 0);
    }, 0);
  };
  const computed = await run();
  for (const [i, value] of values.entries()) {
    const gradient = computed[`dx${i}`]!.data as Float32Array;
    assert.deepEqual(computed[`dx${i}`]!.dims, shapes[i]);
    const largest = Math.max(1, ...gradient.map(Math.abs));
    for (let j = 0; j < value.length; j++) {
      const before = value[j]!;
      value[j] = before + STEP;
      const above = await loss();
      value[j] = before - STEP;
      const below = await loss();
      value[j] = before;
      const expected = (above - below) / (2 * STEP);
      assert.ok(
        Math.abs(gradient[j]! - expected) < 3e-3 * largest,
        `input ${i} at ${j}: ${gradient[j]}, by differences ${expected}`,
      );
    }
  }
  await session.release();
}

const int = (graph: Graph, ...values: number[]) => graph.constant("int64", values);
const bytes = ({ buffer }: BigInt64Array | Float32Array) => new Uint8Array(buffer as ArrayBuffer);
function nf4_matrix(graph: Graph, rows: number, columns: number): op.Nf4Matrix {
  const { codes, absmax } = quantize_nf4(numbers(rows * columns, 9));
  return {
    rows,
    columns,
    block_size: NF4_BLOCK,
    codes: graph.weight("codes", "uint8", [codes.length], codes),
    absmax: graph.weight("absmax", "float32", [absmax.length], bytes(absmax)),
  };
}
const positive = (x: Value) => op.add(op.mul(x, x), x.graph.constant("float32", [0.5]));

const cases: Record<string, Case> = {
  Add: { inputs: [[2, 3], [3]], build: (_, [a, b]) => [op.add(a!, b!)] },
  "Add, both repeated": {
    inputs: [
      [2, 1, 3],
      [4, 1],
    ],
    build: (_, [a, b]) => [op.add(a!, b!)],
  },
  Sub: {
    inputs: [
      [2, 3],
      [2, 1],
    ],
    build: (_, [a, b]) => [op.sub(a!, b!)],
  },
  Mul: { inputs: [[2, 3], [1]], build: (_, [a, b]) => [op.mul(a!, b!)] },
  "Mul by itself": { inputs: [[2, 3]], build: (_, [a]) => [op.mul(a!, a!)] },
  Div: {
    inputs: [
      [2, 3],
      [2, 1],
    ],
    build: (_, [a, b]) => [op.div(a!, positive(b!))],
  },
  QuickGelu: { inputs: [[2, 3]], build: (_, [x]) => [op.silu(x!)] },
  Softmax: { inputs: [[2, 2, 4]], build: (_, [x]) => [op.softmax(x!)] },
  LogSoftmax: { inputs: [[3, 5]], build: (_, [x]) => [op.log_softmax(x!)] },
  GatherElements: {
    inputs: [[3, 5]],
    build: (graph, [x]) => [
      op.gather_last(x!, graph.weight("indices", "int64", [3, 1], bytes(BigInt64Array.of(4n, 0n, 2n)))),
    ],
  },
  MatMulBnb4: { inputs: [[3, 128]], build: (graph, [x]) => [op.linear_nf4(x!, nf4_matrix(graph, 6, 128))] },
  Dropout: { inputs: [[5, 8]], build: (graph, [x]) => [op.dropout(x!, 0.4, int(graph, 77))] },
  ReduceSum: { inputs: [[2, 3, 2]], build: (_, [x]) => [op.reduce_sum(x!, 1), op.reduce_sum(x!, -1, false)] },
  MatMul: {
    inputs: [
      [2, 3, 4],
      [2, 4, 2],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!)],
  },
  "MatMul, one factor shared": {
    inputs: [
      [2, 3, 4],
      [4, 2],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!)],
  },
  FusedMatMul: {
    inputs: [
      [2, 3, 4],
      [2, 5, 4],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!, { transpose_b: true, alpha: 0.5 })],
  },
  "FusedMatMul, the first transposed": {
    inputs: [
      [2, 4, 3],
      [2, 4, 2],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!, { transpose_a: true, alpha: 0.5 })],
  },
  "FusedMatMul, both transposed": {
    inputs: [
      [4, 3],
      [2, 4],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!, { transpose_a: true, transpose_b: true, alpha: 0.5 })],
  },
  "FusedMatMul, not transposed": {
    inputs: [
      [3, 4],
      [4, 2],
    ],
    build: (_, [a, b]) => [op.matmul(a!, b!, { alpha: -2 })],
  },
  Gemm: {
    inputs: [
      [3, 4],
      [5, 4],
    ],
    dims: [
      ["tokens", 4],
      [5, 4],
    ],
    build: (_, [x, w]) => [op.linear(x!, w!)],
  },
  "Gather, rows twice and never": {
    inputs: [[4, 3]],
    build: (graph, [x]) => [op.gather(x!, int(graph, 2, 0, 2))],
  },
  Reshape: { inputs: [[2, 6]], build: (_, [x]) => [op.silu(op.reshape(x!, [3, 4], [3, 4]))] },
  Transpose: { inputs: [[2, 3, 4]], build: (_, [x]) => [op.transpose(x!, [2, 0, 1])] },
  Concat: {
    inputs: [
      [2, 3],
      [2, 1],
    ],
    build: (_, [a, b]) => [op.concat([a!, b!], -1, 4)],
  },
  "Split, one part unused": {
    inputs: [[6, 2]],
    build: (graph, [x]) => {
      const [a, , c] = op.split(x!, 0, int(graph, 1, 2, 3), [1, 2, 3]);
      return [op.silu(a!), op.mul(c!, c!)];
    },
  },
  TopK: { inputs: [[3, 5]], build: (graph, [x]) => [op.top_k(x!, int(graph, 2), 2)[0]] },
  SimplifiedLayerNormalization: {
    inputs: [[3, 4], [4]],
    dims: [["tokens", 4], [4]],
    build: (_, [x, w]) => [op.rms_norm(x!, w!, 1e-5)],
  },
  SkipSimplifiedLayerNormalization: {
    inputs: [[3, 4], [3, 4], [4]],
    build: (_, [x, skip, w]) => op.skip_rms_norm(x!, skip!, w!, 1e-5),
  },
  RotaryEmbedding: {
    inputs: [[1, 2, 3, 4]],
    build: (graph, [x]) => {
      const angles = graph.constant("float32", [0.1, 0.7, 1.3, 2.9, 0.4, 5], [3, 2]);
      return [op.rotary(x!, graph.constant("int64", [0, 1, 2], [1, 3]), op.cos(angles), op.sin(angles))];
    },
  },
  "a gated product, twice used": {
    inputs: [
      [2, 3],
      [4, 3],
      [4, 3],
      [3, 4],
    ],
    build: (_, [x, w1, w3, w2]) => {
      const hidden = op.mul(op.silu(op.linear(x!, w1!)), op.linear(x!, w3!));
      return [op.add(x!, op.linear(hidden, w2!))];
    },
  },
};

describe("derivatives", () => {
  for (const [name, one] of Object.entries(cases)) test(name, () => check(one));

  test("what a seed does not reach has no gradient, and an operator without a rule is named", () => {
    const graph = new Graph("case");
    const [x, y] = ["x", "y"].map((name) => graph.input(name, "float32", [2]));
    const seed = graph.input("seed", "float32", [2]);
    assert.equal(gradients(new Map([[op.add(x!, x!), seed]]), [y!]).size, 0);
    assert.throws(() => gradients(new Map([[op.cos(x!), seed]]), [x!]), /Cos has no derivative/);
  });
});

test("a product with 8-bit rows, and its derivative, are those of the rounded integers", async () => {
  const [rows, columns] = [48, 64];
  const graph = new Graph("int8");
  const { codes, scales } = quantize_int8(numbers(rows * columns, 9), columns);
  const weight = {
    codes: graph.weight("codes", "int8", [rows, columns], new Uint8Array(codes.buffer)),
    scales: graph.weight("scales", "float32", [rows], bytes(scales)),
  };
  const x = graph.input("x", "float32", ["n", columns]);
  const y = op.linear_int8(x, weight);
  const seed = graph.input("g", "float32", ["n", rows]);
  graph.output("y", y);
  graph.output("dx", gradients(new Map([[y, seed]]), [x]).get(x)!);
  const session = await create_session(graph, { folder: tmpdir(), threads: 1 });
  // Rows of very different size, and one of zeros.
  const sizes = [1, 1e-3, 1e3, 0];
  const sized = (width: number, seed: number) =>
    numbers(sizes.length * width, seed).map((value, i) => value * sizes[Math.floor(i / width)]!);
  const given = { x: sized(columns, 1), g: sized(rows, 2) };
  const result = await session.run({ x: float32(given.x, [4, columns]), g: float32(given.g, [4, rows]) });
  /** What 8 bits leave of a row. */
  const rounded = (row: Float32Array) => {
    const step = Math.max(...row.map(Math.abs)) / 127;
    return step === 0 ? row : row.map((value) => Math.round(value / step) * step);
  };
  const check = (computed: Float32Array, width: number, of: (row: number, column: number) => number) => {
    for (const [n, size] of sizes.entries())
      for (let i = 0; i < width; i++) {
        const [expected, got] = [of(n, i), computed[n * width + i]!];
        assert.ok(Math.abs(expected - got) <= 1e-4 * size, `row ${n}, column ${i}: ${got}, not ${expected}`);
      }
  };
  const row_of = (values: Float32Array, n: number, width: number) => values.slice(n * width, (n + 1) * width);
  check(result.y!.data as Float32Array, rows, (n, r) =>
    rounded(row_of(given.x, n, columns)).reduce(
      (sum, value, c) => sum + value * codes[r * columns + c]! * scales[r]!,
      0,
    ),
  );
  check(result.dx!.data as Float32Array, columns, (n, c) =>
    rounded(row_of(given.g, n, rows).map((value, r) => value * scales[r]!)).reduce(
      (sum, value, r) => sum + value * codes[r * columns + c]!,
      0,
    ),
  );
  const none = await session.run({
    x: float32(new Float32Array(), [0, columns]),
    g: float32(new Float32Array(), [0, rows]),
  });
  assert.deepEqual(
    [none.y!.dims, none.dx!.dims],
    [
      [0, rows],
      [0, columns],
    ],
  );
  await session.release();
});

test("the derivative of a loss over 8-bit rows keeps its small entries", async () => {
  const [rows, columns, count] = [400, 64, 5];
  const graph = new Graph("head");
  const quantized = quantize_int8(numbers(rows * columns, 9), columns);
  const weight = {
    codes: graph.weight("codes", "int8", [rows, columns], new Uint8Array(quantized.codes.buffer)),
    scales: graph.weight("scales", "float32", [rows], bytes(quantized.scales)),
  };
  const x = graph.input("x", "float32", ["n", columns]);
  const labels = graph.input("labels", "int64", ["n", 1]);
  const logits = op.linear_int8(x, weight);
  const y = op.gather_last(op.log_softmax(logits), labels);
  const seed = graph.input("seed", "float32", ["n", 1]);
  graph.output("logits", logits);
  graph.output("dx", gradients(new Map([[y, seed]]), [x]).get(x)!);
  const session = await create_session(graph, { folder: tmpdir(), threads: 1 });
  const result = await session.run({
    x: float32(numbers(count * columns, 1), [count, columns]),
    labels: int64([3, 1, 4, 399, 3], [count, 1]),
    seed: float32(new Float32Array(count).fill(-1), [count, 1]),
  });
  const values = dequantize_int8(quantized);
  const dx = result.dx!.data as Float32Array;
  for (const [n, label] of [3, 1, 4, 399, 3].entries()) {
    const row = (result.logits!.data as Float32Array).slice(n * rows, (n + 1) * rows).map(Math.exp);
    const total = row.reduce((sum, value) => sum + value, 0);
    const expected = new Float32Array(columns);
    for (let r = 0; r < rows; r++)
      for (let c = 0; c < columns; c++)
        expected[c]! += (row[r]! / total - Number(r === label)) * values[r * columns + c]!;
    assert.ok(max_difference(dx.subarray(n * columns, (n + 1) * columns), expected) < 5e-4);
  }
  await session.release();
});

test("a product with NF4 codes, transposed or not, is one with the values that they stand for", async () => {
  const [rows, columns] = [96, 128];
  const graph = new Graph("nf4");
  const matrix = nf4_matrix(graph, rows, columns);
  graph.output("y", op.linear_nf4(graph.input("x", "float32", ["n", columns]), matrix));
  graph.output("z", op.matmul_nf4(graph.input("g", "float32", ["n", rows]), matrix));
  const session = await create_session(graph, { folder: tmpdir(), threads: 1 });
  const values = dequantize_nf4(quantize_nf4(numbers(rows * columns, 9)));
  const [x, g] = [numbers(3 * columns, 1), numbers(3 * rows, 2)];
  const { y, z } = await session.run({ x: float32(x, [3, columns]), g: float32(g, [3, rows]) });
  for (let n = 0; n < 3; n++) {
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let c = 0; c < columns; c++) sum += x[n * columns + c]! * values[row * columns + c]!;
      assert.ok(Math.abs(sum - (y!.data as Float32Array)[n * rows + row]!) < 1e-4);
    }
    for (let c = 0; c < columns; c++) {
      let sum = 0;
      for (let row = 0; row < rows; row++) sum += g[n * rows + row]! * values[row * columns + c]!;
      assert.ok(Math.abs(sum - (z!.data as Float32Array)[n * columns + c]!) < 1e-4);
    }
  }
  const none = await session.run({
    x: float32(new Float32Array(), [0, columns]),
    g: float32(new Float32Array(), [0, rows]),
  });
  assert.deepEqual(
    [none.y!.dims, none.z!.dims],
    [
      [0, rows],
      [0, columns],
    ],
  );
  await session.release();
});

test("dropout leaves out its share, in no row or column more than in another, and its seed decides which", async () => {
  const [rows, columns, p] = [200, 300, 0.1];
  const graph = new Graph("dropout");
  const x = graph.input("x", "float32", [rows, columns]);
  graph.output("y", op.dropout(x, p, graph.input("seed", "int64", [1])));
  const session = await create_session(graph, { folder: tmpdir(), threads: 1 });
  const run = async (seed: number) => {
    const { y } = await session.run({
      x: float32(new Float32Array(rows * columns).fill(1), [rows, columns]),
      seed: int64([seed]),
    });
    return y!.data as Float32Array;
  };
  const first = await run(3_000_000_000);
  const dropped = (pick: (row: number, column: number) => boolean, of = first) => {
    let [zeros, all] = [0, 0];
    for (let i = 0; i < of.length; i++) {
      if (!pick(Math.floor(i / columns), i % columns)) continue;
      all++;
      if (of[i] === 0) zeros++;
      else assert.ok(Math.abs(of[i]! - 1 / (1 - p)) < 1e-6);
    }
    return zeros / all;
  };
  // Within five standard deviations of a share of n draws.
  const near = (share: number, n: number) =>
    assert.ok(Math.abs(share - p) < 5 * Math.sqrt((p * (1 - p)) / n), `${share} of ${n}`);
  near(
    dropped(() => true),
    rows * columns,
  );
  for (let row = 0; row < rows; row++)
    near(
      dropped((r) => r === row),
      columns,
    );
  for (let column = 0; column < columns; column++)
    near(
      dropped((_, c) => c === column),
      rows,
    );
  assert.deepEqual(await run(3_000_000_000), first);
  const other = await run(3_000_000_001);
  const both = first.filter((value, i) => value === 0 && other[i] === 0).length / first.length;
  assert.ok(Math.abs(both - p * p) < 5 * Math.sqrt((p * p) / first.length), `${both} in both`);
  await session.release();
});

test("rows that are taken twice get the sum of both gradients, whatever the threads", async () => {
  const [rows, width, times] = [512, 256, 4];
  const graph = new Graph("reorder");
  const x = graph.input("x", "float32", [rows, width]);
  const source = Array.from({ length: rows * times }, (_, i) => (i * 7) % rows);
  // Where each row went, in order, so that the rows of one source stand together.
  const places = [...source.keys()].sort((a, b) => source[a]! - source[b]! || a - b);
  const sum = (g: Value) =>
    op.reduce_sum(
      op.reshape(op.gather(g, int(graph, ...places)), [rows, times, width], [rows, times, width]),
      1,
      false,
    );
  const y = op.reorder(x, int(graph, ...source), sum);
  const seed = graph.input("seed", "float32", [rows * times, width]);
  graph.output("dx", gradients(new Map([[y, seed]]), [x]).get(x)!);
  const session = await create_session(graph, { folder: tmpdir(), threads: 4 });
  const values = numbers(rows * times * width, 5);
  const { dx } = await session.run({
    x: float32(new Float32Array(rows * width), [rows, width]),
    seed: float32(values, [rows * times, width]),
  });
  const expected = new Float64Array(rows * width);
  for (const [i, row] of source.entries())
    for (let c = 0; c < width; c++) expected[row * width + c]! += values[i * width + c]!;
  for (const [i, value] of (dx!.data as Float32Array).entries()) assert.ok(Math.abs(value - expected[i]!) < 1e-5);
  await session.release();
});
