/**
 * What a run found, in lm-evaluation-harness's schema (lm_eval/result_schema.py, loggers/evaluation_tracker.py at 0.4.13), so that
 * its viewers and scripts read it; this project's own numbers stand under the one key `bimedix`.
 */
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { write_atomically } from "../files.js";
import { with_output } from "../lock.js";
import type { Contamination } from "./contamination.js";
import { argmax, type Calibration, calibration, group_mean, mean, mean_stderr, sum } from "./metrics.js";
import { file_stem, folder_name } from "./names.js";
import { FEWSHOT_SEED } from "./prompts.js";
import { sha256 } from "./python.js";
import { type Run, type RunInfo, type Sample, samples_of, whole } from "./run.js";
import { columns, question_of, type Task, task_groups, task_of_column, tasks } from "./tasks.js";

export interface TaskResult {
  name: string;
  alias: string;
  sample_len: number;
  /** Of groups: so many questions stand behind each metric. */
  sample_count?: Record<string, number>;
  [metric: string]: number | string | Record<string, number> | undefined;
}

export interface Results {
  results: Record<string, TaskResult>;
  groups?: Record<string, TaskResult>;
  bimedix: Extras;
  [harness: string]: unknown;
}

export interface Extras {
  run: RunInfo;
  /** Expected calibration error and Brier score of the probabilities over the options, a task. */
  calibration: Record<string, Calibration>;
  tokens_per_question: Record<string, number>;
  /** Questions whose beginning did not fit into the model's context. */
  truncated: Record<string, number>;
  /** Questions with the text of an earlier one, whatever their options: in a translated test a sign of damage. */
  repeated_questions: Record<string, number>;
  /** Accuracy in English less accuracy in Arabic, a column that was asked in both. */
  language_gap: Record<string, number>;
  /** With --shuffle-options: the part of questions that another order of their options made the model answer otherwise. */
  changed_by_order?: Record<string, number>;
  /** With --contamination. */
  contamination?: Contamination;
}

/** One run from its shards. @throws BimedixError bad_data when parts are missing or belong to different runs */
export function merge_runs(parts: readonly { file: string; run: Run }[]): Run {
  const [first] = parts;
  const all = new Map<number, Run["entries"][number]>();
  for (const { file, run } of parts) {
    if (run.header.key !== first!.run.header.key) {
      throw new BimedixError("bad_data", {
        given: `${first!.file} and ${file}, which belong to different runs`,
        expected: "shards of one model, data and options",
        todo: "merge the shards of one run",
      });
    }
    for (const entry of run.entries) all.set(entry.batch, entry);
  }
  const { header } = first!.run;
  const missing = header.batches - all.size;
  const merged = { header, entries: [...all.values()].sort((a, b) => a.batch - b.batch) };
  if (missing === 0) return whole(merged);
  throw new BimedixError("bad_data", {
    given: `a run of which ${missing} of ${header.batches} batches are missing`,
    expected: "all its shards, each finished",
    todo: "run what is missing",
  });
}

/** The results of a whole run. `known` holds the tasks that are not in the registry: a person's own files. */
export function to_results(run: Run, known: ReadonlyMap<string, Task> = new Map()): Results {
  const info = run.header.run;
  const samples = samples_of(run);
  const task_of = (name: string) => tasks.get(name) ?? known.get(name);
  const per_task = <T>(value: (list: Sample[], name: string) => T): Record<string, T> =>
    Object.fromEntries([...samples].map(([name, list]) => [name, value(list, name)]));
  const results = per_task((list, name) => task_result(name, task_of(name)?.alias ?? name, list));
  const groups = group_results(results);
  const per_group = <T>(value: T): Record<string, T> =>
    Object.fromEntries(Object.keys(groups).map((name) => [name, value]));
  const shuffled = Object.entries(per_task(changed_by_order)).filter(([, value]) => value !== null);
  const { bos, eos, pad } = info.tokenizer;
  const { name: model_name, ...model } = info.model;
  return {
    results: { ...results, ...groups },
    ...(Object.keys(groups).length > 0 ? { groups } : {}),
    group_subtasks: Object.fromEntries(Object.keys(groups).map((name) => [name, task_groups.get(name)!.tasks])),
    configs: per_task((_, name) => task_config(name, task_of(name), info)),
    versions: { ...per_task((_, name) => task_of(name)?.version ?? 1), ...per_group("Yaml") },
    "n-shot": { ...per_task(() => info.num_fewshot), ...per_group(info.num_fewshot) },
    higher_is_better: {
      ...per_task(([first]) => Object.fromEntries(first!.metrics.map((metric) => [metric, true]))),
      ...per_group({ acc: true }),
    },
    "n-samples": Object.fromEntries(info.tasks.map(({ name, original, effective }) => [name, { original, effective }])),
    config: {
      model: model.engine,
      model_args: { pretrained: model_name, dtype: model.dtype, add_bos_token: info.add_bos },
      model_num_parameters: model.num_parameters,
      model_dtype: model.dtype,
      model_revision: "",
      model_sha: model.sha256,
      batch_size: null,
      batch_sizes: [],
      device: model.engine === "bimedix" ? "cpu" : null,
      use_cache: null,
      limit: info.limit,
      bootstrap_iters: 0,
      gen_kwargs: null,
      random_seed: 0,
      numpy_seed: FEWSHOT_SEED,
      torch_seed: FEWSHOT_SEED,
      fewshot_seed: FEWSHOT_SEED,
    },
    git_hash: null,
    date: info.started,
    pretty_env_info: `Node.js ${process.versions.node}, ${process.platform} ${process.arch}`,
    transformers_version: null,
    lm_eval_version: null,
    upper_git_hash: null,
    tokenizer_pad_token: pad,
    tokenizer_eos_token: eos,
    tokenizer_bos_token: bos,
    eot_token_id: eos[0] === null ? null : Number(eos[1]),
    max_length: info.max_length,
    task_hashes: per_task((list) =>
      sha256(list.map((one) => one.doc_hash + one.prompt_hash + one.target_hash).join("")),
    ),
    model_source: model.engine,
    model_name,
    model_name_sanitized: folder_name(model_name),
    system_instruction: null,
    system_instruction_sha: null,
    fewshot_as_multiturn: info.chat_template !== null,
    chat_template: info.chat_template,
    chat_template_sha: info.chat_template === null ? null : sha256(info.chat_template),
    total_evaluation_time_seconds: String(sum(run.entries.map(({ seconds }) => seconds))),
    bimedix: {
      run: info,
      calibration: per_task((list) => calibration(list.map(({ bimedix }) => bimedix))),
      tokens_per_question: per_task((list) => mean(list.map(({ bimedix }) => bimedix.tokens))),
      truncated: per_task((list) => list.filter(({ bimedix }) => bimedix.truncated).length),
      repeated_questions: per_task(
        (list) =>
          list.length - new Set(list.map(({ doc }) => `${question_of(doc)} ${String(doc.CONTEXTS ?? "")}`)).size,
      ),
      language_gap: language_gap(results),
      ...(shuffled.length > 0 ? { changed_by_order: Object.fromEntries(shuffled) as Record<string, number> } : {}),
    },
  };
}

function task_result(name: string, alias: string, samples: readonly Sample[]): TaskResult {
  const result: TaskResult = { name, alias, sample_len: samples.length };
  for (const metric of samples[0]!.metrics as ("acc" | "acc_norm")[]) {
    const values = samples.map((sample) => sample[metric]!);
    result[`${metric},none`] = mean(values);
    result[`${metric}_stderr,none`] = mean_stderr(values);
  }
  return result;
}

/** Every group whose tasks were all run; a group without its optional Arabic exams is not one. */
function group_results(results: Record<string, TaskResult>): Record<string, TaskResult> {
  const groups: Record<string, TaskResult> = {};
  for (const { name, tasks: members, weight_by_size } of task_groups.values()) {
    if (!members.every((member) => results[member])) continue;
    const { value, stderr } = group_mean(
      members.map((member) => ({
        value: results[member]!["acc,none"] as number,
        stderr: results[member]!["acc_stderr,none"] as number | "N/A",
        size: results[member]!.sample_len,
      })),
      weight_by_size,
    );
    const sample_len = sum(members.map((member) => results[member]!.sample_len));
    const sample_count = { "acc,none": sample_len };
    groups[name] = { name, alias: name, sample_len, sample_count, "acc,none": value, "acc_stderr,none": stderr };
  }
  return groups;
}

function task_config(name: string, task: Task | undefined, info: RunInfo): Record<string, unknown> {
  if (!task) return { task: name, num_fewshot: info.num_fewshot };
  const { path, name: dataset_name, test_split, fewshot_splits } = task.dataset;
  return {
    task: name,
    ...(task.alias ? { task_alias: task.alias } : {}),
    dataset_path: path ?? "local",
    ...(dataset_name ? { dataset_name } : {}),
    test_split,
    ...(fewshot_splits[0] ? { fewshot_split: fewshot_splits[0] } : {}),
    doc_to_text: String(task.doc_to_text),
    doc_to_target: String(task.doc_to_target),
    doc_to_choice: String(task.doc_to_choice),
    description: task.description,
    target_delimiter: " ",
    fewshot_delimiter: "\n\n",
    fewshot_config: { sampler: task.sampler },
    num_fewshot: info.num_fewshot,
    metric_list: task.metrics.map((metric) => ({ metric, aggregation: "mean", higher_is_better: true })),
    output_type: "multiple_choice",
    repeats: 1,
    metadata: { version: task.version },
  };
}

function language_gap(results: Record<string, TaskResult>): Record<string, number> {
  const gap: Record<string, number> = {};
  for (const column of columns) {
    const [english, arabic] = ["bimedix_en", "bimedix_ar"].map(
      (group) => results[task_of_column(group, column)!.name]?.["acc,none"],
    );
    if (typeof english === "number" && typeof arabic === "number") gap[column] = english - arabic;
  }
  return gap;
}

function changed_by_order(samples: readonly Sample[]): number | null {
  const asked = samples.filter(({ bimedix }) => bimedix.shuffled);
  if (asked.length === 0) return null;
  const changed = asked.filter(({ bimedix }) => {
    const chosen = argmax(bimedix.log_likelihoods);
    return bimedix.shuffled!.some(({ log_likelihoods }) => argmax(log_likelihoods) !== chosen);
  });
  return changed.length / asked.length;
}

/** Python's `datetime.now().isoformat()` with the colons that file names may not have taken out. */
export function date_id(now: Date, microseconds = 0): string {
  const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000).toISOString();
  return local.replace("Z", String(microseconds).padStart(3, "0")).replaceAll(":", "-");
}

/** When a run was begun, so that one that is killed while it writes its results writes the same files again. */
const date_of = ({ header: { key, run } }: Run): string =>
  // Of two that began in one millisecond each has a name of its own.
  date_id(new Date(run.started * 1000), Number.parseInt(key.slice(0, 8), 16) % 1000);

/**
 * Writes samples_<task>_<date>.jsonl and, once they are there, results_<date>.json, each whole or not at all. Returns the folder and
 * the date.
 */
export function write_results(run: Run, results: Results, output: string): Promise<{ folder: string; date: string }> {
  const folder = join(output, folder_name(run.header.run.model.name));
  const date = date_of(run);
  return with_output(folder, "bimedix eval", async (lock) => {
    for (const [task, samples] of samples_of(run)) {
      const lines = samples.map(({ task: _, ...sample }) => `${JSON.stringify(sample)}\n`);
      const file = join(folder, `samples_${file_stem(task)}_${date}.jsonl`);
      await lock.check();
      await write_atomically(file, (handle) => handle.writeFile(lines.join("")));
    }
    await lock.check();
    await write_atomically(join(folder, `results_${date}.json`), (file) =>
      file.writeFile(`${JSON.stringify(results, null, 2)}\n`),
    );
    return { folder, date };
  });
}
