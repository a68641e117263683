// `bimedix eval` itself; one JSON line on stdout. Run:
//   node bench/own_eval.mjs speed MODEL DATA SHOTS DTYPE          questions a second on the six MMLU subjects, whole
//   node bench/own_eval.mjs tricks MODEL DATA SHOTS DTYPE EVERY   the same without what makes it fast, step by step
//   node bench/own_eval.mjs answers MODEL DATA DTYPE LEVEL LIMIT  the chosen options of the first LIMIT questions a task
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { load_task } from "../dist/src/eval/datasets.js";
import { local_model } from "../dist/src/eval/model.js";
import { build_prompts, encode_prompt } from "../dist/src/eval/prompts.js";
import { run_tasks, samples_of } from "../dist/src/eval/run.js";
import { task_groups, tasks } from "../dist/src/eval/tasks.js";

const [what, dir, data, ...rest] = process.argv.slice(2);
const named = (names) => names.map((name) => tasks.get(name));
const mmlu = task_groups.get("bimedix_en").tasks.slice(0, 6);

async function run(model, names, options) {
  const output = mkdtempSync(join(tmpdir(), "bimedix-bench-"));
  try {
    return (await run_tasks(model, { tasks: named(names), data, output, ...options })).run;
  } finally {
    rmSync(output, { recursive: true });
  }
}

async function speed(shots, dtype) {
  const model = await local_model(dir, { dtype });
  await model.engine.score([{ context: Array.from({ length: 512 }, (_, i) => 1000 + i), continuation: [5] }]);
  const { entries } = await run(model, mmlu, { num_fewshot: Number(shots) });
  const questions = entries.reduce((total, { samples }) => total + samples.length, 0);
  const seconds = entries.reduce((total, one) => total + one.seconds, 0);
  await model.dispose();
  return { questions, questions_per_s: questions / seconds, engine: model.info.versions };
}

/** Questions a second with one thing more at each step. */
async function tricks(shots, dtype, every) {
  const model = await local_model(dir, { dtype });
  const { engine, tokenizer, max_length } = model;
  const questions = [];
  for (const task of named(mmlu)) {
    const { docs, shots: dev } = await load_task(task, { data, num_fewshot: Number(shots) });
    const picked = docs.filter((_, i) => i % Number(every) === 0);
    for (const prompt of build_prompts(task, picked, dev, { num_fewshot: Number(shots) }))
      questions.push(encode_prompt(prompt, { tokenizer, add_bos: true, max_length }).requests);
  }
  const steps = {
    "each option alone, logits of every position": async (requests) => {
      for (const { context, continuation } of requests)
        await engine.forward([[...context, ...continuation.slice(0, -1)]]);
    },
    "only the scored rows reach the vocabulary": async (requests) => {
      for (const request of requests) await engine.score([request], { prefix: 0 });
    },
    "the options of a question share its pass": (requests) => engine.score(requests, { prefix: 0 }),
  };
  const rates = {};
  await steps["only the scored rows reach the vocabulary"](questions[0]);
  for (const [name, step] of Object.entries(steps)) {
    const start = performance.now();
    for (const requests of questions) await step(requests);
    rates[name] = (1000 * questions.length) / (performance.now() - start);
  }
  await model.dispose();
  return rates;
}

async function answers(dtype, level, limit) {
  const model = await local_model(dir, { dtype, accuracy_level: Number(level) });
  const names = [...task_groups.get("bimedix_en").tasks, ...task_groups.get("bimedix_ar").tasks.slice(0, 6)];
  const samples = samples_of(await run(model, names, { limit: Number(limit) }));
  await model.dispose();
  const chosen = ({ bimedix }) => bimedix.log_likelihoods.indexOf(Math.max(...bimedix.log_likelihoods));
  return Object.fromEntries([...samples].map(([task, list]) => [task, list.map(chosen)]));
}

console.log(JSON.stringify(await { speed, tricks, answers }[what](...rest)));
