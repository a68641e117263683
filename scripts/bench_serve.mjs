// npm run bench:serve: the server under sixteen streams, beside node-llama-cpp with sixteen sequences; writes docs/serving.md.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "../bench/measure.mjs";
import { root, run, setup } from "./setup.mjs";

const SHAPE_VOCABULARY = 32_000;
setup();
const bench = join(root, "bench");
const cache = join(bench, ".cache");
mkdirSync(cache, { recursive: true });
process.env.BIMEDIX_CACHE = join(cache, "converted");
const node = process.execPath;
if (!existsSync(join(bench, "node_modules")))
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: bench });
const model = join(cache, "A");
if (!existsSync(model)) run(node, [join(bench, "synthetic.mjs"), "A", model]);
// The shape has no tokenizer of its own: models/nano's, with as many further words as its vocabulary has rows.
if (!existsSync(join(model, "tokenizer.json"))) {
  const nano = join(root, "models/nano");
  const tokenizer = JSON.parse(readFileSync(join(nano, "tokenizer.json"), "utf8"));
  const { vocab } = tokenizer.model;
  for (let id = Object.keys(vocab).length; id < SHAPE_VOCABULARY; id++) vocab[`▁word${id}`] = id;
  writeFileSync(join(model, "tokenizer.json"), JSON.stringify(tokenizer));
  copyFileSync(join(nano, "tokenizer_config.json"), join(model, "tokenizer_config.json"));
}
const gguf = join(cache, "A.gguf");
if (!existsSync(gguf)) run(node, [join(bench, "gguf.mjs"), "A", gguf]);

function measure(env, ...args) {
  console.error(`bench: ${args.join(" ").replaceAll(root, ".")}`);
  const { status, stdout } = spawnSync(node, args, {
    cwd: root,
    stdio: ["ignore", "pipe", "ignore"],
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
  if (status !== 0) throw new Error("that measurement failed");
  return JSON.parse(stdout.trim().split("\n").at(-1));
}

async function served(args, name, vocabulary) {
  const cli = join(root, "dist/src/cli/main.js");
  const child = spawn(node, [cli, "serve", "--port", "0", "--name", name, ...args], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const [line] = await once(child.stdout, "data");
  const [, url] = /^(http:\S+)\/v1 /.exec(String(line));
  try {
    return measure({ VOCABULARY: vocabulary }, join(bench, "serve_load.mjs"), url, name, 64, 96, 3);
  } finally {
    child.kill("SIGTERM");
    await once(child, "exit");
  }
}

const ROUNDS = 3;
const rounds = [];
for (let i = 0; i < ROUNDS; i++) {
  rounds.push({
    nano: await served([], "nano", 5000),
    A: await served(["--model", model, "--dtype", "q4"], "A", SHAPE_VOCABULARY),
    llama: measure({}, join(bench, "peer_llama_parallel.mjs"), gguf, 64, 96),
  });
}
const machine = measure({}, join(bench, "machine.mjs"));
const of = (name, key) => median(rounds.map((round) => round[name][key]));
const ratio = (name, other, key) => {
  const all = rounds.map((round) => round[name].sixteen / round[other][key]);
  return `${median(all).toFixed(2)} × (${all.map((one) => one.toFixed(2)).join(", ")})`;
};
const ms = (name, key) => `${of(name, key).toFixed(0)} ms`;
const text = `# Serving

Written by \`npm run bench:serve\` on ${new Date().toISOString().slice(0, 10)}, all in one run on one machine: ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}. Streams over HTTP from a client on the same machine, each with a prompt of its own of 64 tokens and an answer of up to 96; node-llama-cpp in its own process, without HTTP. Medians of ${ROUNDS} rounds in which all had their turn.

| | one stream, tokens a second | sixteen | beside its one stream, by round | first token of sixteen, p95 | /health while 2,000 tokens (models/nano: 1,014) are read, at most |
| --- | --- | --- | --- | --- | --- |
| models/nano, q8 | ${of("nano", "one").toFixed(0)} | ${of("nano", "sixteen").toFixed(0)} | ${ratio("nano", "nano", "one")} | ${ms("nano", "first_token_p95_ms")} | ${ms("nano", "health_max_ms")} |
| shape A of [benchmarks.md](benchmarks.md), q4 | ${of("A", "one").toFixed(0)} | ${of("A", "sixteen").toFixed(0)} | ${ratio("A", "A", "one")} | ${ms("A", "first_token_p95_ms")} | ${ms("A", "health_max_ms")} |
| ${rounds[0].llama.name}, shape A, sixteen sequences | ${of("llama", "one").toFixed(0)} | ${of("llama", "sixteen").toFixed(0)} | ${ratio("llama", "llama", "one")} | | |

Sixteen streams of shape A beside node-llama-cpp's sixteen sequences: ${ratio("A", "llama", "sixteen")}.
`;
writeFileSync(join(root, "docs/serving.md"), text);
console.log(text);
