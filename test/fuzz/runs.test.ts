/** Damaged runs: the journal of an evaluation, the log of a training, and its checkpoints. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { mcqa_task } from "../../src/eval/datasets.js";
import { read_journal } from "../../src/eval/journal.js";
import { local_model } from "../../src/eval/model.js";
import { run_tasks } from "../../src/eval/run.js";
import { load_checkpoint, save_checkpoint } from "../../src/train/checkpoint.js";
import { read_log } from "../../src/train/log.js";
import { AdamW } from "../../src/train/optimizer.js";
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

/** Two parameters and what AdamW remembers of them after a step. */
function training() {
  const matrix = (rows: number, columns: number) => {
    const data = Float32Array.from({ length: rows * columns }, (_, i) => Math.sin(i + rows));
    return { shape: [rows, columns], data, gradient: data.map((value) => value / 10) };
  };
  const parameters = new Map([
    ["a", matrix(2, 3)],
    ["b", matrix(3, 1)],
  ]);
  const optimizer = new AdamW(parameters, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0 });
  return { parameters, optimizer };
}

/** Either file damaged, in a checkpoint as it is written and as earlier versions wrote it, without checksums. */
async function of_checkpoints(): Promise<(random: Random) => Case> {
  const folder = await Folder.make();
  const made = training();
  made.optimizer.step(1e-3, 1);
  const pending = [{ entry: JSON.parse(figures(3)), seconds: 0.5, tokens: 7 }];
  const counts = { global_step: 3, skipped: 2, skipped_in_a_row: 1, tokens_seen: 21 };
  const training_state = { ...made, state: { ...counts, pending, fingerprint: "f" } };
  const dir = await save_checkpoint(folder.path, training_state, async () => {}, 1, { check: async () => {} });
  const tensors = await readFile(join(dir, "optimizer.safetensors"));
  const sealed = JSON.parse(await readFile(join(dir, "trainer_state.json"), "utf8"));
  const { sha256, optimizer_sha256, ...open } = sealed;
  const read = async () => {
    const into = training();
    const state: object = await load_checkpoint(dir, into);
    const values = JSON.stringify([...into.parameters, into.optimizer.step_count, ...into.optimizer.moments]);
    return { ...state, values };
  };
  const whole: Record<string, unknown> = await read();
  return (random) => {
    const state = random() < 0.3 ? sealed : open;
    const of_state = random() < 0.6;
    const { value, detail } = of_state ? mutate_json(state, random) : mutate_bytes(tensors, random);
    const work = async () => {
      const written = JSON.stringify(of_state ? value : state);
      folder.write("checkpoint-3/trainer_state.json", written);
      folder.write("checkpoint-3/optimizer.safetensors", of_state ? tensors : value);
      const found: Record<string, unknown> = await read();
      const other = Object.keys(whole).filter((key) => JSON.stringify(found[key]) !== JSON.stringify(whole[key]));
      if (other.length === 0) return "same";
      return `${written.includes('"sha256"') ? "sealed" : "open"}: ${other}`;
    };
    return { detail: `${state === sealed ? "sealed" : "open"} ${of_state ? "state" : "tensors"}: ${detail}`, work };
  };
}

const targets: Target[] = [
  {
    name: "the journal of an evaluation",
    few: 60,
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
  {
    name: "checkpoints of a training",
    harmless: [
      [
        /^open: ((tokens_seen|skipped_in_a_row|pending|fingerprint),?)+$/,
        "figures for the log, steps that the next good one forgets, and a fingerprint that is held against the recipe",
      ],
      [
        /^open: skipped,values$/,
        "without a checksum, a step that is called skipped in both counts is what it is called",
      ],
      [/^open: values$/, "earlier versions wrote no checksums, and one finite number is as good as another"],
    ],
    make: of_checkpoints,
  },
];

for (const target of targets) fuzz(target);
