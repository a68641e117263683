/**
 * A run's memory: one file, a header line and a line for each finished batch, written through to the disk. A run that was killed
 * goes on behind the last whole line; a shard of a run is such a file, and merging is reading several.
 */
import { mkdir, open, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { BimedixError } from "../errors.js";
import { check_file, file_error } from "../files.js";
import { type Blame, sealed, shaped, unsealed } from "../shape.js";
import { document_hash } from "./python.js";
import { entry_schema, header_schema } from "./schema.js";

export interface JournalHeader<R> {
  /** Of everything that decides a number of the run; only files with the same key go together. */
  key: string;
  /** The batches of the whole run, of which a shard holds some. */
  batches: number;
  /** What the results say about the run. */
  run: R;
}

export interface JournalEntry<T> {
  batch: number;
  seconds: number;
  samples: T[];
}

export interface Journal<T, R> {
  header: JournalHeader<R>;
  entries: JournalEntry<T>[];
}

/** What the checks between lines look at, whatever else a sample and a run hold. */
interface Checked {
  task: string;
  doc_id: number;
  doc: unknown;
  doc_hash: string;
}
interface CheckedRun {
  tasks: readonly { name: string; effective: number }[];
}

/** @throws BimedixError bad_data for a file that is no journal, or with a damaged line other than a last one that was cut short */
export async function read_journal<T extends Checked, R extends CheckedRun>(file: string): Promise<Journal<T, R>> {
  await check_file(file, "a run's file");
  const { header, entries } = parse<T, R>(file, await readFile(file).catch((error) => fail(error, file)));
  if (header) return { header, entries };
  throw new BimedixError("bad_data", {
    given: `${file} is not a run of bimedix eval`,
    expected: "a file that --shard wrote",
    todo: "pass the shards' own files",
  });
}

const fail = (error: unknown, file: string): never => {
  throw file_error(error, file, "a run's file");
};

/** The lines of a journal; `whole` are the bytes up to the end of the last. */
function parse<T extends Checked, R extends CheckedRun>(file: string, bytes: Buffer) {
  let header: JournalHeader<R> | null = null;
  const entries = new Map<number, JournalEntry<T>>();
  const seen = new Set<string>();
  let whole = 0;
  for (let number = 1, end = bytes.indexOf(10); end >= 0; number++, end = bytes.indexOf(10, whole)) {
    const blame: Blame = {
      where: `${file} line ${number}`,
      code: "bad_data",
      expected: "a line as bimedix eval wrote it",
      todo: "take the line out, so that its questions are scored again, or remove the file",
    };
    const value = parse_line(bytes.subarray(whole, end), blame);
    whole = end + 1;
    if (header === null || (typeof value === "object" && value !== null && "key" in value)) {
      const found = shaped<JournalHeader<R>>(header_schema, value, blame);
      if (header && header.key !== found.key) wrong(blame, "the beginning of another run");
      header ??= found;
      continue;
    }
    const entry = shaped<JournalEntry<T>>(entry_schema, value, blame);
    const before = entries.get(entry.batch);
    // Earlier versions let two processes at once do a batch.
    if (before && JSON.stringify(before.samples) === JSON.stringify(entry.samples)) continue;
    check_entry(entry, header, seen, blame);
    entries.set(entry.batch, entry);
  }
  return { header, entries: [...entries.values()], whole };
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function parse_line(bytes: Uint8Array, blame: Blame): unknown {
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(bytes));
  } catch {
    wrong(blame, "not JSON");
  }
  return unsealed(value, blame);
}

function wrong({ where, code, expected, todo }: Blame, given: string): never {
  throw new BimedixError(code, { given: `${where}: ${given}`, expected, todo });
}

/** What no line shows by itself. `seen` are the questions of earlier lines. */
function check_entry<T extends Checked, R extends CheckedRun>(
  { batch, samples }: JournalEntry<T>,
  { batches, run }: JournalHeader<R>,
  seen: Set<string>,
  blame: Blame,
): void {
  if (batch >= batches) wrong(blame, `batch ${batch} of ${batches}`);
  for (const { task, doc_id, doc, doc_hash } of samples) {
    const size = run.tasks.find(({ name }) => name === task)?.effective;
    const question = `question ${doc_id} of ${task}`;
    if (size === undefined || doc_id >= size) wrong(blame, `${question}, which the run has not`);
    if (seen.has(question)) wrong(blame, `${question}, which stands there twice`);
    if (document_hash(doc) !== doc_hash) wrong(blame, `${question} with another hash`);
    seen.add(question);
  }
}

/**
 * Opens the journal of a run, with what an earlier process left in it. For who has the run's lock.
 * @throws BimedixError bad_data for a damaged line, and for another run's file
 */
export async function open_journal<T extends Checked, R extends CheckedRun>(
  file: string,
  header: JournalHeader<R>,
): Promise<Journal<T, R> & { append: (entry: JournalEntry<T>) => Promise<void>; close: () => Promise<void> }> {
  try {
    await mkdir(dirname(file), { recursive: true });
    const bytes = await readFile(file).catch((error) =>
      error.code === "ENOENT" ? Buffer.alloc(0) : fail(error, file),
    );
    const before = parse<T, R>(file, bytes);
    if (before.header && before.header.key !== header.key)
      throw new BimedixError("bad_data", {
        given: `${file}, which holds another run`,
        expected: "the run that its name says",
        todo: "move it away, or choose another --output",
      });
    const handle = await open(file, "a");
    // A line that a kill cut short is cut off, so that the next one stands alone.
    await handle.truncate(before.whole);
    const write = async (value: object) => {
      try {
        await handle.appendFile(`${JSON.stringify(sealed(value))}\n`);
        await handle.sync();
      } catch (error) {
        fail(error, file);
      }
    };
    if (!before.header) await write(header);
    return {
      header: before.header ?? header,
      entries: before.entries,
      append: write,
      close: () => handle.close(),
    };
  } catch (error) {
    return fail(error, file);
  }
}
