/** The verbs eval, eval merge and compare. */
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { data_kinds, unknown_kind } from "../data/records.js";
import { EMBEDDED_MODEL } from "../embedded.js";
import { BimedixError } from "../errors.js";
import { compare_runs, comparison_text } from "../eval/compare.js";
import { contamination, corpus_files } from "../eval/contamination.js";
import { is_given, mcqa_task } from "../eval/datasets.js";
import { read_journal } from "../eval/journal.js";
import { local_model, remote_model } from "../eval/model.js";
import { write_report } from "../eval/report.js";
import { merge_runs, type Results, to_results, write_results } from "../eval/results.js";
import { type EvalModel, type EvalOptions, type Run, type RunInfo, type Sample, with_run } from "../eval/run.js";
import { tables, to_text } from "../eval/table.js";
import { type Task, task_groups, tasks } from "../eval/tasks.js";
import { with_output } from "../lock.js";
import { parse_dtype } from "../model/convert.js";
import { is_url, no_adapter, print_json, progress_bar } from "./common.js";
import { stoppable } from "./ending.js";
import { bar, is_screen, show_state } from "./terminal.js";

export interface EvalCommand {
  model?: string;
  adapter?: string;
  tokenizer?: string;
  tasks: string;
  data?: string;
  numFewshot: number;
  limit?: number;
  output: string;
  dtype?: string;
  exact?: boolean;
  addBos?: string;
  applyChatTemplate?: boolean;
  shuffleOptions: number;
  shard?: string;
  contamination?: string[];
  json?: boolean;
}

export const evaluate = (options: EvalCommand): Promise<void> =>
  stoppable(
    (signal) => score(options, signal),
    () => process.stderr.write("\nStopping. The same command goes on where this one was.\n"),
  );

async function score(options: EvalCommand, signal: AbortSignal): Promise<void> {
  const { model: id = EMBEDDED_MODEL, dtype, data, output } = options;
  const shard = options.shard === undefined ? undefined : parse_shard(options.shard);
  whole("--num-fewshot", options.numFewshot, 0);
  whole("--shuffle-options", options.shuffleOptions, 0);
  if (options.limit !== undefined) check_limit(options.limit);
  const chosen = await choose_tasks(options.tasks, data);
  const corpus = await corpus_of(options);
  // What cannot be written is known before the model is loaded and the questions are scored.
  await with_output(output, "bimedix eval", async () => {}, { signal });
  const remote = is_url(id);
  if (remote && options.adapter !== undefined) throw no_adapter();
  const model: EvalModel & { dispose?: () => Promise<void> } = remote
    ? await remote_model(id, { ...(options.tokenizer ? { tokenizer: options.tokenizer } : {}), signal })
    : await local_model(id, {
        ...(dtype === undefined ? {} : { dtype: parse_dtype(dtype) }),
        on_progress: progress_bar("loading"),
        signal,
        ...(options.exact ? { accuracy_level: 0 } : {}),
        ...(options.adapter === undefined ? {} : { adapter: options.adapter }),
      });
  const asked: EvalOptions = {
    tasks: chosen,
    num_fewshot: options.numFewshot,
    apply_chat_template: options.applyChatTemplate ?? false,
    shuffle_options: options.shuffleOptions,
    output,
    on_progress: question_bar(),
    on_warning: (warning) => process.stderr.write(`${warning}\n`),
    signal,
    ...(data === undefined ? {} : { data }),
    ...(options.limit === undefined ? {} : { limit: options.limit }),
    ...(options.addBos === undefined ? {} : { add_bos: options.addBos === "true" }),
    ...(shard ? { shard } : {}),
  };
  try {
    await with_run(model, asked, async ({ file, run }) => {
      if (shard) {
        process.stdout.write(`${file}\n`);
        process.stderr.write("With the other shards' files: bimedix eval merge FILE...\n");
        return;
      }
      await finish(run, options, chosen, corpus);
      // All of it is in the results now.
      await rm(file, { force: true });
    });
  } finally {
    await model.dispose?.();
  }
}

/** One run's results from the files of its shards. */
export async function merge(files: string[], options: EvalCommand): Promise<void> {
  const parts = await Promise.all(
    files.map(async (file) => ({ file, run: (await read_journal<Sample, RunInfo>(file)) as Run })),
  );
  await finish(merge_runs(parts), options, [], await corpus_of(options));
}

const corpus_of = async ({ contamination: corpora = [] }: EvalCommand): Promise<string[]> =>
  (await Promise.all(corpora.map(corpus_files))).flat();

export async function compare(a: string, b: string, options: { json?: boolean }): Promise<void> {
  const comparison = await compare_runs(a, b);
  if (options.json) print_json(comparison);
  else process.stdout.write(comparison_text(comparison));
}

async function finish(
  run: Run,
  { output, json }: EvalCommand,
  chosen: readonly Task[],
  corpus: readonly string[],
): Promise<void> {
  const results = to_results(run, new Map(chosen.map((task) => [task.name, task])));
  if (corpus.length > 0) results.bimedix.contamination = await contamination(run, corpus);
  const { folder, date } = await write_results(run, results, output);
  await write_report(run, results, folder, date);
  if (json) return print_json(results);
  process.stdout.write(`\n${to_text(tables(results))}\n${extras_text(results)}`);
  process.stderr.write(`\n${folder}: results_${date}.json, samples, and report_${date}.html, .md, .tex, .csv\n`);
}

/** From this part of a task on, repeated questions are worth a line: real exams have a few. */
const MANY_REPEATED = 0.03;

/** What was asked for besides the table, and what is odd about the data. */
function extras_text({ bimedix }: Results): string {
  const percent = (part: number) => `${(100 * part).toFixed(1)} %`;
  const { changed_by_order, contamination: found } = bimedix;
  const repeated = Object.entries(bimedix.repeated_questions).filter(([task, count]) => {
    const { effective } = bimedix.run.tasks.find(({ name }) => name === task)!;
    return count > MANY_REPEATED * effective;
  });
  const lines = [
    ...repeated.map(([task, count]) => `${task}: ${count} questions have the text of another one; look at its data`),
    ...Object.entries(changed_by_order ?? {}).map(
      ([task, part]) => `${task}: ${percent(part)} of the answers change with the order of the options`,
    ),
    ...Object.entries(found?.tasks ?? {}).map(([task, one]) => {
      const clean = one.accuracy_clean === null ? "" : `; accuracy on the others ${percent(one.accuracy_clean)}`;
      return `${task}: ${one.found} of ${one.questions} questions occur in the corpus${clean}`;
    }),
  ];
  return lines.length > 0 ? `\n${lines.join("\n")}\n` : "";
}

/** Names of tasks and groups, and files of own questions. */
async function choose_tasks(names: string, data: string | undefined): Promise<Task[]> {
  const chosen = new Map<string, Task>();
  for (const name of names
    .split(",")
    .map((one) => one.trim())
    .filter(Boolean)) {
    const group = task_groups.get(name);
    const task = tasks.get(name);
    if (group) {
      const members = group.tasks.map((member) => tasks.get(member)!);
      const absent = members.filter((member) => !is_given(member, data));
      for (const member of members) if (!absent.includes(member)) chosen.set(member.name, member);
      if (absent.length > 0) {
        const left_out = absent
          .map((member) => `${member.name} (${member.dataset.files[member.dataset.test_split]})`)
          .join(", ");
        process.stderr.write(`${name} without ${left_out}: no public data set, and no such file in --data\n`);
      }
    } else if (task) chosen.set(name, task);
    else if (/\.(jsonl|ndjson|json|csv|tsv|parquet)(\.gz)?$/i.test(name)) {
      const own = await mcqa_task(name);
      if (chosen.has(own.name)) {
        throw new BimedixError("bad_option", {
          given: `two tasks named ${own.name}`,
          expected: "each name once",
          todo: "rename a file",
        });
      }
      chosen.set(own.name, own);
    } else if (existsSync(name)) throw unknown_kind(name);
    else {
      throw new BimedixError("bad_option", {
        given: `task ${JSON.stringify(name)}`,
        expected: `${[...task_groups.keys()].join(", ")}, a task of one of them, or a file (${data_kinds})`,
        todo: "bimedix eval --list shows all",
      });
    }
  }
  if (data !== undefined && !existsSync(data)) {
    throw new BimedixError("file_not_found", {
      given: `--data ${data}, which does not exist`,
      expected: "a folder with the benchmarks' files",
      todo: "check the path, or leave it out to load them from the hub",
    });
  }
  if (chosen.size > 0) return [...chosen.values()];
  throw new BimedixError("bad_option", {
    given: `--tasks ${JSON.stringify(names)} without a task`,
    expected: "names of tasks or groups, or files, with commas between",
    todo: "bimedix eval --list shows all",
  });
}

export function list_tasks(): void {
  const lines = ["Groups:"];
  for (const { name, tasks: members } of task_groups.values()) lines.push(`  ${name}: ${members.join(", ")}`);
  lines.push("", "Tasks, their data set on the hub, and their files in a folder of --data:");
  for (const { name, dataset } of tasks.values()) {
    const files = [...new Set(Object.values(dataset.files))].join(", ");
    lines.push(
      `  ${name}: ${dataset.path === null ? "not on the hub" : [dataset.path, dataset.name ?? ""].join(" ").trim()}; ${files}`,
    );
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}

function whole(option: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new BimedixError("bad_option", {
    given: `${option} ${value}`,
    expected: `a whole number from ${least}`,
    todo: "change it",
  });
}

function check_limit(limit: number): void {
  if (Number.isFinite(limit) && limit > 0) return;
  throw new BimedixError("bad_option", {
    given: `--limit ${limit}`,
    expected: "a whole number from 1, or a part of each task such as 0.1",
    todo: "change it",
  });
}

function parse_shard(text: string): { index: number; count: number } {
  const [index, count] = /^\d+\/\d+$/.test(text) ? text.split("/").map(Number) : [0, 0];
  if (index! >= 1 && index! <= count!) return { index: index!, count: count! };
  throw new BimedixError("bad_option", {
    given: `--shard ${text}`,
    expected: "i/n with i from 1 to n, such as 1/4",
    todo: "change it",
  });
}

/** Questions a second and time left, on one line of a terminal; elsewhere a line every half minute. */
function question_bar(): NonNullable<EvalOptions["on_progress"]> {
  const start = performance.now();
  let last = start;
  return ({ task, done, total, scored }) => {
    const seconds = (performance.now() - start) / 1000;
    const rate = scored / seconds;
    const left = rate > 0 ? (total - done) / rate : 0;
    const time = `${Math.floor(left / 60)}:${String(Math.floor(left % 60)).padStart(2, "0")}`;
    const numbers = `${done}/${total} questions, ${rate.toFixed(1)}/s, ${rate > 0 ? time : "?"} left`;
    if (is_screen(process.stderr)) show_state(`${bar(done / total)} ${numbers}  ${task}${done === total ? "\n" : ""}`);
    else if (done === total || performance.now() - last > 30_000) {
      last = performance.now();
      process.stderr.write(`${numbers}  ${task}\n`);
    }
  };
}
