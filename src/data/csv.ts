/** Comma-separated values as pandas and Python's csv read them, each row under its line. */
import { is_blank, strip } from "../text/python.js";
import { bad_data, type DataEntry, DataProblem } from "./record.js";

/** What a file of comma-separated values says besides its rows. */
export interface CsvOptions {
  /** Null: a comma, unless the first line has none. */
  delimiter: string | null;
  /** The columns of a file whose first row names none. */
  names?: readonly string[];
}

/** The rows of a CSV file under the names in its first one, as texts. @throws BimedixError bad_data */
export function csv_rows(file: string, text: string, { delimiter, names }: CsvOptions): DataEntry[] {
  // Excel's own first line, which names the delimiter.
  const named = /^sep=(.)(?:\r\n|\r|\n)/.exec(text);
  const rows = parse_rows(file, text, named?.[1] ?? delimiter ?? delimiter_of(text)).slice(named ? 1 : 0);
  const first = rows[0];
  if (!first) return [];
  const unnamed = names !== undefined && !first.record.includes("question");
  const header = unnamed ? names : first.record.map((name) => strip(name));
  // pandas writes its index under no name, and spreadsheets columns that are empty.
  const seen = new Set<string>();
  const twice = header.find((name) => name !== "" && seen.size === seen.add(name).size);
  if (twice !== undefined) bad_data(`${file} line ${first.line}`, `two columns named ${twice}`, "each column once");
  return rows.slice(unnamed ? 0 : 1).map(({ record, line }) => {
    const where = `${file} line ${line}`;
    if (record.length === header.length)
      return { where, line, value: Object.fromEntries(header.map((name, i) => [name, record[i]])) };
    const problem = new DataProblem(`${record.length} columns`, `${header.length} (${header.join(", ")})`);
    return { where, line, problem };
  });
}

interface Row {
  record: string[];
  /** Where it begins, from 1. */
  line: number;
}

/**
 * The fields of each row that is not blank, or only separators, as spreadsheets write below a table. What follows a closing quote belongs to the field, and a quote within a field that does
 * not begin with one is a quote, as in Python.
 */
function parse_rows(file: string, text: string, delimiter: string): Row[] {
  const end = `\\${delimiter}`;
  const field = new RegExp(`(?:"([^"]*(?:""[^"]*)*)("?))?([^${end}\\r\\n]*)(${end}|\\r\\n|\\r|\\n|$)`, "y");
  const rows: Row[] = [];
  let row: Row = { record: [], line: 1 };
  let line = 1;
  for (let at = 0; at < text.length; at = field.lastIndex) {
    field.lastIndex = at;
    const [whole, quoted, closing, rest, ended] = field.exec(text)!;
    if (closing === "") bad_data(`${file} line ${line}`, "a quote that is not closed", "one at its end");
    row.record.push((quoted?.replaceAll('""', '"') ?? "") + rest);
    line += whole!.match(/\r\n|\r|\n/g)?.length ?? 0;
    const last = field.lastIndex === text.length;
    if (ended === delimiter && !last) continue;
    if (ended === delimiter) row.record.push("");
    if (quoted !== undefined || !row.record.every(is_blank)) rows.push(row);
    row = { record: [], line };
  }
  return rows;
}

/** Where commas separate decimals, spreadsheets write semicolons; and some files of tabs are named .csv. */
function delimiter_of(text: string): string {
  const head = text.slice(0, text.search(/[\r\n]|$/)).replace(/"[^"]*"/g, "");
  return head.includes(",") ? "," : head.includes(";") ? ";" : head.includes("\t") ? "\t" : ",";
}
