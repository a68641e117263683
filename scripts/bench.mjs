// npm run bench: the engine beside llama.cpp and transformers on shape A, in one run, and larger shapes; writes docs/benchmarks.md.
// transformers needs Python with torch: set BIMEDIX_PYTHON to its interpreter (bench/README.md); without it that row stays empty.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root, run, setup } from "./setup.mjs";

setup();
const bench = join(root, "bench");
const cache = join(bench, ".cache");
mkdirSync(cache, { recursive: true });
process.env.BIMEDIX_CACHE = join(cache, "converted");
const quick = process.argv.includes("--quick");

/** Runs one measurement in a process of its own and returns the JSON line that it ends with. */
function measure(command, ...args) {
  console.error(`bench: ${[command, ...args].join(" ").replaceAll(root, ".")}`);
  const { status, stdout } = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", "pipe", 2],
    encoding: "utf8",
    env: { ...process.env, LD_PRELOAD: "" },
  });
  if (status !== 0) return null;
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

const node = process.execPath;
if (!existsSync(join(bench, "node_modules")))
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: bench });
const shape_dir = (shape) => {
  const dir = join(cache, shape);
  if (!existsSync(dir)) run(node, [join(bench, "synthetic.mjs"), shape, dir]);
  return dir;
};
const gguf = join(cache, "A.gguf");
if (!existsSync(gguf)) run(node, [join(bench, "gguf.mjs"), "A", gguf]);

const machine = measure(node, join(bench, "machine.mjs"));
const rows = [
  measure(node, join(bench, "own.mjs"), shape_dir("A"), "q4"),
  measure(node, join(bench, "own.mjs"), shape_dir("A"), "q8"),
  measure(node, join(bench, "peer_llama_cpp.mjs"), gguf),
  process.env.BIMEDIX_PYTHON
    ? measure(process.env.BIMEDIX_PYTHON, join(bench, "peer_transformers.py"), shape_dir("A"))
    : null,
];
const large = quick
  ? []
  : ["W", "L"].map((shape) => ({ shape, ...measure(node, join(bench, "own.mjs"), shape_dir(shape), "q4", "quick") }));

const [own, , llama, transformers] = rows;
const fixed = (value, digits = 0) => (typeof value === "number" ? value.toFixed(digits) : "–");
const ratio = (a, b, key) => (a?.[key] && b?.[key] ? `${(a[key] / b[key]).toFixed(2)} ×` : "–");
const table = (head, body) =>
  [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const text = `# Benchmarks

Written by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}, bimedix ${version}, all rows in one run on one machine. Timing decides no test.

The machine: ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}. Its limits as ONNX Runtime reaches them: ${fixed(machine.float32_gflops)} GFLOP/s in float32, ${fixed(machine.read_gb_per_s, 1)} GB/s read from memory.

## Shape A: 8 layers, hidden 1024, 8 experts of 3584, top-2, 791 M parameters, random weights

Tokens a second; the best of each peer's settings.

${table(
  ["", "prefill 512", "decode at 500", "decode at 4,000", "4,000 / 500"],
  rows
    .filter(Boolean)
    .map((row) => [
      row.name,
      fixed(row.prefill),
      fixed(row.decode_500),
      fixed(row.decode_4000),
      fixed(row.decode_4000 / row.decode_500, 2),
    ]),
)}

bimedix q4 beside llama.cpp: prefill ${ratio(own, llama, "prefill")}, decode ${ratio(own, llama, "decode_500")}, at 4,000 ${ratio(own, llama, "decode_4000")}. Beside transformers: prefill ${ratio(own, transformers, "prefill")}, decode ${ratio(own, transformers, "decode_500")}.

A prompt of 1,064 tokens takes ${fixed(own?.prompt_1064_ms)} ms to its first token, and ${fixed(own?.prompt_1064_with_1000_cached_ms)} ms when its first 1,000 tokens were seen before.

One token reads 230 M weights; in q4 with a scale for 128 that is ${fixed(230 * (0.5 + 4 / 128))} MB, which the memory's limit would allow ${fixed((1000 * machine.read_gb_per_s) / (230 * (0.5 + 4 / 128)))} times a second. A token of prefill is 0.39 GFLOP (the vocabulary is only reached by the last one), so ${fixed(own?.prefill)} tokens a second are ${fixed(0.394 * own?.prefill)} GFLOP/s; products are computed in int8, which is why that can pass the float32 limit.

## Larger shapes, q4

${table(
  ["shape", "convert and load", "peak while converting", "load again", "decode", "prefill 128", "peak"],
  large.map((row) => [
    row.shape === "W" ? "one layer of Mixtral-8x7B's width" : "three such layers, 9 GB in bf16",
    `${fixed(row.first_load_s, 1)} s`,
    `${fixed(row.convert_peak_mb)} MB`,
    `${fixed(row.second_load_s, 1)} s`,
    `${fixed(row.decode_20, 1)} tok/s`,
    `${fixed(row.prefill)} tok/s`,
    `${fixed(row.peak_mb)} MB`,
  ]),
)}
`;
mkdirSync(join(root, "docs"), { recursive: true });
if (!quick) writeFileSync(join(root, "docs/benchmarks.md"), text);
console.log(text);
