// npm run bench:eval -- DATA TOKENIZER: `bimedix eval` beside lm-evaluation-harness in one run, and what each precision changes; writes
// docs/evaluation.md. DATA is a folder as for `eval --data`, TOKENIZER one with Mixtral's tokenizer files. The harness needs
// Python with torch, transformers and lm_eval 0.4.13: set BIMEDIX_PYTHON.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { median } from "../bench/measure.mjs";
import { root, run, setup } from "./setup.mjs";

const [data, tokenizer] = process.argv.slice(2);
const python = process.env.BIMEDIX_PYTHON;
if (!data || !tokenizer || !python) {
  console.error(
    "npm run bench:eval -- DATA TOKENIZER, with BIMEDIX_PYTHON set (see the first lines of scripts/bench_eval.mjs)",
  );
  process.exit(1);
}
setup();
const bench = join(root, "bench");
const cache = join(bench, ".cache");
mkdirSync(cache, { recursive: true });
process.env.BIMEDIX_CACHE = join(cache, "converted");
const node = process.execPath;
const nano = join(root, "models/nano");
const shape = join(cache, "A");
if (!existsSync(shape)) run(node, [join(bench, "synthetic.mjs"), "A", shape]);
for (const file of readdirSync(tokenizer).filter((name) => name.startsWith("tokenizer")))
  copyFileSync(join(tokenizer, file), join(shape, file));

function measure(command, ...args) {
  console.error(`bench: ${[command, ...args].join(" ").replaceAll(root, ".")}`);
  const { status, stdout } = spawnSync(command, args, {
    cwd: root,
    stdio: ["ignore", "pipe", "ignore"],
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  if (status === 0) return JSON.parse(stdout.trim().split("\n").at(-1));
  console.error("bench: that measurement failed");
  return {};
}

const EVERY = 8;
const own = (what, ...args) => measure(node, join(bench, "own_eval.mjs"), what, ...args);
const harness = (what, ...args) => measure(python, join(bench, "peer_lm_eval.py"), what, ...args.map(String));
const machine = measure(node, join(bench, "machine.mjs"));

// The harness's best batch size for each number of shots, on fewer questions; then both in turns, as a shared machine changes its speed.
const batches = Object.fromEntries(
  [
    [0, [1, 4, 8, 16]],
    [5, [1, 2, 4, 8]],
  ].map(([shots, sizes]) => {
    const rates = sizes.map((size) => [size, harness("speed", shape, data, shots, size, 32).questions_per_s]);
    return [shots, Object.fromEntries(rates)];
  }),
);
const best = (shots) => Number(Object.entries(batches[shots]).sort((a, b) => b[1] - a[1])[0][0]);
const rounds = Array.from({ length: 3 }, () =>
  Object.fromEntries(
    [0, 5].map((shots) => {
      const theirs = harness("speed", shape, data, shots, best(shots), EVERY).questions_per_s;
      const ours = own("speed", shape, data, String(shots), "q4").questions_per_s;
      return [shots, { theirs, ours, ratio: ours / theirs }];
    }),
  ),
);
const tricks = Object.fromEntries(
  [0, 5].map((shots) => [shots, own("tricks", shape, data, String(shots), "q4", "48")]),
);

const LIMIT = "150";
const exact = own("answers", nano, data, "fp32", "0", LIMIT);
const precisions = {
  "fp32, the harness": harness("answers", nano, data, "float32", LIMIT),
  q8: own("answers", nano, data, "q8", "4", LIMIT),
  "q8 --exact": own("answers", nano, data, "q8", "0", LIMIT),
  q4: own("answers", nano, data, "q4", "4", LIMIT),
  "q4 --exact": own("answers", nano, data, "q4", "0", LIMIT),
  "bfloat16, the harness": harness("answers", nano, data, "bfloat16", LIMIT),
};
const count = Object.values(exact).flat().length;
const changed = (answers) =>
  Object.entries(exact).reduce(
    (total, [task, list]) => total + list.filter((one, i) => answers[task]?.[i] !== one).length,
    0,
  );

const fixed = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const table = (head, body) =>
  [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const of = (shots, key) => median(rounds.map((round) => round[shots][key]));
const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const text = `# Evaluation: speed and precision

Written by \`npm run bench:eval\` on ${new Date().toISOString().slice(0, 10)}, bimedix ${version}, all in one run on one machine: ${machine.cpu}, ${machine.cores} cores, Node ${machine.node}.

## Beside lm-evaluation-harness

Questions a second on the six medical MMLU subjects, shape A of [benchmarks.md](benchmarks.md) (791 M parameters, random weights, Mixtral's tokenizer). bimedix: q4, all 1,089 questions. The harness 0.4.13: hf backend, bfloat16, CPU, every ${EVERY}th question, at its best batch size. Medians of ${rounds.length} rounds in which both had their turn; the ratio is the median of the rounds' ratios (${[0, 5].map((shots) => `${shots}-shot: ${rounds.map((round) => fixed(round[shots].ratio, 2)).join(", ")}`).join("; ")}).

${table(
  ["shots", "bimedix", "harness", "ratio", "the harness by batch size (every 32nd question)"],
  [0, 5].map((shots) => [
    shots,
    fixed(of(shots, "ours")),
    fixed(of(shots, "theirs"), 2),
    `${fixed(of(shots, "ratio"), 2)} ×`,
    Object.entries(batches[shots])
      .map(([size, rate]) => `${size}: ${fixed(rate, 2)}`)
      .join(", "),
  ]),
)}

What each step brings, in questions a second (every 48th question; the last line is the table above):

${table(
  ["", "0-shot", "5-shot"],
  [
    ...Object.keys(tricks[0]).map((name) => [name, fixed(tricks[0][name], 2), fixed(tricks[5][name], 2)]),
    ["what all questions of a task begin with is computed once", fixed(of(0, "ours"), 2), fixed(of(5, "ours"), 2)],
  ],
)}

Every question is computed on its own after the shared beginning, so no batch, shard or interruption changes a score by a bit (test/engine/contract, test/eval/run).

## What a precision changes

The answers of models/nano to ${count} questions (the nine English tasks and six Arabic ones, the first ${LIMIT} of each) beside its answers in float32:

${table(
  ["", "answers that differ", "of all"],
  Object.entries(precisions).map(([name, answers]) => [
    name,
    changed(answers),
    `${fixed((100 * changed(answers)) / count, 2)} %`,
  ]),
)}
`;
writeFileSync(join(root, "docs/evaluation.md"), text);
console.log(text);
