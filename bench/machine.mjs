// The machine's limits, as ONNX Runtime reaches them. Run: node bench/machine.mjs  (one JSON line on stdout)
import { cpus } from "node:os";
import { Graph } from "../dist/src/graph/graph.js";
import * as op from "../dist/src/graph/ops.js";
import { create_session, float32 } from "../dist/src/graph/session.js";
import { median } from "./measure.mjs";

async function seconds(build, feeds) {
  const graph = new Graph("limit");
  graph.output("out", build(graph));
  const session = await create_session(graph, { folder: "." });
  const times = [];
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    await session.run(feeds);
    times.push((performance.now() - start) / 1000);
  }
  await session.release();
  return median(times.slice(1));
}

// The second factor is a constant, as weights are: the runtime packs it once.
const [m, k, n] = [1024, 4096, 4096];
const weight = new Uint8Array(new Float32Array(k * n).fill(0.5).buffer);
const product = await seconds(
  (graph) => op.matmul(graph.input("a", "float32", [m, k]), graph.weight("b", "float32", [k, n], weight)),
  { a: float32(new Float32Array(m * k).fill(0.5), [m, k]) },
);
const rows = 65536;
const sum = await seconds((graph) => op.reduce_sum(graph.input("a", "float32", [rows, k]), -1), {
  a: float32(new Float32Array(rows * k).fill(0.5), [rows, k]),
});
console.log(
  JSON.stringify({
    cpu: cpus()[0]?.model.trim(),
    cores: cpus().length,
    node: process.version,
    float32_gflops: (2 * m * k * n) / product / 1e9,
    read_gb_per_s: (4 * rows * k) / sum / 1e9,
  }),
);
