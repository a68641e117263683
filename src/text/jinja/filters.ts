/** Jinja's filters, with `tojson` as transformers has it. */
import { charge } from "./budget.js";
import { percent_format, round } from "./format.js";
import { as_int, as_text, capitalize, center, take } from "./methods.js";
import { arithmetic, get_item, python_attribute } from "./operators.js";
import { dump, dump_defaults, str, text } from "./print.js";
import { call_test } from "./tests.js";
import { Text } from "./text.js";
import {
  type Args, compare, Dict, equal, error, Generator, is_number, iterate, List, length_of, or_else, plain, truth,
  Undefined, type Value,
} from "./values.js"; // biome-ignore format: a list

type Given = Value | undefined;
type Filter = [signature: string, call: (value: Value, ...args: Given[]) => Value];

const flag = (value: Given, otherwise = false) => (value === undefined ? otherwise : truth(value));
const given = (value: Given): value is Value => value !== undefined && value !== null;
const lowered = (value: Value) => (value instanceof Text ? value.map((one) => one.toLowerCase()) : value);

/** `"a.0.b"` as the steps that it names; null is the item itself. */
function getter(attribute: Given, ignore_case = false, otherwise?: Given): (item: Value) => Value {
  const parts = !given(attribute)
    ? []
    : attribute instanceof Text
      ? attribute.value.split(".").map((part): Value => (/^\d+$/.test(part) ? BigInt(part) : text(part)))
      : [attribute];
  return (item) => {
    let value = item;
    for (const part of parts) {
      value = get_item(value, part);
      if (given(otherwise) && value instanceof Undefined) value = otherwise;
    }
    return ignore_case ? lowered(value) : value;
  };
}

function sorted<T>(items: readonly T[], key: (item: T) => Value, reverse: boolean): T[] {
  charge(items.length * 64);
  const keyed = items.map((item): [Value, T] => [key(item), item]);
  keyed.sort(([a], [b]) => (reverse ? compare(b, a) : compare(a, b)));
  return keyed.map(([, item]) => item);
}

function extreme(value: Value, case_sensitive: Given, attribute: Given, sign: 1 | -1): Value {
  const items = iterate(value);
  if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
  const key = getter(attribute, !flag(case_sensitive));
  return items.reduce((best, item) => (compare(key(item), key(best)) * sign > 0 ? item : best));
}

function distinct(items: readonly Value[], key: (item: Value) => Value): Value[] {
  const seen = new Dict();
  return items.filter((item) => {
    const of = key(item);
    if (seen.get(of) !== undefined) return false;
    seen.set(of, true);
    return true;
  });
}

function grouped(value: Value, attribute: Given, otherwise: Given, case_sensitive: Given): Value {
  const key = getter(attribute, !flag(case_sensitive), otherwise);
  const exact = getter(attribute, false, otherwise);
  const groups: { key: Value; items: Value[] }[] = [];
  for (const item of sorted(iterate(value), key, false)) {
    const of = key(item);
    if (groups.length > 0 && equal(groups.at(-1)!.key, of)) groups.at(-1)!.items.push(item);
    else groups.push({ key: of, items: [item] });
  }
  return new List(groups.map(({ items }) => new Group(exact(items[0]!), new List(items))));
}

/** A tuple whose parts also have names. */
export class Group extends List {
  constructor(
    readonly grouper: Value,
    readonly list: List,
  ) {
    super([grouper, list], "tuple");
  }
}

function batches(value: Value, count: Given, fill: Given): Value {
  const size = Math.max(1, as_int(count, 1));
  const items = [...iterate(value)];
  const rows: Value[] = [];
  for (let at = 0; at < items.length; at += size) {
    const row = items.slice(at, at + size);
    if (given(fill) && row.length < size) {
      charge(size);
      while (row.length < size) row.push(fill);
    }
    rows.push(new List(row));
  }
  return new Generator(rows);
}

function slices(value: Value, count: Given, fill: Given): Value {
  const items = iterate(value);
  const many = as_int(count, 1);
  if (many < 1) return error("integer division or modulo by zero");
  charge(many);
  const [size, longer] = [Math.floor(items.length / many), items.length % many];
  const columns: Value[] = [];
  for (let i = 0; i < many; i++) {
    const start = i * size + Math.min(i, longer);
    const column = items.slice(start, start + size + (i < longer ? 1 : 0));
    columns.push(new List(given(fill) && i >= longer ? [...column, fill] : column));
  }
  return new Generator(columns);
}

function indent(value: Value, width: Given, first: Given, blank: Given): Text {
  const space = width instanceof Text ? width : text(" ").repeat(as_int(width, 4));
  const lines = Text.join([as_text(value, "indent"), text("\n")]).split_lines();
  const all = flag(blank);
  const indented = lines.map((line, i) => (i > 0 && (all || line.value !== "") ? Text.join([space, line]) : line));
  const joined = Text.join(indented, text("\n"));
  return flag(first) ? Text.join([space, joined]) : joined;
}

function truncate(value: Value, length: Given, kill_words: Given, end: Given, leeway: Given): Value {
  const ellipsis = end === undefined ? text("...") : as_text(end, "end");
  const limit = as_int(length, 255);
  if (length_of(value) <= limit + as_int(leeway, 5)) return value;
  const whole = as_text(value, "truncate");
  if (limit < ellipsis.size) error(`expected length >= ${ellipsis.size}, got ${limit}`);
  const cut = whole.cut(0, whole.offset(limit - ellipsis.size));
  return Text.join([flag(kill_words) ? cut : cut.split(text(" "), 1, true)[0]!, ellipsis]);
}

function to_int(value: Value, otherwise: Given, base: Given): Value {
  const radix = as_int(base, 10);
  const fallback = otherwise ?? 0n;
  if (is_number(value)) {
    const number = plain(value);
    return typeof number === "bigint" ? number : Number.isFinite(number) ? BigInt(Math.trunc(number)) : fallback;
  }
  if (!(value instanceof Text)) return value instanceof Undefined ? error(value.problem) : fallback;
  const digits = value.strip(null, 3).value.replace(/(?<=[\da-z])_(?=[\da-z])/gi, "");
  const [, sign, prefix = "", rest = ""] = /^([+-]?)(0[box])?([\da-z]+)$/i.exec(digits) ?? [];
  const of_prefix: Record<string, number> = { "0b": 2, "0o": 8, "0x": 16 };
  const takes_prefix = prefix === "" || of_prefix[prefix.toLowerCase()] === radix;
  if (rest !== "" && takes_prefix && Array.from(rest).every((digit) => Number.parseInt(digit, 36) < radix)) {
    if (rest.length > 4300) return error("Exceeds the limit (4300 digits) for integer string conversion");
    const number = Array.from(rest).reduce(
      (sum, digit) => sum * BigInt(radix) + BigInt(Number.parseInt(digit, 36)),
      0n,
    );
    return sign === "-" ? -number : number;
  }
  const number = to_float(value, null);
  return typeof number === "number" && Number.isFinite(number) ? BigInt(Math.trunc(number)) : fallback;
}

function to_float(value: Value, otherwise: Given): Value {
  if (is_number(value)) return Number(plain(value));
  if (value instanceof Undefined) return error(value.problem);
  const digits = value instanceof Text ? value.strip(null, 3).value.replace(/(?<=\d)_(?=\d)/g, "") : "";
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(digits)) return Number(digits);
  if (/^[+-]?(inf|infinity|nan)$/i.test(digits)) {
    if (/nan/i.test(digits)) return Number.NaN;
    return digits.startsWith("-") ? -Infinity : Infinity;
  }
  return otherwise === undefined ? 0 : otherwise;
}

function to_json(value: Value, ...[ascii, indentation, separators, sort_keys]: Given[]): Text {
  const pair = given(separators) ? iterate(separators).map((one) => as_text(one, "a separator")) : null;
  if (pair && pair.length !== 2) error("separators are two texts");
  const indented = given(indentation);
  return dump(value, {
    ensure_ascii: flag(ascii),
    indent: !indented ? null : indentation instanceof Text ? indentation : text(" ").repeat(as_int(indentation, 0)),
    separators: pair
      ? [pair[0]!, pair[1]!]
      : [indented ? text(",") : dump_defaults.separators[0], dump_defaults.separators[1]],
    sort_keys: flag(sort_keys),
  });
}

const html: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" };
const escaped: Filter = [
  "",
  (value) => str(value).map((part) => part.replace(/[&<>'"]/g, (character) => html[character]!)),
];
const count: Filter = ["", (value) => BigInt(length_of(value))];
const fallback: Filter = [
  "default_value? boolean?",
  (value, otherwise = text(""), boolean) =>
    value instanceof Undefined || (flag(boolean) && !truth(value)) ? otherwise : value,
];
const url_part = (value: Text, keep: string): Text => {
  charge(64 * value.value.length);
  return value.map((part) =>
    Array.from(new TextEncoder().encode(part), (byte) => {
      const character = String.fromCharCode(byte);
      return /[\w.~-]/.test(character) || keep.includes(character)
        ? character
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
    }).join(""),
  );
};

const filters: Record<string, Filter> = {
  abs: ["", (value) => (is_number(value) ? (plain(value) < 0 ? arithmetic("-", 0n, value) : plain(value)) : error("bad operand type for abs()"))],
  attr: ["name", (value, name) => or_else(python_attribute(value, str(name!).value), () => new Undefined(`no attribute '${str(name!).value}'`))],
  batch: ["linecount fill_with?", batches],
  capitalize: ["", (value) => str(value).map(capitalize)],
  center: ["width?", (value, width = 80n) => center(str(value), width)],
  count,
  d: fallback,
  default: fallback,
  dictsort: [
    "case_sensitive? by? reverse?",
    (value, case_sensitive, by = text("key"), reverse) => {
      if (!(value instanceof Dict)) return error("dictsort needs a mapping");
      const at = str(by).value === "key" ? 0 : str(by).value === "value" ? 1 : error('You can only sort by either "key" or "value"');
      const key = (entry: readonly [Value, Value]) => (flag(case_sensitive) ? entry[at] : lowered(entry[at]));
      return new List(sorted(value.entries(), key, flag(reverse)).map((entry) => new List(entry, "tuple")));
    },
  ],
  e: escaped,
  escape: escaped,
  first: [
    "",
    (value) =>
      or_else(value instanceof Generator ? value.next() : iterate(value)[0], () => new Undefined("No first item, sequence was empty.")),
  ],
  float: ["default?", to_float],
  forceescape: escaped,
  groupby: ["attribute default? case_sensitive?", grouped],
  indent: ["width? first? blank?", indent],
  int: ["default? base?", to_int],
  items: [
    "",
    (value) => {
      if (value instanceof Undefined) return new Generator([]);
      if (!(value instanceof Dict)) return error("Can only get item pairs from a mapping.");
      return new Generator(value.entries().map((entry) => new List(entry, "tuple")));
    },
  ],
  join: [
    "d? attribute?",
    (value, between = text(""), attribute) => Text.join(iterate(value).map(getter(attribute)).map(str), str(between)),
  ],
  last: ["", (value) => or_else(iterate(value).at(-1), () => new Undefined("No last item, sequence was empty."))],
  length: count,
  list: ["", (value) => new List(iterate(value))],
  lower: ["", (value) => str(value).map((part) => part.toLowerCase())],
  max: ["case_sensitive? attribute?", (value, sensitive, attribute) => extreme(value, sensitive, attribute, 1)],
  min: ["case_sensitive? attribute?", (value, sensitive, attribute) => extreme(value, sensitive, attribute, -1)],
  replace: ["old new count?", (value, old, by, limit) => str(value).replace(str(old!), str(by!), as_int(limit, -1))],
  reverse: [
    "",
    (value) => {
      const reversed = [...iterate(value)].reverse();
      return value instanceof Text ? Text.join(reversed as Text[]) : new Generator(reversed);
    },
  ],
  round: [
    "precision? method?",
    (value, precision, method = text("common")) => {
      const digits = as_int(precision, 0);
      const how = str(method).value;
      if (how === "common") return round(value, digits);
      if (how !== "ceil" && how !== "floor") return error("method must be common, ceil or floor");
      const scaled = arithmetic("*", value, arithmetic("**", 10n, BigInt(digits)));
      return arithmetic("/", BigInt(Math[how](Number(scaled))), arithmetic("**", 10n, BigInt(digits)));
    },
  ],
  safe: ["", str],
  slice: ["slices fill_with?", slices],
  sort: [
    "reverse? case_sensitive? attribute?",
    (value, reverse, sensitive, attribute) => {
      const parts = attribute instanceof Text ? attribute.value.split(",").map((one) => getter(text(one), !flag(sensitive))) : [getter(attribute, !flag(sensitive))];
      return new List(sorted(iterate(value), (item) => new List(parts.map((part) => part(item))), flag(reverse)));
    },
  ],
  string: ["", str],
  sum: [
    "attribute? start?",
    (value, attribute, start = 0n) => iterate(value).map(getter(attribute)).reduce((sum, item) => arithmetic("+", sum, item), start),
  ],
  title: [
    "",
    (value) =>
      str(value).map((part) =>
        part.replace(/[^-\s({[<]+/g, capitalize),
      ),
  ],
  tojson: ["ensure_ascii? indent? separators? sort_keys?", to_json],
  trim: ["chars?", (value, chars) => str(value).strip(given(chars) ? as_text(chars, "strip arg") : null, 3)],
  truncate: ["length? killwords? end? leeway?", truncate],
  unique: ["case_sensitive? attribute?", (value, sensitive, attribute) => new Generator(distinct(iterate(value), getter(attribute, !flag(sensitive))))],
  upper: ["", (value) => str(value).map((part) => part.toUpperCase())],
  urlencode: [
    "",
    (value) => {
      if (value instanceof Text || !(value instanceof Dict || value instanceof List)) return url_part(str(value), "/");
      const pairs = value instanceof Dict ? value.entries() : value.items.map((item) => iterate(item));
      const quoted = (one: Value) => url_part(str(one), "").replace(text("%20"), text("+"));
      return Text.join(
        pairs.map(([key, item, ...more]) => {
          if (key === undefined || item === undefined || more.length > 0) error("urlencode needs pairs");
          return Text.join([quoted(key!), text("="), quoted(item!)]);
        }),
        text("&"),
      );
    },
  ],
  wordcount: [
    "",
    (value) => {
      charge(32 * str(value).value.length);
      return BigInt(str(value).value.match(/[\p{L}\p{N}_]+/gu)?.length ?? 0);
    },
  ],
}; // biome-ignore format: a table

/** The filters that call others. */
function higher(name: string, value: Value, args: Args): Value | undefined {
  const [first, ...rest] = args.positional;
  if (name === "map") {
    if (!truth(value)) return new Generator([]);
    if (first === undefined && args.named.has("attribute")) {
      const [attribute, otherwise] = take("map", args, "attribute default?");
      return new Generator(iterate(value).map(getter(attribute, false, otherwise)));
    }
    if (first === undefined) return error("map requires a filter argument");
    return new Generator(
      iterate(value).map((item) => call_filter(str(first).value, item, { ...args, positional: rest })),
    );
  }
  if (!/^(select|reject)(attr)?$/.test(name)) return undefined;
  if (!truth(value)) return new Generator([]);
  const by_attribute = name.endsWith("attr");
  if (by_attribute && first === undefined) return error("Missing parameter for attribute name");
  const [test, ...test_args] = by_attribute ? rest : args.positional;
  const of = by_attribute ? getter(first) : (item: Value) => item;
  const holds = (item: Value) =>
    test === undefined ? truth(of(item)) : call_test(str(test).value, of(item), { ...args, positional: test_args });
  return new Generator(iterate(value).filter((item) => holds(item) === name.startsWith("select")));
}

/** @throws TemplateError for a filter that there is not */
export function call_filter(name: string, value: Value, args: Args): Value {
  if (value instanceof Text) charge(value.value.length);
  const result = higher(name, value, args);
  if (result !== undefined) return result;
  if (name === "format") {
    const named = args.named.size > 0 ? new Dict([...args.named].map(([key, item]) => [text(key), item])) : null;
    return percent_format(str(value), named ?? new List(args.positional, "tuple"));
  }
  if (!Object.hasOwn(filters, name)) return error(`No filter named '${name}'`);
  const [signature, call] = filters[name]!;
  return call(value, ...take(name, args, signature));
}
