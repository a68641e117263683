/**
 * Data files as records that know their place, so that what is wrong with one can be said with file and line. Evaluation and training
 * read through this alone. JSON lines are read one by one, since corpora are large; everything else is read whole.
 */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createGunzip } from "node:zlib";
import { BimedixError } from "../errors.js";
import { file_error, parse_json } from "../files.js";
import { is_blank } from "../text/python.js";
import { csv_rows } from "./csv.js";
import { json_document } from "./json.js";
import { parquet_rows } from "./parquet.js";
import { bad_data, type DataEntry, DataProblem, type DataRecord } from "./record.js";

export { bad_data, type DataEntry, DataProblem, type DataRecord } from "./record.js";

/** One line, and a file that is read whole: a text of V8 has at most 512 MB. */
const MOST_LINE = 2 ** 27;
const MOST_TEXT = 2 ** 29;
const MOST_BYTES = 2 ** 31;
/** Unpacked data may be this much more than packed ones, or a gigabyte: texts grow five times, rarely thirty. */
const MOST_GROWTH = 200;

/** The kinds of files, as a person is told them. */
export const data_kinds = ".jsonl, .json, .csv, .tsv or .parquet, plain or .gz";

export interface ReadOptions {
  /** A .json file is one object, whose values are the records under their ids. */
  by_id?: boolean;
  /** The columns of a CSV file whose first row names none. */
  names?: readonly string[];
}

/** What a person who has a file of another kind is told. */
export function unknown_kind(file: string): BimedixError {
  const sheet = /\.(xls[xmb]?|ods|numbers)$/i.test(file);
  return new BimedixError("bad_data", {
    given: `${file}: ${sheet ? "a spreadsheet" : "an unknown kind of file"}`,
    expected: data_kinds,
    todo: sheet ? 'save it as "CSV UTF-8"' : "convert it",
  });
}

/** All records of a file. @throws BimedixError bad_data for the first that is wrong, file_not_found, file_unreadable */
export async function read_records(file: string, options: ReadOptions = {}): Promise<DataRecord[]> {
  const records: DataRecord[] = [];
  for await (const entry of data_entries(file, options)) {
    if ("problem" in entry) bad_data(entry.where, entry.problem.given, entry.problem.expected);
    records.push(entry);
  }
  return records.length > 0 ? records : bad_data(file, "no records", "at least one");
}

/**
 * The records of a file, with damaged lines among them.
 * @throws BimedixError bad_data for a file that is damaged as a whole or of an unknown kind, file_not_found, file_unreadable
 */
export async function* data_entries(
  file: string,
  { by_id = false, names }: ReadOptions = {},
): AsyncGenerator<DataEntry> {
  const kind = /\.(jsonl|ndjson|json|csv|tsv|parquet)(\.gz)?$/i.exec(file)?.[1]?.toLowerCase();
  if (kind === undefined) throw unknown_kind(file);
  if (kind === "parquet") yield* await parquet_rows(file, await whole(file));
  else if (kind === "csv" || kind === "tsv")
    yield* csv_rows(file, await whole_text(file), {
      delimiter: kind === "tsv" ? "\t" : null,
      ...(names ? { names } : {}),
    });
  else if (kind === "json") {
    const text = await whole_text(file);
    const document = json_document(file, text, by_id);
    if (document) yield* document;
    else for (const [i, line] of text.split(/\r\n|\r|\n/).entries()) yield* json_line(file, i + 1, line);
  } else yield* json_lines(file);
}

async function* json_lines(file: string): AsyncGenerator<DataEntry> {
  let number = 0;
  for await (const line of lines(file)) {
    number++;
    if (line === null) {
      const problem = new DataProblem("bytes that are not UTF-8", "UTF-8 text");
      yield { where: `${file} line ${number}`, line: number, problem };
    } else if (number === 1 && /^\s*\[/.test(line)) {
      // A list, whatever its name says. It is read anew, since the lines read on are not kept.
      yield* json_document(file, await whole_text(file), false) ?? [];
      return;
    } else yield* json_line(file, number, line);
  }
}

function* json_line(file: string, line: number, text: string): Generator<DataEntry> {
  if (is_blank(text)) return;
  const where = `${file} line ${line}`;
  try {
    yield { where, line, value: parse_json(text, true) };
  } catch {
    const problem = new DataProblem("a line that is not JSON, perhaps cut short", "one object a line");
    yield { where, line, problem };
  }
}

/** The text of each line, ended as Python's universal newlines are; null for one that is not UTF-8. */
async function* lines(file: string): AsyncGenerator<string | null> {
  let held: Uint8Array[] = [];
  let size = 0;
  let number = 1;
  let utf16: TextDecoder | null | undefined;
  let text = "";
  for await (const chunk of chunks(file)) {
    utf16 ??= utf16_decoder(chunk);
    if (utf16) {
      const parts = (text + utf16.decode(chunk, { stream: true })).split(/\r\n|\n/);
      text = parts.pop()!;
      number += parts.length;
      yield* parts;
    } else {
      let start = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
        const line = chunk.subarray(start, end);
        yield* utf8_lines(held.length > 0 ? Buffer.concat([...held, line]) : line);
        [held, size, start] = [[], 0, end + 1];
        number++;
      }
      held.push(chunk.subarray(start));
      size += chunk.length - start;
    }
    if (size > MOST_LINE || text.length > MOST_LINE)
      bad_data(`${file} line ${number}`, `over ${MOST_LINE >> 20} MB in one line`, "one record a line");
  }
  if (utf16) yield text + utf16.decode();
  else if (size > 0) yield* utf8_lines(Buffer.concat(held));
}

const utf8 = new TextDecoder("utf-8", { fatal: true });

function utf8_lines(bytes: Uint8Array): (string | null)[] {
  try {
    const text = utf8.decode(bytes.at(-1) === 13 ? bytes.subarray(0, -1) : bytes);
    // UTF-16 without its mark.
    if (bytes.includes(0)) return [null];
    return text.includes("\r") ? text.split("\r") : [text];
  } catch {
    return [null];
  }
}

/** UTF-16 is read where its byte order mark says so; Excel's "Unicode text" has one. */
function utf16_decoder(bytes: Uint8Array): TextDecoder | null {
  const [a, b] = bytes;
  if (a === 0xff && b === 0xfe) return new TextDecoder("utf-16le");
  return a === 0xfe && b === 0xff ? new TextDecoder("utf-16be") : null;
}

/** A file's bytes, unpacked where its name ends in .gz. @throws BimedixError bad_data, file_not_found, file_unreadable */
export async function* chunks(file: string): AsyncGenerator<Uint8Array> {
  try {
    // A pipe or a device may never end.
    if (!(await stat(file)).isFile()) bad_data(file, "no regular file", "a file of data");
    const stream = createReadStream(file, { highWaterMark: 1 << 20 });
    if (!/\.gz$/i.test(file)) return yield* stream;
    const unpacked = stream.pipe(createGunzip());
    stream.on("error", (error) => unpacked.destroy(error));
    let size = 0;
    for await (const chunk of unpacked) {
      size += (chunk as Uint8Array).length;
      if (size > Math.max(2 ** 30, MOST_GROWTH * stream.bytesRead))
        bad_data(file, `gzip data that grow more than ${MOST_GROWTH} times`, "data, not their repetition");
      yield chunk as Uint8Array;
    }
  } catch (error) {
    if (String((error as { code?: unknown }).code).startsWith("Z_")) bad_data(file, "not whole gzip data", "gzip");
    throw file_error(error, file, "a data file");
  }
}

async function whole(file: string, most = MOST_BYTES): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunks(file)) {
    parts.push(chunk);
    size += chunk.length;
    if (size > most)
      bad_data(file, `over ${most / 2 ** 20} MB`, "less in one piece", "save it as JSON lines, or in parts");
  }
  return Buffer.concat(parts);
}

async function whole_text(file: string): Promise<string> {
  const bytes = await whole(file, MOST_TEXT);
  // A workbook of Excel is a ZIP archive.
  if (bytes[0] === 0x50 && bytes[1] === 0x4b && bytes[2] === 3)
    return bad_data(file, "a workbook or archive under the name of a text", data_kinds, 'save it as "CSV UTF-8"');
  const utf16 = utf16_decoder(bytes);
  try {
    if (utf16 || !bytes.includes(0)) return (utf16 ?? utf8).decode(bytes);
  } catch (error) {
    // A text of V8 has at most 512 MB.
    if (!(error instanceof TypeError) || !/encoded data/i.test(error.message))
      return bad_data(file, `${bytes.length >> 20} MB`, "at most 512 MB in one piece", "save it as JSON lines");
  }
  let line = 1;
  for (let start = 0; start <= bytes.length; line++) {
    const end = bytes.indexOf(10, start);
    const stop = end < 0 ? bytes.length : end;
    if (utf8_lines(bytes.subarray(start, stop)).includes(null)) break;
    start = stop + 1;
  }
  return bad_data(`${file} line ${line}`, "bytes that are not UTF-8", "UTF-8 text", "save it as UTF-8");
}
