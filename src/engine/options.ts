/**
 * Options as data: a record each, from which the library checks what it is given, the server makes its schemas, and docs/options.md is
 * written. What is not in a table is refused by name: who asks for something and does not get it should hear of it.
 */
import { BimedixError } from "../errors.js";
import { nearest } from "../nearest.js";

export type OptionType =
  | "any"
  | "integer"
  | "number"
  | "boolean"
  | "text"
  | "texts"
  | "token id"
  | "token ids"
  | "lists of token ids"
  | "object"
  | "function"
  | "signal"
  | "streamer"
  | "directories";

/** What an option may be, and what it does. */
export interface OptionRecord {
  type: OptionType;
  /** Bounds of numbers. */
  least?: number;
  above?: number;
  most?: number;
  /** The only values there are. */
  values?: readonly unknown[];
  /** null is a value of its own and does not stand for an option left out. */
  nullable?: boolean;
  meaning: string;
}

export interface OptionTable {
  options: Readonly<Record<string, OptionRecord>>;
  /** Options that change nothing at these values, at which programs made for transformers give them; `any` where it ignores them too. */
  without_effect: Readonly<Record<string, readonly unknown[] | "any">>;
  /** What to do instead of giving an option that is refused. */
  instead?: Readonly<Record<string, string>>;
}

const is_id = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
const is_list = (value: unknown, of: (one: unknown) => boolean) => Array.isArray(value) && value.every(of);

const kinds: Record<OptionType, { expected: string; holds: (value: unknown) => boolean }> = {
  // What is checked further on.
  any: { expected: "a value", holds: () => true },
  integer: { expected: "an integer", holds: Number.isSafeInteger },
  number: { expected: "a number", holds: (value) => typeof value === "number" && Number.isFinite(value) },
  boolean: { expected: "true or false", holds: (value) => typeof value === "boolean" },
  text: { expected: "a text", holds: (value) => typeof value === "string" && value !== "" },
  texts: {
    expected: "a text, or a list of them, none empty",
    holds: (value) => is_list([value].flat(), (one) => typeof one === "string" && one !== ""),
  },
  "token id": { expected: "a token id", holds: is_id },
  "token ids": { expected: "a token id, or a list of them", holds: (value) => is_list([value].flat(), is_id) },
  "lists of token ids": {
    expected: "lists of token ids, none empty",
    holds: (value) => is_list(value, (ids) => is_list(ids, is_id) && (ids as unknown[]).length > 0),
  },
  object: { expected: "an object", holds: (value) => typeof value === "object" && value !== null },
  function: { expected: "a function", holds: (value) => typeof value === "function" },
  signal: {
    expected: "an AbortSignal",
    holds: (value) => typeof (value as Partial<AbortSignal> | null)?.addEventListener === "function",
  },
  directories: {
    expected: "a directory or hub id, or several of them by name",
    holds: (value) =>
      is_list(
        typeof value === "object" ? Object.values(value ?? {}) : [value],
        (one) => typeof one === "string" && one !== "",
      ),
  },
  streamer: {
    expected: "a function, or an object with put() and end()",
    holds: (value) => {
      const { put, end } = (value ?? {}) as Record<string, unknown>;
      return typeof value === "function" || (typeof put === "function" && typeof end === "function");
    },
  },
};

/** `an integer from 0`, `a number above 0 and at most 1`, `"cpu"`. */
export function expected_of({ type, least, above, most, values }: OptionRecord): string {
  if (values) return values.map((value) => JSON.stringify(value)).join(" or ");
  const from = least !== undefined ? ` from ${least}` : above !== undefined ? ` above ${above}` : "";
  const to = most === undefined ? "" : least !== undefined ? ` to ${most}` : ` and at most ${most}`;
  return kinds[type].expected + from + to;
}

function holds(value: unknown, { type, least, above, most, values, nullable }: OptionRecord): boolean {
  if (value === null && nullable) return true;
  if (values) return values.includes(value);
  if (!kinds[type].holds(value)) return false;
  if (typeof value !== "number") return true;
  return (
    !(least !== undefined && value < least) && !(above !== undefined && value <= above) && !(value > (most ?? Infinity))
  );
}

/**
 * The options that were given and say something, checked; undefined and null stand for an option left out.
 *
 * @param where what takes them, for the error
 * @throws BimedixError bad_option for an option that is not in the table, or whose value it does not allow
 */
export function check_options(given: object, table: OptionTable, where: string): Record<string, unknown> {
  const checked: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(given)) {
    const record = Object.hasOwn(table.options, name) ? table.options[name]! : undefined;
    if (value === undefined || (value === null && !record?.nullable)) {
      if (!record && !Object.hasOwn(table.without_effect, name)) throw unknown_option(name, value, table, where);
    } else if (!record) check_without_effect(name, value, table, where);
    else if (holds(value, record)) checked[name] = value;
    else throw bad_option(`${name} ${shown(value)}`, expected_of(record), "change it or leave it out");
  }
  return checked;
}

function check_without_effect(name: string, value: unknown, table: OptionTable, where: string): void {
  const allowed = Object.hasOwn(table.without_effect, name) ? table.without_effect[name]! : undefined;
  if (allowed === undefined) throw unknown_option(name, value, table, where);
  if (allowed === "any" || allowed.some((one) => JSON.stringify(one) === JSON.stringify(value))) return;
  const values = allowed.map((one) => JSON.stringify(one)).join(" or ");
  throw bad_option(
    `${name} ${shown(value)}, which ${where} does not support`,
    values || "none",
    table.instead?.[name] ?? "leave it out",
  );
}

function unknown_option(name: string, value: unknown, table: OptionTable, where: string): BimedixError {
  const near = nearest(name, Object.keys(table.options));
  return bad_option(
    `the option ${name} ${shown(value)}, which ${where} does not have`,
    "an option of docs/options.md",
    near === undefined ? "leave it out" : `did you mean ${near}?`,
  );
}

/** A value in a message. JSON has no NaN, no bigint and no circle. */
export function shown(value: unknown): string {
  if (typeof value === "function" || typeof value === "symbol") return `of type ${typeof value}`;
  if (typeof value === "number" || typeof value === "bigint") return String(value);
  try {
    return (JSON.stringify(value) ?? String(value)).slice(0, 60);
  } catch {
    return `of type ${typeof value}`;
  }
}

function bad_option(given: string, expected: string, todo: string): BimedixError {
  return new BimedixError("bad_option", { given, expected, todo });
}
