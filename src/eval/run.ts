/**
 * A run: load and check all data, make every prompt, score batch by batch into a journal.
 *
 * Batches are cut by the documents alone and scored independently of each other, so a run that was interrupted, or split over
 * machines, gives the same numbers as one that was not.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Engine, Score, ScoreRequest } from "../engine/engine.js";
import { common_length } from "../engine/tree.js";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { with_lock } from "../lock.js";
import type { Language } from "../text/arabic.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { load_task, type TaskData } from "./datasets.js";
import { type Journal, type JournalEntry, open_journal } from "./journal.js";
import { per_question } from "./metrics.js";
import { folder_name } from "./names.js";
import { build_prompts, encode_prompt, type Prompt } from "./prompts.js";
import { document_hash, float_string, sha256 } from "./python.js";
import type { Doc, Task } from "./tasks.js";

/** A model as the evaluation sees it. */
export interface EvalModel {
  engine: Pick<Engine, "score">;
  tokenizer: Tokenizer;
  /** Tokens the model can see. */
  max_length: number;
  /** For the name of its results. */
  name: string;
  /** What is recorded about it; all of it decides whether two runs are the same. */
  info: ModelInfo;
}

export interface ModelInfo {
  /** "bimedix" for the local engine, "openai-completions" for a server. */
  engine: string;
  dtype: string;
  num_parameters: number;
  /** Of the weights, the configuration and the tokenizer. */
  sha256: string;
  versions: Record<string, string>;
  [more: string]: unknown;
}

export interface EvalOptions {
  tasks: readonly Task[];
  /** A folder in place of the hub. */
  data?: string;
  /** Default 0. */
  num_fewshot?: number;
  /** Only so many of each task's first questions; below 1 such a part of them, rounded up, as the harness has it. */
  limit?: number;
  /** What is odd about the data, before the first question is scored. */
  on_warning?: (warning: string) => void;
  /** Default: as the tokenizer's configuration says. */
  add_bos?: boolean;
  apply_chat_template?: boolean;
  /** Ask each question again with its options in so many other orders. Default 0. */
  shuffle_options?: number;
  /** Part `index` (from 1) of `count`. */
  shard?: { index: number; count: number };
  /** Where results go; default "results". */
  output?: string;
  /** Questions done, of this run or shard, and how many of them in this process. */
  on_progress?: (progress: { task: string; done: number; total: number; scored: number }) => void;
  signal?: AbortSignal;
}

/** A question's line in the samples file; see lm-evaluation-harness's `SampleResult`. */
export interface Sample {
  task: string;
  doc_id: number;
  doc: Doc;
  target: string;
  arguments: Record<string, { arg_0: string; arg_1: string }>;
  resps: [[string, string]][];
  filtered_resps: [string, string][];
  filter: "none";
  metrics: string[];
  doc_hash: string;
  prompt_hash: string;
  target_hash: string;
  acc: number;
  acc_norm?: number;
  bimedix: SampleExtras;
}

export interface SampleExtras {
  gold: number;
  log_likelihoods: number[];
  /** Tokens of the context and all continuations, computed one by one as a harness without sharing would. */
  tokens: number;
  /** Whether the context lost its beginning. */
  truncated: boolean;
  /** In other orders: where each option stood, and the options' log-likelihoods in the original order. */
  shuffled?: { order: number[]; log_likelihoods: number[] }[];
}

/** What the results say about a run, besides its samples. */
export interface RunInfo {
  model: ModelInfo & { name: string };
  num_fewshot: number;
  limit: number | null;
  add_bos: boolean;
  chat_template: string | null;
  max_length: number;
  shuffle_options: number;
  tokenizer: Record<"bos" | "eos" | "pad", [string | null, string]>;
  started: number;
  tasks: TaskInfo[];
}

export interface TaskInfo {
  name: string;
  language: Language;
  /** Questions that the data holds, and those that were asked. */
  original: number;
  effective: number;
  /** The sha256 of the questions that were asked, in the columns of `Doc`. */
  documents: string;
  files: TaskData["files"];
  warnings?: string[];
}

/** Questions that are scored together. A kill loses at most these. */
const BATCH = 32;

interface Question {
  task: Task;
  doc_id: number;
  doc: Doc;
  prompt: Prompt;
  requests: ScoreRequest[];
  truncated: boolean;
  /** The same with its options in other orders: `order[i]` is the old place of the new option i. */
  shuffled: { order: number[]; requests: ScoreRequest[] }[];
}

interface Batch {
  questions: Question[];
  /** So many tokens begin all questions of the task. */
  prefix: number;
}

export type Run = Journal<Sample, RunInfo>;

/** The samples of each task in the order of its documents. */
export function samples_of({ header, entries }: Run): Map<string, Sample[]> {
  const by_task = new Map(header.run.tasks.map(({ name }) => [name, [] as Sample[]]));
  for (const { samples } of entries) for (const sample of samples) by_task.get(sample.task)!.push(sample);
  for (const samples of by_task.values()) samples.sort((a, b) => a.doc_id - b.doc_id);
  return by_task;
}

/** A run that holds each of its questions once. @throws BimedixError bad_data */
export function whole(run: Run): Run {
  for (const [task, samples] of samples_of(run)) {
    const { effective } = run.header.run.tasks.find(({ name }) => name === task)!;
    if (samples.length !== effective || samples.some(({ doc_id }, i) => doc_id !== i))
      throw new BimedixError("bad_data", {
        given: `a run with other questions of ${task} than its ${effective}`,
        expected: "each of them once",
        todo: "remove the files of the run, and score it again",
      });
  }
  return run;
}

/** Scores what is not in the run's journal yet, and returns the journal with the path of its file. @throws BimedixError */
export const run_tasks = (model: EvalModel, options: EvalOptions): Promise<Done> =>
  with_run(model, options, async (done) => done);

/** What a run ended with: its journal, and the path of that. */
export interface Done {
  file: string;
  run: Run;
}

/**
 * The same, and does `work` with it while no other process may score the same run: one that tries is refused.
 * @throws BimedixError in_use
 */
export async function with_run<T>(
  model: EvalModel,
  options: EvalOptions,
  work: (done: Done) => Promise<T>,
): Promise<T> {
  const { output = "results", shard, signal, on_warning } = options;
  const { batches, info } = await plan(model, options);
  // Shards may run on other releases of Node.js, at other times.
  const { node: _, ...versions } = info.model.versions;
  const key = sha256(JSON.stringify({ ...info, started: 0, model: { ...info.model, versions } }));
  const part = shard ? `.${shard.index}-of-${shard.count}` : "";
  const folder = join(output, folder_name(model.name));
  const name = `run_${key.slice(0, 12)}${part}.jsonl`;
  const file = join(folder, name);
  await mkdir(folder, { recursive: true }).catch((error) =>
    Promise.reject(file_error(error, folder, "a folder to write to")),
  );
  let told = false;
  const on_wait = (owner: string) => {
    if (!told) on_warning?.(`${file}: waiting to see whether ${owner} still writes`);
    told = true;
  };
  const locked = { what: "bimedix eval", wait: false, on_wait, ...(signal ? { signal } : {}) };
  return with_lock(
    join(folder, `.${name}.lock`),
    async (lock) => {
      const journal = await open_journal<Sample, RunInfo>(file, { key, batches: batches.length, run: info });
      const append: typeof journal.append = async (entry) => {
        await lock.check();
        await journal.append(entry);
      };
      try {
        await score_missing(model, batches, { ...journal, append }, options);
      } finally {
        // Each line is on the disk already.
        await journal.close().catch(() => {});
      }
      await lock.check();
      const run = { header: journal.header, entries: journal.entries };
      return work({ file, run: shard ? run : whole(run) });
    },
    locked,
  );
}

/** Scores the batches that a journal lacks, into it. */
async function score_missing(
  model: EvalModel,
  batches: readonly Batch[],
  { entries, append }: Run & { append: (entry: JournalEntry<Sample>) => Promise<void> },
  { shard, on_progress, signal }: EvalOptions,
): Promise<void> {
  const finished = new Set(entries.map(({ batch }) => batch));
  const mine = [...batches.entries()].filter(([number]) => !shard || number % shard.count === shard.index - 1);
  const todo = mine.filter(([number]) => !finished.has(number));
  const size = (list: typeof mine) => list.reduce((total, [, { questions }]) => total + questions.length, 0);
  const progress = { task: "", done: size(mine) - size(todo), total: size(mine), scored: 0 };
  for (const [number, batch] of todo) {
    progress.task = batch.questions[0]!.task.name;
    on_progress?.(progress);
    const start = performance.now();
    const samples = await score_batch(model, batch, signal);
    const entry: JournalEntry<Sample> = { batch: number, seconds: (performance.now() - start) / 1000, samples };
    await append(entry);
    entries.push(entry);
    progress.done += samples.length;
    progress.scored += samples.length;
    on_progress?.(progress);
  }
}

/** All data checked and all prompts made: whatever is wrong shows before the first question is scored. */
async function plan(model: EvalModel, options: EvalOptions): Promise<{ batches: Batch[]; info: RunInfo }> {
  const { tasks, data, num_fewshot = 0, limit, shuffle_options = 0, signal } = options;
  const { tokenizer, max_length } = model;
  const bos = tokenizer.bos_token_id;
  const add_bos = options.add_bos ?? (bos !== null && tokenizer.encode("a")[0] === bos);
  if (add_bos && bos === null) {
    throw new BimedixError("bad_option", {
      given: "add_bos for a tokenizer without a token that begins a text",
      expected: "add_bos false",
      todo: "leave it out",
    });
  }
  const chat = options.apply_chat_template ? tokenizer : undefined;
  const batches: Batch[] = [];
  const loaded: RunInfo["tasks"] = [];
  for (const task of tasks) {
    const given = { num_fewshot, ...(data === undefined ? {} : { data }), ...(signal ? { signal } : {}) };
    const { docs, shots, files, warnings } = await load_task(task, given);
    for (const warning of warnings) options.on_warning?.(warning);
    const kept = docs.slice(0, limit === undefined || limit >= 1 ? limit : Math.ceil(docs.length * limit));
    loaded.push({
      name: task.name,
      language: task.language,
      original: docs.length,
      effective: kept.length,
      documents: sha256(JSON.stringify(kept)),
      files,
      ...(warnings.length > 0 ? { warnings } : {}),
    });
    const ask = (documents: readonly Doc[]) =>
      build_prompts(task, documents, shots, { num_fewshot, ...(chat ? { chat } : {}) }).map((prompt) => ({
        prompt,
        ...encode_prompt(prompt, { tokenizer, add_bos: options.add_bos ?? null, max_length }),
      }));
    const questions = ask(kept).map((asked, doc_id): Question => {
      return { task, doc_id, doc: kept[doc_id]!, ...asked, shuffled: [] };
    });
    const most = kept.reduce((most, doc) => Math.max(most, (task.options?.get(doc).length ?? 0) - 1), 0);
    for (let turn = 1; turn <= Math.min(shuffle_options, most); turn++) {
      const { get, reorder } = task.options!;
      const orders = kept.map((doc) => get(doc).map((_, i, { length }) => (i + turn) % length));
      const asked = ask(kept.map((doc, i) => reorder(doc, orders[i]!)));
      for (const [i, { requests }] of asked.entries()) {
        // With as many turns as options the first order would come again.
        if (turn < orders[i]!.length) questions[i]!.shuffled.push({ order: orders[i]!, requests });
      }
    }
    batches.push(...cut(questions));
  }
  const info: RunInfo = {
    model: { name: model.name, ...model.info },
    num_fewshot,
    limit: limit ?? null,
    add_bos,
    chat_template: chat?.get_chat_template() ?? null,
    max_length,
    shuffle_options,
    tokenizer: special_tokens(tokenizer),
    started: Date.now() / 1000,
    tasks: loaded,
  };
  return { batches, info };
}

/** Batches of one task. Questions that lost their beginning come last: they share nothing with the others. */
function cut(questions: readonly Question[]): Batch[] {
  const order = [...questions.filter((one) => !one.truncated), ...questions.filter((one) => one.truncated)];
  const first = order[0]!.requests[0]!.context;
  const prefix = order.reduce((shortest, { truncated, requests }) => {
    return truncated ? shortest : Math.min(shortest, common_length(first, requests[0]!.context));
  }, first.length);
  return Array.from({ length: Math.ceil(order.length / BATCH) }, (_, i) => ({
    questions: order.slice(i * BATCH, (i + 1) * BATCH),
    prefix,
  }));
}

async function score_batch(
  { engine }: EvalModel,
  { questions, prefix }: Batch,
  signal: AbortSignal | undefined,
): Promise<Sample[]> {
  const all = questions.flatMap(({ requests, shuffled }) => [...requests, ...shuffled.flatMap((one) => one.requests)]);
  const scores = await engine.score(all, { prefix, ...(signal ? { signal } : {}) });
  let at = 0;
  const take = (count: number) => scores.slice(at, (at += count));
  return questions.map((question) => {
    const own = take(question.requests.length);
    const shuffled = question.shuffled.map(({ order, requests }) => {
      const moved = take(requests.length).map(({ logprob }) => logprob);
      return { order, log_likelihoods: order.map((_, old) => moved[order.indexOf(old)]!) };
    });
    return to_sample(question, own, shuffled);
  });
}

function to_sample(
  { task, doc_id, doc, prompt, requests, truncated }: Question,
  scores: readonly Score[],
  shuffled: NonNullable<SampleExtras["shuffled"]>,
): Sample {
  const choices = task.doc_to_choice(doc);
  const target = task.doc_to_target(doc);
  const gold = typeof target === "number" ? target : choices.indexOf(target);
  const log_likelihoods = scores.map(({ logprob }) => logprob);
  const resps = scores.map(({ logprob, is_greedy }): [string, string] => [
    float_string(logprob),
    is_greedy ? "True" : "False",
  ]);
  const { context, continuations } = prompt;
  const args = continuations.map((text, i) => [`gen_args_${i}`, { arg_0: context, arg_1: text }] as const);
  const values = task.metrics.map((metric) => [metric, per_question[metric](log_likelihoods, choices, gold)] as const);
  return {
    task: task.name,
    doc_id,
    doc,
    target: String(target),
    arguments: Object.fromEntries(args),
    resps: resps.map((one) => [one]),
    filtered_resps: resps,
    filter: "none",
    metrics: [...task.metrics],
    doc_hash: document_hash(doc),
    prompt_hash: sha256(context),
    target_hash: sha256(String(target)),
    ...(Object.fromEntries(values) as { acc: number; acc_norm?: number }),
    bimedix: {
      gold,
      log_likelihoods,
      tokens: requests.reduce((total, one) => total + one.context.length + one.continuation.length, 0),
      truncated,
      ...(shuffled.length > 0 ? { shuffled } : {}),
    },
  };
}

function special_tokens(tokenizer: Tokenizer): RunInfo["tokenizer"] {
  const named = (id: number | null): [string | null, string] =>
    id === null ? [null, "None"] : [tokenizer.convert_ids_to_tokens(id), String(id)];
  return { bos: named(tokenizer.bos_token_id), eos: named(tokenizer.eos_token_id), pad: named(tokenizer.pad_token_id) };
}
