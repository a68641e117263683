/** Documents of a task: found in a folder or on the hub, brought into the hub's columns, and checked one by one. */
import { existsSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { position_of } from "../data/answers.js";
import { bad_data, type DataRecord, read_records } from "../data/records.js";
import { BimedixError } from "../errors.js";
import { file_hash } from "../files.js";
import { dataset_file } from "../model/hub.js";
import { language_of } from "../text/arabic.js";
import { is_blank } from "../text/python.js";
import { located, own_questions, type Parsed } from "./own_questions.js";
import { arabic_query, type DatasetKind, type Doc, mcqa_file, type Task, task_groups, tasks } from "./tasks.js";

export interface TaskData {
  docs: Doc[];
  /** Empty when no shots are asked for. */
  shots: Doc[];
  /** The files that were read, by split, and their sha256. */
  files: { split: string; file: string; sha256: string }[];
  /** What a person should look at. */
  warnings: string[];
}

export interface DataOptions {
  /** A folder in the layouts of `Task.dataset.files`; without it the hub. */
  data?: string;
  num_fewshot: number;
  signal?: AbortSignal;
}

/** Whether a folder holds the test of a task that has no public data set. */
export const is_given = (task: Task, data: string | undefined): boolean =>
  task.dataset.path !== null || (data !== undefined && existsSync(file_of(task, data, task.dataset.test_split)));

/** @throws BimedixError bad_data with file and line; file_not_found */
export async function load_task(task: Task, { data, num_fewshot, signal }: DataOptions): Promise<TaskData> {
  const { test_split, fewshot_splits } = task.dataset;
  const files: TaskData["files"] = [];
  const warnings: string[] = [];
  const read = async (split: string): Promise<Doc[]> => {
    const found = await locate(task, split, data, signal);
    const docs = await read_split(task, split, found, warnings);
    files.push({ split, file: name_of(task, split, found, data), sha256: await file_hash(found) });
    return docs;
  };
  const docs = await read(test_split);
  if (num_fewshot === 0) return { docs, shots: [], files, warnings };
  const split =
    data === undefined ? fewshot_splits[0] : fewshot_splits.find((one) => existsSync(file_of(task, data, one)));
  if (split === undefined) {
    const wanted = fewshot_splits.map((one) => file_of(task, data ?? "", one)).join(" or ");
    throw new BimedixError("file_not_found", {
      given: `${num_fewshot} shots for ${task.name}, which has no examples besides its test`,
      expected: wanted || "a task with examples",
      todo: "add that file, leave the task out or use --num-fewshot 0",
    });
  }
  const shots = await read(split);
  if (shots.length < num_fewshot) {
    bad_data(files.at(-1)!.file, `${shots.length} examples`, `at least ${num_fewshot}, or a smaller --num-fewshot`);
  }
  return { docs, shots, files, warnings };
}

/** A name that is the same on every machine: the place in the folder, or on the hub. */
function name_of({ dataset: { kind, path, name } }: Task, split: string, found: string, data?: string): string {
  if (kind === "mcqa") return basename(found);
  return data === undefined ? [path, name ?? "default", split].join("/") : relative(data, found).replaceAll("\\", "/");
}

const file_of = (task: Task, data: string, split: string): string => {
  const file = task.dataset.files[split] ?? `${task.name}/${split}.jsonl`;
  return task.dataset.kind === "mcqa" ? file : join(data, file);
};

async function locate(task: Task, split: string, data: string | undefined, signal?: AbortSignal): Promise<string> {
  const { path, name, kind } = task.dataset;
  if (kind === "mcqa") return file_of(task, "", split);
  if (data !== undefined) {
    const file = file_of(task, data, split);
    if (existsSync(file)) return file;
    throw new BimedixError("file_not_found", {
      given: `${file} does not exist`,
      expected: `the ${split} split of ${task.name}`,
      todo: "check --data, or leave it out to load the data from the hub",
    });
  }
  if (path !== null) return dataset_file(path, name ?? "default", split, signal ? { signal } : {});
  throw new BimedixError("file_not_found", {
    given: `${task.name}, which has no public data set`,
    expected: `--data with ${task.dataset.files[split]}`,
    todo: "give a folder that holds it",
  });
}

async function read_split(task: Task, split: string, file: string, warnings: string[]): Promise<Doc[]> {
  const { kind, name } = task.dataset;
  const by_id = kind === "pubmedqa" && file.endsWith(".json");
  const records = await read_records(file, { by_id, ...(kind.endsWith("mmlu") ? { names: MMLU } : {}) });
  const parsed = kind === "mcqa" ? own_questions(file, records, warnings) : parsers[kind](records, name ?? "");
  const kept = by_id ? await pubmedqa_split(file, split, parsed) : parsed;
  if (kept.length === 0) bad_data(file, "no records", "at least one");
  check_ids(kept);
  for (const { where, doc } of kept) check_item(task, doc, where);
  return kept.map(({ doc }) => doc);
}

/** A file's own layout, or the hub's, to the hub's columns. */
const parsers: Record<Exclude<DatasetKind, "mcqa">, (records: DataRecord[], name: string) => Parsed[]> = {
  mmlu: (records, subject) =>
    objects(records).map(({ where, value }) => {
      const choices = Array.isArray(value.choices)
        ? strings(value, "choices", where)
        : [0, 1, 2, 3].map((i) => string(value, `choice${i}` in value ? `choice${i}` : "ABCD"[i]!, where));
      const doc = { question: string(value, "question", where), subject, choices };
      return { where, doc: { ...doc, answer: index(value, "answer", choices.length, where) } };
    }),
  arabic_mmlu: (records, subject) =>
    objects(records).map(({ where, value }) => {
      const options = [..."ABCD"].map((letter, i) => [
        letter,
        string(value, letter in value ? letter : `choice${i}`, where),
      ]);
      const answer = "ABCD"[index(value, "answer", 4, where)]!;
      const row = { question: string(value, "question", where), ...Object.fromEntries(options), answer, subject };
      return { where, doc: arabic_query(row) };
    }),
  medmcqa: (records) =>
    objects(records).map(({ where, value }) => {
      for (const name of ["question", "opa", "opb", "opc", "opd"]) string(value, name, where);
      const id = value.id === undefined ? {} : { id: String(value.id) };
      // The original files count from 1, the hub's from 0.
      const base = where.includes(".parquet row ") ? 0 : 1;
      const cop = Number(value.cop) - base;
      if (!(cop in [0, 1, 2, 3])) {
        bad_data(where, `cop ${JSON.stringify(value.cop)}`, `${base} to ${base + 3}`);
      }
      return { where, doc: { ...value, cop }, ...id };
    }),
  medqa: (records) =>
    objects(records).map(({ where, value }, n) => {
      if ("sent1" in value) return { where, doc: { ...value, label: index(value, "label", 4, where) } };
      const options = value.options as Record<string, unknown> | undefined;
      const endings = [..."ABCD"].map((letter, i) => [`ending${i}`, string({ ...options }, letter, where)]);
      const sent1 = string(value, "question", where);
      const label = index(value, "answer_idx", 4, where);
      return { where, doc: { id: String(n), sent1, sent2: "", ...Object.fromEntries(endings), label } };
    }),
  pubmedqa: (records) =>
    objects(records).map(({ where, value: { id, ...value } }) => {
      string(value, "QUESTION", where);
      strings(value, "CONTEXTS", where);
      const names = ["QUESTION", "CONTEXTS", "LABELS", "MESHES", "YEAR"];
      const more = ["reasoning_required_pred", "reasoning_free_pred", "final_decision", "LONG_ANSWER"];
      const doc = Object.fromEntries([...names, ...more].map((name) => [name, value[name] ?? null]));
      return { where, doc, ...(id === undefined ? {} : { id: String(id) }) };
    }),
};

const MMLU = ["question", "A", "B", "C", "D", "answer"];

function objects(records: DataRecord[]): { where: string; value: Doc }[] {
  return records.map(({ where, value }) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? { where, value: value as Doc }
      : bad_data(where, "no object", "an object with named columns"),
  );
}

function string(value: Doc, column: string, where: string): string {
  const found = value[column];
  if (found === undefined || found === null) {
    const there = Object.keys(value).slice(0, 12).join(", ");
    return bad_data(where, `no column ${column} (there are: ${there || "none"})`, `a column ${column}`);
  }
  if (typeof found !== "string" || is_blank(found))
    return bad_data(where, `an empty ${column}`, `some text in ${column}`);
  return found;
}

function strings(value: Doc, column: string, where: string): string[] {
  const list = value[column];
  if (!Array.isArray(list)) return bad_data(where, `no list ${column}`, `a list of texts in ${column}`);
  return list.map((one, i) =>
    typeof one === "string" && !is_blank(one)
      ? one
      : bad_data(where, `an empty ${column}[${i}]`, "some text in every one"),
  );
}

/** An answer of a benchmark: a number from 0, or a letter of either language. */
function index(value: Doc, column: string, count: number, where: string): number {
  const given = value[column];
  if (given === undefined || given === null) return bad_data(where, `no column ${column}`, `a column ${column}`);
  return located(where, () => position_of(given, count));
}

function check_ids(items: readonly Parsed[]): void {
  const seen = new Map<string, string>();
  for (const { where, id } of items) {
    if (id === undefined) continue;
    const before = seen.get(id);
    if (before !== undefined) bad_data(where, `id ${id}, which ${before} has too`, "an id of its own");
    seen.set(id, where);
  }
}

/** What no parser has looked at: that the target is one of the choices. */
function check_item(task: Task, doc: Doc, where: string): void {
  const choices = task.doc_to_choice(doc);
  const target = task.doc_to_target(doc);
  if (typeof target === "string" ? !choices.includes(target) : choices[target] === undefined)
    bad_data(where, `answer ${JSON.stringify(target)}, which is outside the options`, choices.join(", "));
}

/** The split that test_ground_truth.json defines, in its order; the rest are the examples. */
async function pubmedqa_split(file: string, split: string, all: Parsed[]): Promise<Parsed[]> {
  const list = join(dirname(file), "test_ground_truth.json");
  const ids = (await read_records(list, { by_id: true })).map(({ value }) => (value as { id: string }).id);
  const by_id = new Map(all.map((one) => [one.id, one]));
  const test = new Set(ids);
  if (split !== "test") return all.filter(({ id }) => !test.has(id!));
  return ids.map((id) => by_id.get(id) ?? bad_data(list, `id ${id}`, `an id of ${basename(file)}`));
}

/**
 * A file of a person's own questions as a task; its name is the file's, with other than letters and digits replaced.
 * @throws BimedixError bad_data; bad_option when the name is a benchmark's
 */
export async function mcqa_task(file: string): Promise<Task> {
  const name = basename(file)
    .replace(/(\.[^.]*)(\.gz)?$/i, "")
    .replace(/[^\p{L}\p{N}]+/gu, "_");
  if (tasks.has(name) || task_groups.has(name)) {
    throw new BimedixError("bad_option", {
      given: `${file}, whose name is that of a benchmark`,
      expected: "another name for other questions",
      todo: "rename the file",
    });
  }
  const parsed = own_questions(file, await read_records(file), []);
  const language = language_of(parsed.map(({ doc }) => doc.question as string).join(" "));
  return mcqa_file(name, file, language);
}
