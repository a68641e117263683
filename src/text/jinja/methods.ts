/** The methods of Python's strings, lists and dicts that a sandboxed template may call. */
import { charge, STEP } from "./budget.js";
import { text } from "./print.js";
import { Text } from "./text.js";
import {
  type Args,
  Callable,
  Dict,
  equal,
  error,
  iterate,
  List,
  or_else,
  type_name,
  Undefined,
  type Value,
} from "./values.js";

/**
 * Arguments by position or name. `signature` lists the names; a `?` stands behind those that may be left out, which are then
 * undefined.
 */
export function take(callee: string, { positional, named }: Args, signature: string): (Value | undefined)[] {
  const names = signature === "" ? [] : signature.split(" ");
  if (positional.length > names.length)
    error(`${callee}() takes at most ${names.length} arguments (${positional.length} given)`);
  const plain_names = names.map((name) => name.replace("?", ""));
  for (const name of named.keys())
    if (!plain_names.includes(name)) error(`${callee}() got an unexpected keyword argument '${name}'`);
  return names.map((name, i) => {
    const given = i < positional.length ? positional[i] : named.get(plain_names[i]!);
    if (given === undefined && !name.endsWith("?")) error(`${callee}() missing required argument '${name}'`);
    return given;
  });
}

export function as_text(value: Value | undefined, what: string): Text {
  if (value instanceof Text) return value;
  if (value instanceof Undefined) return error(value.problem);
  return error(`${what} must be str, not ${value === undefined ? "nothing" : type_name(value)}`);
}

export function as_int(value: Value | undefined, otherwise: number): number {
  if (value === undefined || value === null) return otherwise;
  if (typeof value === "bigint" || typeof value === "boolean") return Number(value);
  if (value instanceof Undefined) return error(value.problem);
  return error(`'${type_name(value)}' object cannot be interpreted as an integer`);
}

type Method<Self> = [signature: string, call: (self: Self, ...args: (Value | undefined)[]) => Value];

const tuple = (...items: Value[]) => new List(items, "tuple");
const chars = (value: Value | undefined) =>
  value === undefined || value === null ? null : as_text(value, "strip arg");

/** What `startswith` and its kin look at: the text from `start` to `end`, and one or several texts. */
function affixes(
  self: Text,
  affix: Value | undefined,
  start: Value | undefined,
  end: Value | undefined,
): [string, string[]] {
  const list = affix instanceof List && affix.kind === "tuple" ? affix.items : [affix!];
  return [range(self, start, end)[0].value, list.map((one) => as_text(one, "first arg").value)];
}

/** A part of the text, and the number of the character at which it starts. */
function range(self: Text, start: Value | undefined, end: Value | undefined): [Text, number] {
  const within = (value: number) => Math.max(0, value < 0 ? value + self.size : value);
  const from = within(as_int(start, 0));
  const to = within(as_int(end, self.size));
  return [from < to ? self.cut(self.offset(from), self.offset(to)) : text(""), from];
}

function find(self: Text, args: (Value | undefined)[], last: boolean): number {
  const [part, from] = range(self, args[1], args[2]);
  const wanted = as_text(args[0], "substring").value;
  if (from > self.size) return -1;
  const at = last ? part.value.lastIndexOf(wanted) : part.value.indexOf(wanted);
  return at < 0 ? -1 : from + part.index(at);
}

function index(self: Text, args: (Value | undefined)[], last: boolean): bigint {
  const at = find(self, args, last);
  return at < 0 ? error("substring not found") : BigInt(at);
}

function separator(value: Value | undefined): Text | null {
  if (value === undefined || value === null) return null;
  const given = as_text(value, "separator");
  return given.value === "" ? error("empty separator") : given;
}

function partition(self: Text, value: Value | undefined, last: boolean): Value {
  const [found] = [separator(value) ?? error("must be str, not NoneType")];
  const pieces = self.split(found, 1, last);
  if (pieces.length === 2) return tuple(pieces[0]!, found, pieces[1]!);
  return last ? tuple(text(""), text(""), self) : tuple(self, text(""), text(""));
}

function justify(
  self: Text,
  width: Value | undefined,
  fill: Value | undefined,
  left_share: (missing: number) => number,
): Text {
  const missing = as_int(width, 0) - self.size;
  const filling = fill === undefined ? text(" ") : as_text(fill, "The fill character");
  if (filling.size !== 1) error("The fill character must be exactly one character long");
  if (missing <= 0) return self;
  const left = left_share(missing);
  return Text.join([filling.repeat(left), self, filling.repeat(missing - left)]);
}

/** The first character in capitals, the others small. */
export function capitalize(value: string): string {
  const first = value === "" ? "" : String.fromCodePoint(value.codePointAt(0)!);
  return first.toUpperCase() + value.slice(first.length).toLowerCase();
}
const cased = /\p{Lu}|\p{Ll}|\p{Lt}/u;
const title = (value: string) => value.replace(/(?:\p{L}\p{M}*)+/gu, (word) => capitalize(word));
const every = (self: Text, pattern: RegExp) => self.value !== "" && pattern.test(self.value);

/** `center` puts the odd space where CPython does. */
export const center = (self: Text, width: Value | undefined, fill?: Value) =>
  justify(self, width, fill, (missing) => Math.floor(missing / 2) + (missing & as_int(width, 0) & 1));

const text_methods: Record<string, Method<Text>> = {
  capitalize: ["", (self) => self.map(capitalize)],
  casefold: ["", (self) => self.map((value) => value.toLowerCase().replaceAll("ß", "ss"))],
  center: ["width fillchar?", (self, width, fill) => center(self, width, fill)],
  count: [
    "sub start? end?",
    (self, sub, start, end) => {
      const [part] = range(self, start, end);
      const wanted = as_text(sub, "sub");
      return BigInt(wanted.value === "" ? part.size + 1 : part.split(wanted).length - 1);
    },
  ],
  endswith: [
    "suffix start? end?",
    (self, suffix, start, end) => {
      const [part, all] = affixes(self, suffix, start, end);
      return all.some((one) => part.endsWith(one));
    },
  ],
  expandtabs: [
    "tabsize?",
    (self, size) =>
      Text.join(
        self.split_lines(true).map((line) => {
          const [width, done] = [as_int(size, 8), [] as Text[]];
          for (const [i, part] of line.split(text("\t")).entries()) {
            const column = done.reduce((sum, { size }) => sum + size, 0);
            if (i > 0 && width > 0) done.push(text(" ").repeat(width - (column % width)));
            done.push(part);
          }
          return Text.join(done);
        }),
      ),
  ],
  find: ["sub start? end?", (self, ...args) => BigInt(find(self, args, false))],
  index: ["sub start? end?", (self, ...args) => index(self, args, false)],
  isalnum: ["", (self) => every(self, /^[\p{L}\p{N}]+$/u)],
  isalpha: ["", (self) => every(self, /^\p{L}+$/u)],
  isascii: ["", (self) => !/[^\0-\x7f]/.test(self.value)],
  isdecimal: ["", (self) => every(self, /^\p{Nd}+$/u)],
  isdigit: ["", (self) => every(self, /^[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨]+$/u)],
  isidentifier: ["", (self) => every(self, /^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*$/u)],
  islower: ["", (self) => cased.test(self.value) && !/[\p{Lu}\p{Lt}]/u.test(self.value)],
  isnumeric: ["", (self) => every(self, /^\p{N}+$/u)],
  isprintable: ["", (self) => !/[\p{C}\p{Z}]/u.test(self.value.replaceAll(" ", ""))],
  isspace: ["", (self) => self.value !== "" && self.strip(null, 1).value === ""],
  istitle: ["", (self) => cased.test(self.value) && title(self.value) === self.value],
  isupper: ["", (self) => cased.test(self.value) && !/[\p{Ll}\p{Lt}]/u.test(self.value)],
  join: [
    "iterable",
    (self, list) =>
      Text.join(
        iterate(list!).map((item, i) => as_text(item, `sequence item ${i}`)),
        self,
      ),
  ],
  ljust: ["width fillchar?", (self, width, fill) => justify(self, width, fill, () => 0)],
  lower: ["", (self) => self.map((value) => value.toLowerCase())],
  lstrip: ["chars?", (self, set) => self.strip(chars(set), 1)],
  partition: ["sep", (self, sep) => partition(self, sep, false)],
  removeprefix: [
    "prefix",
    (self, prefix) =>
      self.value.startsWith(as_text(prefix, "prefix").value) ? self.cut((prefix as Text).value.length) : self,
  ],
  removesuffix: [
    "suffix",
    (self, suffix) => {
      const { value } = as_text(suffix, "suffix");
      return value !== "" && self.value.endsWith(value) ? self.cut(0, self.value.length - value.length) : self;
    },
  ],
  replace: [
    "old new count?",
    (self, old, by, count) =>
      self.replace(as_text(old, "replace() argument 1"), as_text(by, "replace() argument 2"), as_int(count, -1)),
  ],
  rfind: ["sub start? end?", (self, ...args) => BigInt(find(self, args, true))],
  rindex: ["sub start? end?", (self, ...args) => index(self, args, true)],
  rjust: ["width fillchar?", (self, width, fill) => justify(self, width, fill, (missing) => missing)],
  rpartition: ["sep", (self, sep) => partition(self, sep, true)],
  rsplit: ["sep? maxsplit?", (self, sep, limit) => new List(self.split(separator(sep), as_int(limit, -1), true))],
  rstrip: ["chars?", (self, set) => self.strip(chars(set), 2)],
  split: ["sep? maxsplit?", (self, sep, limit) => new List(self.split(separator(sep), as_int(limit, -1)))],
  splitlines: [
    "keepends?",
    (self, keep) => new List(self.split_lines(keep === true || (typeof keep === "bigint" && keep !== 0n))),
  ],
  startswith: [
    "prefix start? end?",
    (self, prefix, start, end) => {
      const [part, all] = affixes(self, prefix, start, end);
      return all.some((one) => part.startsWith(one));
    },
  ],
  strip: ["chars?", (self, set) => self.strip(chars(set), 3)],
  swapcase: [
    "",
    (self) =>
      self.map((value) => value.replace(/\p{L}/gu, (c) => (c === c.toUpperCase() ? c.toLowerCase() : c.toUpperCase()))),
  ],
  title: ["", (self) => self.map(title)],
  upper: ["", (self) => self.map((value) => value.toUpperCase())],
  zfill: [
    "width",
    (self, width) => {
      const sign = /^[+-]/.test(self.value) ? 1 : 0;
      const zeros = text("0").repeat(as_int(width, 0) - self.size);
      return Text.join([self.cut(0, sign), zeros, self.cut(sign)]);
    },
  ],
};

const list_methods: Record<string, Method<List>> = {
  count: ["value", ({ items }, value) => BigInt(items.filter((item) => equal(item, value!)).length)],
  index: [
    "value start? end?",
    ({ items }, value, start, end) => {
      const at = items.findIndex(
        (item, i) => i >= as_int(start, 0) && i < as_int(end, items.length) && equal(item, value!),
      );
      return at < 0 ? error("the value is not in the list") : BigInt(at);
    },
  ],
};

const dict_methods: Record<string, Method<Dict>> = {
  get: ["key default?", (self, key, otherwise = null) => or_else(self.get(key!), () => otherwise)],
  items: [
    "",
    (self) =>
      new List(
        self.entries().map(([key, value]) => tuple(key, value)),
        "dict_items",
      ),
  ],
  keys: [
    "",
    (self) =>
      new List(
        self.entries().map(([key]) => key),
        "dict_keys",
      ),
  ],
  values: [
    "",
    (self) =>
      new List(
        self.entries().map(([, value]) => value),
        "dict_values",
      ),
  ],
  copy: ["", (self) => new Dict(self.entries())],
};

const float_methods: Record<string, Method<number>> = {
  is_integer: ["", (self) => Number.isInteger(self)],
};

function bound<Self>(self: Self, methods: Record<string, Method<Self>>, name: string): Callable | undefined {
  if (!Object.hasOwn(methods, name)) return undefined;
  const [signature, call] = methods[name]!;
  return new Callable(name, (args) => call(self, ...take(name, args, signature)));
}

/** The method of that name, bound to its object. */
export function method_of(object: Value, name: string): Callable | undefined {
  charge(STEP);
  if (object instanceof Text) {
    if (!/^(l|r|)strip$|with$|fix$|^format$/.test(name)) charge(object.value.length);
    return bound(object, text_methods, name);
  }
  if (object instanceof List) {
    if (name === "copy" && object.kind === "list") return new Callable(name, () => object);
    return object.kind.startsWith("dict_") ? undefined : bound(object, list_methods, name);
  }
  if (object instanceof Dict) return bound(object, dict_methods, name);
  return typeof object === "number" ? bound(object, float_methods, name) : undefined;
}
