/**
 * A run's memory: one file, a header line and a line for each finished batch, written through to the disk. A run that was killed
 * goes on behind the last whole line; a shard of a run is such a file, and merging is reading several.
 */
import { existsSync } from "node:fs";
import { mkdir, open, readFile, truncate } from "node:fs/promises";
import { dirname } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";

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

/** @throws BimedixError bad_data for a file that is no journal */
export async function read_journal<T, R>(file: string): Promise<Journal<T, R>> {
  const { header, entries } = parse<T, R>(await readFile(file, "utf8").catch((error) => fail(error, file)));
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

function parse<T, R>(text: string): { header: JournalHeader<R> | null; entries: JournalEntry<T>[]; whole: number } {
  let header: JournalHeader<R> | null = null;
  const entries = new Map<number, JournalEntry<T>>();
  let whole = 0;
  for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", whole)) {
    try {
      const value = JSON.parse(text.slice(whole, end)) as JournalHeader<R> | JournalEntry<T>;
      // Two processes at once may both have done a batch; the first one counts.
      if ("batch" in value) entries.set(value.batch, entries.get(value.batch) ?? value);
      else if (typeof value.key === "string") header = value;
      else break;
    } catch {
      break;
    }
    whole = end + 1;
  }
  return { header, entries: [...entries.values()], whole: Buffer.byteLength(text.slice(0, whole)) };
}

/** Opens the journal of a run, with what an earlier process left in it. A file of another run is begun anew. */
export async function open_journal<T, R>(
  file: string,
  header: JournalHeader<R>,
): Promise<Journal<T, R> & { append: (entry: JournalEntry<T>) => Promise<void>; close: () => Promise<void> }> {
  try {
    await mkdir(dirname(file), { recursive: true });
    const before = existsSync(file) ? parse<T, R>(await readFile(file, "utf8")) : null;
    const goes_on = before?.header?.key === header.key ? before : null;
    // A line that a kill cut short is cut off, so that the next one stands alone.
    if (before) await truncate(file, goes_on?.whole ?? 0);
    const handle = await open(file, "a");
    const write = async (value: unknown) => {
      try {
        await handle.appendFile(`${JSON.stringify(value)}\n`);
        await handle.sync();
      } catch (error) {
        fail(error, file);
      }
    };
    if (!goes_on) await write(header);
    return {
      header: goes_on?.header ?? header,
      entries: goes_on?.entries ?? [],
      append: write,
      close: () => handle.close(),
    };
  } catch (error) {
    return fail(error, file);
  }
}
