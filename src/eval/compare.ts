/** Two runs on the same questions, question by question. Reads this project's results and lm-evaluation-harness's alike. */
import { readdir, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { z } from "zod";
import { bad_data, read_records } from "../data/records.js";
import { BimedixError } from "../errors.js";
import { file_error, read_json } from "../files.js";
import { type Blame, shaped } from "../shape.js";
import { mean } from "./metrics.js";
import { file_stem, files_below } from "./names.js";
import { PythonRandom } from "./python.js";
import { answer_schema, results_schema } from "./schema.js";

export interface PairedResult {
  task: string;
  questions: number;
  accuracy: [number, number];
  /** Accuracy of the second less the first. */
  difference: number;
  /** 95 % of the differences of resampled questions lie between these. */
  interval: [number, number];
  /** Right in one run only. */
  only_first: number;
  only_second: number;
  /** Exact two-sided McNemar test: how likely so uneven a split of those is by chance. */
  p_value: number;
}

export interface Comparison {
  runs: [string, string];
  /** The `limit` of each; null where all questions were asked. */
  limits: [number | null, number | null];
  tasks: PairedResult[];
  all: PairedResult;
}

const RESAMPLES = 10_000;

/** @param a,b results files, or folders whose newest results count. @throws BimedixError bad_data, file_not_found */
export async function compare_runs(a: string, b: string): Promise<Comparison> {
  const [first, second] = await Promise.all([read_run(a), read_run(b)]);
  const shared = [...first.tasks.keys()].filter((task) => second.tasks.has(task));
  if (shared.length === 0) {
    bad_data(`${a} and ${b}`, "no task in common", "two runs of the same tasks");
  }
  const pairs = shared.map((task) => ({ task, pairs: pair(task, first, second) }));
  return {
    runs: [first.file, second.file],
    limits: [first.limit, second.limit],
    tasks: pairs.map(({ task, pairs: list }) => paired(task, list)),
    all: paired(
      "all questions",
      pairs.flatMap((one) => one.pairs),
    ),
  };
}

interface Answer {
  doc_id: number;
  doc_hash: string;
  acc: number;
}

interface ReadRun {
  file: string;
  limit: number | null;
  tasks: Map<string, Answer[]>;
}

async function read_run(path: string): Promise<ReadRun> {
  const file = await results_file(path);
  const folder = dirname(file);
  const date = /results_(.+)\.json$/.exec(file)?.[1] ?? "";
  const tasks = new Map<string, Answer[]>();
  for (const name of (await readdir(folder)).sort()) {
    const task = name.startsWith("samples_") && name.endsWith(`_${date}.jsonl`) ? name.slice(8, -date.length - 7) : "";
    if (!task) continue;
    tasks.set(task, await read_answers(join(folder, name)));
  }
  if (tasks.size === 0) bad_data(file, "no samples_*.jsonl beside it", "results with their samples");
  const blame: Blame = { ...BLAME, where: file };
  const { config, results = {} } = shaped<z.infer<typeof results_schema>>(
    results_schema,
    await read_json(file, "bad_data"),
    blame,
  );
  for (const [name, result] of Object.entries(results)) {
    const [found, told] = [tasks.get(file_stem(name)), result["acc,none"]];
    if (found && told !== undefined && Math.abs(mean(found.map(({ acc }) => acc)) - told) > 1e-6)
      bad_data(file, `${name} with another accuracy than its samples`, "results and samples of one run");
  }
  return { file, limit: config?.limit ?? null, tasks };
}

const BLAME = {
  code: "bad_data",
  expected: "a file as bimedix eval or lm-evaluation-harness wrote it",
  todo: "evaluate again, or name other results",
} as const;

/** The answers of a task, each question once. */
async function read_answers(file: string): Promise<Answer[]> {
  const seen = new Set<number>();
  return (await read_records(file)).map(({ where, value }) => {
    const {
      doc_id,
      doc_hash = "",
      acc,
    } = shaped<z.infer<typeof answer_schema>>(answer_schema, value, {
      ...BLAME,
      where,
    });
    if (seen.has(doc_id)) bad_data(where, `question ${doc_id}, which stands there twice`, "each question once");
    seen.add(doc_id);
    return { doc_id, doc_hash, acc };
  });
}

async function results_file(path: string): Promise<string> {
  try {
    if ((await stat(path)).isFile()) return path;
    const found = (await files_below(path)).filter((file) => /^results_.+\.json$/.test(basename(file)));
    const newest = found.sort((x, y) => (basename(x) < basename(y) ? -1 : 1)).at(-1);
    if (newest) return newest;
  } catch (error) {
    throw file_error(error, path, "results of bimedix eval");
  }
  throw new BimedixError("file_not_found", {
    given: `${path} holds no results_*.json`,
    expected: "results of bimedix eval",
    todo: "pass the folder that its --output named",
  });
}

const limit_text = (limit: number | null) => (limit === null ? "no --limit" : `--limit ${limit}`);

function pair(task: string, a: ReadRun, b: ReadRun): [number, number][] {
  const [first, second] = [a.tasks.get(task)!, b.tasks.get(task)!];
  if (first.length !== second.length)
    bad_data(
      `${task} with ${first.length} questions in A (${limit_text(a.limit)}) and ${second.length} in B (${limit_text(b.limit)})`,
      "not the same questions",
      "runs on the same ones",
      "run both with the same data and --limit",
    );
  const by_id = new Map(second.map((answer) => [answer.doc_id, answer]));
  return first.map(({ doc_id, doc_hash, acc }) => {
    const other = by_id.get(doc_id);
    if (other?.doc_hash === doc_hash) return [acc, other.acc];
    return bad_data(
      `${task} question ${doc_id}`,
      "not the same in both runs",
      "runs on the same questions",
      "run both with the same data",
    );
  });
}

function paired(task: string, pairs: readonly [number, number][]): PairedResult {
  const differences = pairs.map(([x, y]) => y - x);
  const only_first = differences.filter((d) => d < 0).length;
  const only_second = differences.filter((d) => d > 0).length;
  return {
    task,
    questions: pairs.length,
    accuracy: [mean(pairs.map(([x]) => x)), mean(pairs.map(([, y]) => y))],
    difference: mean(differences),
    interval: bootstrap_interval(differences),
    only_first,
    only_second,
    p_value: mcnemar(only_first, only_second),
  };
}

/** The exact test: a two-sided binomial one of `b` in `b + c` with one half. */
export function mcnemar(b: number, c: number): number {
  const n = b + c;
  let tail = 0;
  let log_ways = 0;
  for (let k = 0; k <= Math.min(b, c); k++) {
    tail += Math.exp(log_ways - n * Math.LN2);
    log_ways += Math.log((n - k) / (k + 1));
  }
  return Math.min(1, 2 * tail);
}

/** The middle 95 % of the means of resampled values; always the same for the same values. */
export function bootstrap_interval(values: readonly number[]): [number, number] {
  const random = new PythonRandom(0);
  const means = Float64Array.from({ length: RESAMPLES }, () => {
    let total = 0;
    for (let i = 0; i < values.length; i++) total += values[random.below(values.length)]!;
    return total / values.length;
  }).sort();
  return [means[Math.floor(0.025 * RESAMPLES)]!, means[Math.ceil(0.975 * RESAMPLES) - 1]!];
}

export function comparison_text({ runs, limits, tasks, all }: Comparison): string {
  const percent = (value: number) => (100 * value).toFixed(1);
  const signed = (value: number) => `${value >= 0 ? "+" : "−"}${percent(Math.abs(value))}`;
  const lines = [...tasks, all].map((one) => [
    one.task,
    String(one.questions),
    percent(one.accuracy[0]),
    percent(one.accuracy[1]),
    signed(one.difference),
    `${signed(one.interval[0])} to ${signed(one.interval[1])}`,
    `${one.only_first}/${one.only_second}`,
    one.p_value < 0.001 ? "<0.001" : one.p_value.toFixed(3),
  ]);
  const head = ["", "questions", "A", "B", "B−A", "95 % interval", "only A/only B right", "p (McNemar)"];
  const widths = head.map((text, i) => Math.max(text.length, ...lines.map((line) => line[i]!.length)));
  const drawn = [head, ...lines].map((line) =>
    line.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  "),
  );
  const named = runs.map((run, i) => {
    const limit = limits[i] === null ? "" : `  (only the first questions of each task: ${limit_text(limits[i]!)})`;
    return `${"AB"[i]}  ${run}${limit}\n`;
  });
  return `${named.join("")}\n${drawn.join("\n")}\n`;
}
