/**
 * Whether test questions occur in a training corpus: a question counts as found when the corpus holds some run of 13 words of it,
 * the length that GPT-3's report and lm-evaluation-harness use (https://arxiv.org/abs/2005.14165, appendix C). The test's runs are
 * kept in memory and the corpus streams past, so it may be of any size.
 */
import { bad_data, chunks } from "../data/records.js";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { mean } from "./metrics.js";
import { files_below } from "./names.js";
import { type Run, type Sample, samples_of } from "./run.js";
import { question_of, tasks } from "./tasks.js";

export const NGRAM = 13;
/** Shorter questions are looked for whole, but not below this many words: everyday phrases are everywhere. */
const SHORTEST = 8;

export interface Contamination {
  corpus: string[];
  ngram: number;
  tasks: Record<
    string,
    {
      questions: number;
      /** Fewer than eight words with their options: not looked for. */
      too_short: number;
      found: number;
      found_ids: number[];
      accuracy_found: number | null;
      accuracy_clean: number | null;
    }
  >;
}

/** @param files of the corpus, as `corpus_files` lists them */
export async function contamination(run: Run, files: readonly string[]): Promise<Contamination> {
  const samples = samples_of(run);
  const wanted = new Map<string, Sample[]>();
  const too_short = new Set<Sample>();
  for (const sample of [...samples.values()].flat()) {
    const text = words(question_text(sample));
    const size = Math.min(NGRAM, text.length);
    if (size < SHORTEST) too_short.add(sample);
    else for (const gram of ngrams(text, size)) wanted.set(gram, [...(wanted.get(gram) ?? []), sample]);
  }
  const sizes = [...new Set([...wanted.keys()].map((gram) => gram.split(" ").length))];
  const found = new Set<Sample>();
  for (const file of files) {
    for await (const list of texts_of(file)) {
      for (const size of sizes)
        for (const gram of ngrams(list, size)) for (const sample of wanted.get(gram) ?? []) found.add(sample);
    }
  }
  const accuracy = (list: readonly Sample[]) => (list.length > 0 ? mean(list.map(({ acc }) => acc)) : null);
  const per_task = [...samples].map(([name, list]) => {
    const dirty = list.filter((sample) => found.has(sample));
    return [
      name,
      {
        questions: list.length,
        too_short: list.filter((sample) => too_short.has(sample)).length,
        found: dirty.length,
        found_ids: dirty.map(({ doc_id }) => doc_id),
        accuracy_found: accuracy(dirty),
        accuracy_clean: accuracy(list.filter((sample) => !found.has(sample))),
      },
    ];
  });
  return { corpus: [...files], ngram: NGRAM, tasks: Object.fromEntries(per_task) as Contamination["tasks"] };
}

/** The question with its options, without the prompt around it. */
function question_text({ task, doc }: Sample): string {
  const options = tasks.get(task)?.options?.get(doc) ?? (Array.isArray(doc.choices) ? doc.choices : []);
  return [question_of(doc), ...options].join(" ");
}

/** Lower case, without punctuation and without the marks that Arabic may or may not write. */
export function words(text: string): string[] {
  const plain = text
    .normalize("NFKC")
    .toLowerCase()
    .replace(/[\p{Mn}\u0640]/gu, "");
  return plain.match(/[\p{L}\p{N}]+/gu) ?? [];
}

function* ngrams(list: readonly string[], size: number): Generator<string> {
  for (let i = 0; i + size <= list.length; i++) yield list.slice(i, i + size).join(" ");
}

/**
 * The text files of a corpus, each of which can be read: what is cut short or may not be read is said before anything is scored.
 * @throws BimedixError file_not_found, file_unreadable, bad_data, bad_option
 */
export async function corpus_files(path: string): Promise<string[]> {
  const inside = await files_below(path).catch((error) =>
    Promise.reject(file_error(error, path, "a corpus: a text file or a folder of them")),
  );
  const files = inside.filter((file) => file === path || /\.(txt|md|csv|tsv|jsonl?)(\.gz)?$/.test(file));
  for (const file of files) for await (const _ of chunks(file)) if (!file.endsWith(".gz")) break;
  if (files.length > 0) return files;
  throw new BimedixError("bad_option", {
    given: `${path} holds no text`,
    expected: ".txt, .md, .csv, .tsv, .json or .jsonl files, also as .gz",
    todo: "name the corpus of the training",
  });
}

/** The words of a file, text by text: a line of JSON is one; other lines go on from the one before, as text may be wrapped. */
async function* texts_of(file: string): AsyncGenerator<string[]> {
  let last: string[] = [];
  for await (const line of lines_of(file)) {
    const value = /\.jsonl?(\.gz)?$/.test(file) ? parsed(line) : undefined;
    const list = value === undefined ? [...last, ...words(line)] : words(strings(value).join("\n"));
    last = value === undefined ? list.slice(1 - NGRAM) : [];
    yield list;
  }
}

/** Characters of a line that are held at once. */
const LONGEST_LINE = 2 ** 28;

/** Lines, of whatever bytes: what is not UTF-8 is no word. */
async function* lines_of(file: string): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of chunks(file)) {
    const [first, ...more] = decoder.decode(chunk, { stream: true }).split("\n");
    rest += first;
    if (rest.length > LONGEST_LINE)
      bad_data(file, `a line of more than ${LONGEST_LINE >> 20} MB`, "shorter ones", "save it as text or JSON lines");
    for (const line of more) {
      yield rest;
      rest = line;
    }
  }
  yield rest + decoder.decode();
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function strings(value: unknown): string[] {
  if (typeof value === "string") return [value];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(strings) : [];
}
