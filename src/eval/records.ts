/** Data files as records that know their line, so that what is wrong with one can be said with its place. */
import { readFile } from "node:fs/promises";
import { CsvError, parse } from "csv-parse/sync";
import { parquetReadObjects } from "hyparquet";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";

export interface DataRecord {
  /** "FILE line N" or "FILE row N" */
  where: string;
  value: unknown;
}

/** @throws BimedixError bad_data */
export function bad_data(where: string, what: string, expected: string): never {
  throw new BimedixError("bad_data", {
    given: `${where}: ${what}`,
    expected,
    todo: "correct the file; nothing was scored",
  });
}

/**
 * The records of a .csv, .jsonl, .json or .parquet file. JSON is one object a line or one array; `by_id` reads one object whose
 * values are the records under their ids.
 * @throws BimedixError bad_data, file_not_found, file_unreadable
 */
export async function read_records(file: string, { by_id = false } = {}): Promise<DataRecord[]> {
  let bytes: Buffer;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw file_error(error, file, "a data file");
  }
  const records = file.endsWith(".parquet") ? await parquet(file, bytes) : text_records(file, utf8(file, bytes), by_id);
  return records.length > 0 ? records : bad_data(file, "no records", "at least one");
}

function text_records(file: string, text: string, by_id: boolean): DataRecord[] {
  if (file.endsWith(".csv")) return csv(file, text);
  if (!/\.jsonl?$/.test(file)) return bad_data(file, "an unknown kind of file", ".csv, .jsonl, .json or .parquet");
  return by_id
    ? json_by_id(file, text)
    : text.trimStart().startsWith("[")
      ? json_array(file, text)
      : json_lines(file, text);
}

function utf8(file: string, bytes: Buffer): string {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    return decoder.decode(bytes);
  } catch {
    let line = 1;
    for (let start = 0; start <= bytes.length; line++) {
      const end = bytes.indexOf(10, start);
      const stop = end < 0 ? bytes.length : end;
      try {
        decoder.decode(bytes.subarray(start, stop));
      } catch {
        break;
      }
      start = stop + 1;
    }
    return bad_data(`${file} line ${line}`, "bytes that are not UTF-8", "UTF-8 text");
  }
}

function csv(file: string, text: string): DataRecord[] {
  try {
    const rows = parse(text, { info: true, relax_column_count: true, skip_empty_lines: true }) as unknown as {
      record: string[];
      info: { lines: number };
    }[];
    return rows.map(({ record, info }) => ({ where: `${file} line ${info.lines}`, value: record }));
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const line = typeof error.lines === "number" ? ` line ${error.lines}` : "";
    return bad_data(`${file}${line}`, error.message.split("\n")[0]!, "comma-separated values, quoted where needed");
  }
}

function json_lines(file: string, text: string): DataRecord[] {
  return text.split(/\r?\n/).flatMap((line, i) => {
    if (line.trim() === "") return [];
    const where = `${file} line ${i + 1}`;
    try {
      return [{ where, value: JSON.parse(line) as unknown }];
    } catch {
      return bad_data(where, "a line that is not JSON, perhaps cut short", "one object a line");
    }
  });
}

function json_array(file: string, text: string): DataRecord[] {
  const values = parse_json(file, text) as unknown[];
  return values.map((value, i) => ({ where: `${file} record ${i + 1}`, value }));
}

function json_by_id(file: string, text: string): DataRecord[] {
  const values = parse_json(file, text) as Record<string, unknown>;
  return keys_in_order(text).map((id) => {
    const value = values[id];
    return { where: `${file} record ${id}`, value: { id, ...(typeof value === "object" ? value : { value }) } };
  });
}

function parse_json(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    return bad_data(file, `not JSON (${(error as Error).message.slice(0, 80)})`, "a whole JSON file");
  }
}

/** The keys of the outermost object as the file has them: JavaScript would sort those that look like numbers. */
function keys_in_order(text: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  for (const [token, key] of text.matchAll(/("(?:[^"\\]|\\.)*")\s*:|"(?:[^"\\]|\\.)*"|[{}[\]]/g)) {
    if (key !== undefined && depth === 1) keys.push(JSON.parse(key) as string);
    else if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
  }
  return keys;
}

async function parquet(file: string, bytes: Buffer): Promise<DataRecord[]> {
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
  try {
    const rows = await parquetReadObjects({ file: buffer });
    return rows.map((row, i) => ({ where: `${file} row ${i + 1}`, value: plain(row) }));
  } catch (error) {
    return bad_data(file, `not a Parquet file (${(error as Error).message.slice(0, 80)})`, "Parquet");
  }
}

/** 64-bit integers as numbers: JSON knows no others. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one)]));
}
