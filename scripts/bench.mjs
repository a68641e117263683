// npm run bench: the engine beside llama.cpp and transformers on shape A, in one run, and larger shapes; writes docs/benchmarks.md.
// transformers needs Python with torch: set BIMEDIX_PYTHON to its interpreter (bench/README.md); without it that row says so.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "../bench/measure.mjs";
import { shapes } from "../bench/shapes.mjs";
import { root, run, setup } from "./setup.mjs";

setup();
const bench = join(root, "bench");
const cache = join(bench, ".cache");
mkdirSync(cache, { recursive: true });
process.env.BIMEDIX_CACHE = join(cache, "converted");
const quick = process.argv.includes("--quick");
const node = process.execPath;

/** Runs one measurement in a process of its own and returns the JSON line that it ends with. */
function measure(command, ...args) {
  console.error(`bench: ${[command, ...args].join(" ").replaceAll(root, ".")}`);
  const { status, stdout } = spawnSync(command, args, { cwd: root, stdio: ["ignore", "pipe", 2], encoding: "utf8" });
  if (status === 0) return JSON.parse(stdout.trim().split("\n").at(-1));
  console.error("bench: that measurement failed; its figures are missing below");
  return {};
}

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
const python = process.env.BIMEDIX_PYTHON;
// Each in turn, several times: a shared machine changes its speed from minute to minute, and a ratio must not.
const peers = {
  own: () => measure(node, join(bench, "own.mjs"), shape_dir("A"), "q4", "speed"),
  llama: () => measure(node, join(bench, "peer_llama_cpp.mjs"), gguf),
  transformers: () => (python ? measure(python, join(bench, "peer_transformers.py"), shape_dir("A")) : {}),
  own_q8: () => measure(node, join(bench, "own.mjs"), shape_dir("A"), "q8", "speed"),
};
const rounds = Array.from({ length: quick ? 1 : 3 }, () =>
  Object.fromEntries(Object.entries(peers).map(([name, run_peer]) => [name, run_peer()])),
);
const manners = measure(node, join(bench, "own.mjs"), shape_dir("A"), "q4", "manners");
const large = (quick ? [] : ["W", "L"]).map((shape) => {
  const converted = join(cache, `${shape}-q4`);
  return {
    shape,
    convert: measure(node, join(bench, "convert.mjs"), shape_dir(shape), "q4", converted),
    ...measure(node, join(bench, "own.mjs"), converted, "q4", "large"),
  };
});

const fixed = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
/** The median over the rounds in which `value` has a number. */
const over_rounds = (value) => {
  const values = rounds.map(value).filter(Number.isFinite);
  return values.length > 0 ? median(values) : undefined;
};
const speed = (peer, key) => over_rounds((round) => round[peer][key]);
const ratio = (peer, key) => {
  const value = over_rounds((round) => round.own[key] / round[peer][key]);
  return value === undefined ? "–" : `${value.toFixed(2)} ×`;
};
const row = (peer, otherwise) => [
  rounds.at(-1)[peer].name ?? otherwise,
  fixed(speed(peer, "prefill")),
  fixed(speed(peer, "decode_500")),
  fixed(speed(peer, "decode_4000")),
  fixed(
    over_rounds((round) => round[peer].decode_4000 / round[peer].decode_500),
    2,
  ),
];
const table = (head, body) =>
  [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

/** Millions of weights that a token is multiplied with: in a prompt, where the last layer only finishes the last token, and decoding. */
function weights_per_token(shape) {
  const { hidden_size: h, intermediate_size: f, num_hidden_layers: layers, num_experts_per_tok: k } = shape;
  const kv = (h * shape.num_key_value_heads) / shape.num_attention_heads;
  const attention = h * (h + 2 * kv);
  const rest = h * h + 3 * k * h * f + h * shape.num_local_experts;
  const decode = layers * (attention + rest) + h * shape.vocab_size;
  return { prompt: (layers * attention + (layers - 1) * rest) / 1e6, decode: decode / 1e6 };
}

const weights = weights_per_token(shapes.A);
const read_mb = weights.decode * (0.5 + 4 / 128);
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const text = `# Benchmarks

Written by \`npm run bench\` on ${new Date().toISOString().slice(0, 10)}, bimedix ${version}, all rows in one run on one machine. Timing decides no test.

The machine: ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}. Its limits as ONNX Runtime reaches them: ${fixed(machine.float32_gflops)} GFLOP/s in float32, ${fixed(machine.read_gb_per_s, 1)} GB/s read from memory.

## Shape A: 8 layers, hidden 1024, 8 experts of 3584, top-2, 791 M parameters, random weights

Tokens a second, the medians of ${rounds.length} rounds in which each had its turn; of each peer's settings the best. Ratios are medians of the rounds' ratios.

${table(
  ["", "prefill 512", "decode at 500", "decode at 4,000", "4,000 / 500"],
  [
    row("own", "bimedix, failed"),
    row("llama", "node-llama-cpp, failed"),
    row("transformers", python ? "transformers, failed" : "transformers, not measured (BIMEDIX_PYTHON)"),
    row("own_q8", "bimedix q8, failed"),
  ],
)}

bimedix q4 beside llama.cpp: prefill ${ratio("llama", "prefill")}, decode ${ratio("llama", "decode_500")}, at 4,000 ${ratio("llama", "decode_4000")}. Beside transformers: prefill ${ratio("transformers", "prefill")}, decode ${ratio("transformers", "decode_500")}.

A prompt of 1,064 tokens takes ${fixed(manners.prompt_1064_ms)} ms to its first token, and ${fixed(manners.prompt_1064_with_1000_cached_ms)} ms when its first 1,000 tokens were seen before.

During a prefill of 2,000 tokens the longest time between two ticks of a timer of 50 ms was ${fixed(manners.timer_gap_ms)} ms. A caller that aborted it was answered after ${fixed(manners.abort?.answered)} ms; ${fixed(manners.abort?.free)} ms after the abort the next call had its first token. 200 answers in a row changed the memory of ${fixed(manners.peak_mb)} MB by ${fixed(100 * manners.growth, 1)} %.

A decoded token reads ${fixed(weights.decode)} M weights; in q4 with a scale for 128 that is ${fixed(read_mb)} MB, which the memory's limit allows ${fixed((1000 * machine.read_gb_per_s) / read_mb)} times a second. A token of a prompt is ${fixed((2 * weights.prompt) / 1000, 2)} GFLOP in products with weights (the last layer finishes only the last token), so ${fixed(speed("own", "prefill"))} tokens a second are ${fixed((2 * weights.prompt * speed("own", "prefill")) / 1000)} GFLOP/s; these products are in int8, which is why that can pass the float32 limit.

## Larger shapes, q4

${table(
  ["shape", "convert", "peak while converting", "load", "decode", "128 tokens with all logits", "peak while running"],
  large.map((row) => [
    row.shape === "W" ? "one layer of Mixtral-8x7B's width, 3.5 GB in bf16" : "three such layers, 9.2 GB in bf16",
    `${fixed(row.convert.seconds, 1)} s`,
    `${fixed(row.convert.peak_mb)} MB`,
    `${fixed(row.load_s, 1)} s`,
    `${fixed(row.decode_20, 1)} tok/s`,
    `${fixed(row.forward_128)} tok/s`,
    `${fixed(row.peak_mb)} MB`,
  ]),
)}
`;
if (!quick) writeFileSync(join(root, "docs/benchmarks.md"), text);
console.log(text);
