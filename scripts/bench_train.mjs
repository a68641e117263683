// npm run bench:train: training beside PEFT in one run, and a step of a model that is larger than memory; writes docs/training_speed.md.
// PEFT needs Python with torch, transformers 5 and peft: set BIMEDIX_PYTHON. With BIMEDIX_PYTHON_4, a Python with transformers 4.57, that
// version, on which every expert is an nn.Linear, is measured too. Writes 7 GB below bench/.cache.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "../bench/measure.mjs";
import { root, run, setup } from "./setup.mjs";

const python = process.env.BIMEDIX_PYTHON;
const python_4 = process.env.BIMEDIX_PYTHON_4;
if (!python) {
  console.error("npm run bench:train, with BIMEDIX_PYTHON set (see the first lines of scripts/bench_train.mjs)");
  process.exit(1);
}
setup();
const bench = join(root, "bench");
const cache = join(bench, ".cache");
mkdirSync(cache, { recursive: true });
process.env.BIMEDIX_CACHE = join(cache, "converted");
const model = join(cache, "A4");
if (!existsSync(model)) run(process.execPath, [join(bench, "synthetic.mjs"), "A4", model]);

function measure(command, ...args) {
  console.error(`bench: ${[command, ...args].join(" ").replaceAll(root, ".")}`);
  const [program, ...first] = command.split(" ");
  const { status, stdout } = spawnSync(program, [...first, ...args.map(String)], {
    cwd: root,
    stdio: ["ignore", "pipe", "ignore"],
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  const text = stdout.slice(stdout.indexOf("{"));
  if (status === 0) return JSON.parse(text);
  console.error("bench: that measurement failed");
  return {};
}

const own = (mode, dtype) => measure(process.execPath, join(bench, "own_train.mjs"), model, 16, 4, 256, 6, mode, dtype);
const peer = (command, dtype) => measure(command, join(bench, "peer_peft.py"), model, "--dtype", dtype, "--steps", 6);
const peers = {
  "PEFT on transformers 5, bfloat16": [python, "bfloat16"],
  "PEFT on transformers 5, float32": [python, "float32"],
};
if (python_4) {
  peers["PEFT on transformers 4, bfloat16"] = [python_4, "bfloat16"];
  peers["PEFT on transformers 4, float32"] = [python_4, "float32"];
}
const machine = measure(process.execPath, join(bench, "machine.mjs"));
const ROUNDS = 3;
const rounds = Array.from({ length: ROUNDS }, () => ({
  "bimedix, int8": own("keep", "int8"),
  "bimedix, NF4": own("keep", "bnb4"),
  "bimedix, NF4, gradient checkpointing": own("again", "bnb4"),
  ...Object.fromEntries(Object.entries(peers).map(([name, args]) => [name, peer(...args)])),
}));
const depth = measure(process.execPath, join(bench, "own_depth.mjs"), join(cache, "depth"));

const fixed = (value, digits = 0) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const names = Object.keys(rounds[0]);
const of = (name, key) => median(rounds.map((round) => round[name][key]));
const [int8, nf4] = names;
const beside = (ours, name) => {
  if (ours === name) return "";
  const ratios = rounds.map((round) => round[ours].tokens_per_second / round[name].tokens_per_second);
  return `${fixed(median(ratios), 2)} × (${ratios.map((ratio) => fixed(ratio, 2)).join(", ")})`;
};
const share = (ours, name) => fixed(of(ours, "peak_memory_bytes") / of(name, "peak_memory_bytes"), 2);
const gb = (bytes) => `${fixed(bytes / 1e9, 2)} GB`;
const table = (head, body) =>
  [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const step = depth.steps?.at(-1) ?? {};
const text = `# Training: speed and memory

Written by \`npm run bench:train\` on ${new Date().toISOString().slice(0, 10)}, all in one run on one machine: ${machine.cpu}, ${machine.cores} cores (${fixed(machine.float32_gflops)} GFLOP/s in float32), Node ${machine.node}.

## Beside PEFT

Four layers of shape A of [benchmarks.md](benchmarks.md), adapters of rank 16 on attention, every expert and the router (${rounds[0][int8].trained} parameters), four rows of 256 tokens a step: forward, backward, load-balancing loss, AdamW. Medians of ${ROUNDS} rounds in which all had their turn; in each, the median of five steps after a first. Peak memory is the process's, loading included. bimedix reads its base from the disk at every use: in 8 bits with a scale a row, whose products are of integers, or in NF4, computed in float32 as its head is. PEFT's base is as it says, in memory.

${table(
  [
    "",
    "tokens a second",
    "int8 beside it, by round",
    "NF4 beside it, by round",
    "peak memory",
    "int8's of it",
    "NF4's of it",
  ],
  names.map((name) => [
    name,
    fixed(of(name, "tokens_per_second")),
    beside(int8, name),
    beside(nf4, name),
    gb(of(name, "peak_memory_bytes")),
    share(int8, name),
    share(nf4, name),
  ]),
)}

## Deeper than memory

${fixed(depth.parameters / 1e9, 1)} billion parameters: eight layers of Mixtral-8x7B's own width, random codes in NF4 (${gb(depth.file_bytes)} on the disk), adapters of rank 16 (${fixed(depth.trained / 1e6, 1)} M parameters), one row of ${depth.tokens} tokens, gradient checkpointing. Peak memory ${gb(depth.peak_memory_bytes)}. The ${depth.steps?.length}nd step:

${table(
  ["", ""],
  [
    ["a step", `${fixed(step.seconds, 1)} s`],
    ["forward, all layers", `${fixed(step.forward_seconds, 1)} s`],
    ["backward, all layers, the forward pass computed again in it", `${fixed(step.backward_seconds, 1)} s`],
    ["head and loss, both ways", `${fixed(step.head_seconds, 1)} s`],
    ["AdamW", `${fixed(step.optimizer_seconds, 1)} s`],
    ["waiting for the disk", `${fixed(step.waited_for_disk_seconds, 1)} s`],
    ["read", gb(step.read_bytes)],
  ],
)}
`;
writeFileSync(join(root, "docs/training_speed.md"), text);
console.log(text);
