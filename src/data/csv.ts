/** Comma-separated values as pandas and Python's csv read them, each row under its line. */
import { CsvError, parse } from "csv-parse/sync";
import { strip } from "../text/python.js";
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
  const rows = parse_rows(file, text, delimiter ?? delimiter_of(text));
  const first = rows[0];
  if (!first) return [];
  const unnamed = names !== undefined && !first.record.includes("question");
  const header = unnamed ? names : first.record.map((name) => strip(name));
  // pandas writes its index under no name, and spreadsheets columns that are empty.
  const twice = header.find((name, i) => name !== "" && header.indexOf(name) !== i);
  if (twice !== undefined) bad_data(`${file} line ${first.line}`, `two columns named ${twice}`, "each column once");
  return rows.slice(unnamed ? 0 : 1).map(({ record, line }) => {
    const where = `${file} line ${line}`;
    if (record.length === header.length)
      return { where, line, value: Object.fromEntries(header.map((name, i) => [name, record[i]])) };
    const problem = new DataProblem(`${record.length} columns`, `${header.length} (${header.join(", ")})`);
    return { where, line, problem };
  });
}

function parse_rows(file: string, text: string, delimiter: string): { record: string[]; line: number }[] {
  try {
    const rows = parse(text, {
      info: true,
      delimiter,
      relax_column_count: true,
      // A quote inside a text that does not begin with one is a quote.
      relax_quotes: true,
      skip_empty_lines: true,
    }) as unknown as { record: string[]; info: { lines: number } }[];
    return rows.map(({ record, info }) => ({ record, line: info.lines }));
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const line = typeof error.lines === "number" ? ` line ${error.lines}` : "";
    return bad_data(`${file}${line}`, error.message.split("\n")[0]!, "comma-separated values, quoted where needed");
  }
}

/** Where commas separate decimals, spreadsheets write semicolons; and some files of tabs are named .csv. */
function delimiter_of(text: string): string {
  const head = text.slice(0, text.search(/[\r\n]|$/)).replace(/"[^"]*"/g, "");
  return head.includes(",") ? "," : head.includes(";") ? ";" : head.includes("\t") ? "\t" : ",";
}
