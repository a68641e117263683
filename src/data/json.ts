/** JSON as Python's `json` and `datasets` read it. */
import { parse_json } from "../files.js";
import { bad_data, type DataRecord } from "./record.js";

/** The records of a file that is one JSON value: a list, or one record over several lines. Null for anything else. */
export function json_document(file: string, text: string, by_id: boolean): DataRecord[] | null {
  let value: unknown;
  try {
    value = parse_json(text, true);
  } catch (error) {
    if (!by_id && !/^\s*\[/.test(text)) return null;
    return bad_data(file, `not JSON (${(error as Error).message.slice(0, 80)})`, "a whole JSON file");
  }
  const record = (one: unknown, i: number) => ({ where: `${file} record ${i + 1}`, line: i + 1, value: one });
  if (Array.isArray(value)) return value.map(record);
  if (by_id) return records_by_id(file, value as Record<string, unknown>, text);
  // What datasets is told by `field="data"`.
  const list = (value as { data?: unknown } | null)?.data;
  if (is_table(list)) return list.map(record);
  return [{ where: `${file} line 1`, line: 1, value }];
}

const is_table = (value: unknown): value is unknown[] =>
  Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "object" && one !== null);

function records_by_id(file: string, values: Record<string, unknown>, text: string): DataRecord[] {
  return keys_in_order(text).map((id, i) => {
    const value = values[id];
    const record = { id, ...(typeof value === "object" ? value : { value }) };
    return { where: `${file} record ${id}`, line: i + 1, value: record };
  });
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
