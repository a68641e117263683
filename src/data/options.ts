/**
 * The options of a question in every form that data sets have: a list, an object under letters, lists of texts and labels, columns of
 * their own, and within a cell as JSON, as Python prints a list, as lines, or with | between.
 */

import { parse_json } from "../files.js";
import { option_letters, without_marks } from "../text/arabic.js";
import { is_blank, splitlines, strip } from "../text/python.js";
import { DataProblem } from "./record.js";

export interface Options {
  texts: string[];
  /** How the data set names each option; null where only their order does. */
  labels: string[] | null;
}

/** The most options that a question can have: as many as there are letters. */
export const MOST_OPTIONS = option_letters.en.length;

/** A row's columns by name, without regard to case, spaces and hyphens ("Option A" is option_a). */
export type Columns = ReadonlyMap<string, unknown>;

export const column_name = (name: string): string =>
  strip(without_marks(name))
    .replace(/[\s-]+/g, "_")
    .toLowerCase();

/** A field that says nothing: pandas and datasets write null, CSV nothing, and Alpaca an empty text. */
export const is_absent = (value: unknown): boolean =>
  value === undefined || value === null || (typeof value === "string" && is_blank(value));

/** @throws DataProblem */
export function read_options(row: Columns): Options {
  const name = ["options", "choices", "answer_options"].find((one) => !is_absent(row.get(one)));
  // HeadQA's; elsewhere `answers` are the right ones.
  const listed = row.get("answers");
  const options =
    name !== undefined
      ? from_value(row.get(name), name)
      : is_table(listed)
        ? labelled_list(listed, "answers")
        : from_columns(row);
  const count = options.texts.length;
  if (count < 2 || count > MOST_OPTIONS)
    throw new DataProblem(`${count} options`, `2 to ${MOST_OPTIONS}, in options or in columns A, B, C …`);
  return without_letters(options);
}

/** Columns that hold an option each: A, option_a, opa, ending0, choice1, أ … */
const COLUMN = /^(?:options?_?|choices?_?|endings?_?|op)?([a-j]|\d)$/;

function from_columns(row: Columns): Options {
  const found = new Map<string, [string, unknown][]>();
  for (const [name, value] of row) {
    const label = COLUMN.exec(name)?.[1]?.toUpperCase() ?? (option_letters.ar.includes(name) ? name : undefined);
    if (label === undefined) continue;
    const kind = name.slice(0, name.length - label.length);
    if (kind === "" && /\d/.test(label)) continue;
    found.set(kind, [...(found.get(kind) ?? []), [label, value]]);
  }
  const columns = [...found.values()].reduce((most, one) => (one.length > most.length ? one : most), []);
  const { texts, labels } = labelled(columns, (label) => `option ${label}`);
  // Whether numbered columns are answered by their number, or by their place from 0, differs from set to set: by their place.
  return { texts, labels: labels!.every((label) => /\D/.test(label)) ? labels : null };
}

/** Options under names. One with fewer than the widest row of its file has nothing in the last ones: datasets writes null there. */
function labelled(entries: [string, unknown][], what: (label: string) => string): Options {
  const given = [...entries];
  while (given.length > 0 && is_absent(given.at(-1)![1])) given.pop();
  return {
    texts: given.map(([label, value]) => option_text(value, what(label))),
    labels: given.map(([label]) => strip(label)),
  };
}

const is_table = (value: unknown): value is Record<string, unknown>[] =>
  Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "object" && one !== null);

function from_value(value: unknown, name: string): Options {
  if (typeof value === "string") return from_text(value, name);
  if (Array.isArray(value)) {
    if (is_table(value)) return labelled_list(value, name);
    const texts = value.map((one, i) => option_text(one, `${name}[${i}]`));
    return {
      texts: value.some((one) => typeof one === "number") ? numbers_as_in_python(value, texts) : texts,
      labels: null,
    };
  }
  if (typeof value !== "object" || value === null)
    throw new DataProblem(`${name} of type ${typeof value}`, "a list of texts");
  const { text, label } = value as { text?: unknown; label?: unknown };
  // ARC, CommonsenseQA, OpenBookQA
  if (Array.isArray(text) && Array.isArray(label) && text.length === label.length)
    return { texts: text.map((one, i) => option_text(one, `${name}.text[${i}]`)), labels: label.map(String) };
  return labelled(Object.entries(value), (label) => `${name}.${label}`);
}

const TEXT_KEYS = ["text", "value", "content", "option", "atext", "answer"];
const LABEL_KEYS = ["label", "key", "id", "letter", "aid"];

function labelled_list(value: Record<string, unknown>[], name: string): Options {
  const [text, label] = [TEXT_KEYS, LABEL_KEYS].map((keys) => keys.find((key) => value.every((one) => key in one)));
  if (text === undefined)
    throw new DataProblem(
      `${name} with objects of ${Object.keys(value[0]!).join(", ")}`,
      `a ${TEXT_KEYS.join(", a ")}`,
    );
  return {
    texts: value.map((one, i) => option_text(one[text], `${name}[${i}].${text}`)),
    labels: label === undefined ? null : value.map((one) => String(one[label])),
  };
}

function from_text(value: string, name: string): Options {
  const text = strip(value);
  if (/^[[{(]/.test(text)) {
    const list = from_json(text) ?? from_json(python_literal(text));
    if (list !== null) return from_value(list, name);
    throw new DataProblem(`${name} ${text.slice(0, 40)}, which is neither JSON nor a list of Python`, '["…", "…"]');
  }
  const lines = splitlines(text).filter((line) => !is_blank(line));
  const texts = lines.length > 1 ? lines : text.split("|");
  if (texts.length < 2)
    throw new DataProblem(
      `${name} ${JSON.stringify(text.slice(0, 40))}, a single text`,
      "JSON, lines, or | between them",
    );
  return { texts: texts.map((one, i) => strip(option_text(one, `${name}[${i}]`))), labels: null };
}

function from_json(text: string): object | null {
  try {
    return parse_json(text, true) as object;
  } catch {
    return null;
  }
}

const PYTHON: Readonly<Record<string, string>> = { None: "null", True: "true", False: "false", "(": "[", ")": "]" };
const PYTHON_TOKEN = /'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|None|True|False|[\s\S]/g;

/** A list or dictionary as Python prints it, which is what pandas writes into a cell, in JSON. */
const python_literal = (text: string): string =>
  text.replace(PYTHON_TOKEN, (token) => {
    if (token.length < 2 || !/^['"]/.test(token)) return PYTHON[token] ?? token;
    const inner = token.slice(1, -1).replace(/\\x(..)|\\(.)|"/g, (found, hex?: string, escaped?: string) => {
      if (hex !== undefined) return `\\u00${hex}`;
      return escaped === "'" ? "'" : escaped === undefined ? '\\"' : found;
    });
    return `"${inner}"`;
  });

/** @throws DataProblem for an option that is no text and has none by nature */
function option_text(value: unknown, what: string): string {
  if (typeof value === "number" && Number.isFinite(value)) return String(value);
  // As Python prints them.
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string" && !is_blank(value)) return value;
  const given = is_absent(value)
    ? `an empty ${what}`
    : `${what} of type ${Array.isArray(value) ? "list" : typeof value}`;
  throw new DataProblem(given, "some text in every one");
}

/** Among fractions a whole number is a float, which Python writes with its point: 1.0 beside 0.5. */
const numbers_as_in_python = (values: readonly unknown[], texts: string[]): string[] =>
  values.every((one) => typeof one === "number") && values.some((one) => !Number.isInteger(one))
    ? values.map((one, i) => (Number.isInteger(one) ? `${texts[i]}.0` : texts[i]!))
    : texts;

/** Takes off the letters that options already begin with ("A) 21", "B. 36"), which would stand there twice in a prompt. */
function without_letters({ texts, labels }: Options): Options {
  for (const letters of Object.values(option_letters)) {
    const bare = texts.map(without_marks).map((text, i) => {
      const start = new RegExp(`^\\s*[([]?${letters[i]}\\s*[).\\]:]\\s*(?=\\S)`, "i").exec(text);
      return start ? text.slice(start[0].length) : null;
    });
    if (bare.every((one) => one !== null)) return { texts: bare, labels };
  }
  return { texts, labels };
}
