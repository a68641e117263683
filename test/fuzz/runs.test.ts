/** Damaged runs: the journal of an evaluation, and the log of a training. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { mcqa_task } from "../../src/eval/datasets.js";
import { read_journal } from "../../src/eval/journal.js";
import { local_model } from "../../src/eval/model.js";
import { run_tasks } from "../../src/eval/run.js";
import { read_log } from "../../src/train/log.js";
import { root } from "../fixtures.js";
import { Folder } from "./folder.js";
import { type Case, fuzz, type Target } from "./harness.js";
import { mutate_bytes, mutate_json, type Random } from "./mutate.js";

/** JSON lines damaged as values or as bytes, and what is made of them. */
async function of_lines(
  name: string,
  text: string,
  read: (file: string) => Promise<unknown>,
): Promise<(random: Random) => Case> {
  const folder = await Folder.make();
  const whole = JSON.stringify(await read(folder.write(name, text)));
  const values = text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  return (random) => {
    const { value, detail } = random() < 0.6 ? mutate_json(values, random) : mutate_bytes(Buffer.from(text), random);
    const lines = (Array.isArray(value) ? value : [value]).map((one) => `${JSON.stringify(one)}\n`).join("");
    const file = folder.write(name, value instanceof Uint8Array ? value : lines);
    return { detail, work: async () => (JSON.stringify(await read(file)) === whole ? "same" : "other") };
  };
}

const questions = Array.from({ length: 40 }, (_, i) => ({
  question: `What is ${i}?`,
  options: ["one", "two", "three"],
  answer: i % 3,
}));

/** What a run that was stopped behind its first batch leaves. */
async function journal_of_a_run(): Promise<string> {
  const folder = await Folder.make();
  const task = await mcqa_task(folder.write("q.jsonl", questions.map((one) => JSON.stringify(one)).join("\n")));
  const model = await local_model(join(root, "models/nano"), { dtype: "q8" });
  const stop = new AbortController();
  const on_progress = ({ scored }: { scored: number }) => scored > 0 && stop.abort();
  const run = run_tasks(model, { tasks: [task], output: folder.file("out"), signal: stop.signal, on_progress });
  await run.catch(() => null);
  await model.dispose();
  const names = await readdir(folder.file("out/nano"));
  return await readFile(join(folder.file("out/nano"), names.find((name) => name.endsWith(".jsonl"))!), "utf8");
}

const figures = (step: number): string => JSON.stringify({ step, epoch: step / 8, loss: 2.5, learning_rate: 1e-4 });

const targets: Target[] = [
  {
    name: "the journal of an evaluation",
    harmless: [
      [
        /^other$/,
        "a line more or less is scored again or was; lines are sealed, and the header is only told in the results",
      ],
    ],
    make: async () => of_lines("run.jsonl", await journal_of_a_run(), (file) => read_journal(file)),
  },
  {
    name: "the log of a training",
    harmless: [[/^other$/, "figures to look at: nothing is computed from them"]],
    make: () => of_lines("log.jsonl", `${[2, 4, 6, 8].map(figures).join("\n")}\n`, read_log),
  },
];

for (const target of targets) fuzz(target);
