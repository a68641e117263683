/** Values as text: Python's `str`, `repr` and `json.dumps`. */
import { charge, STEP } from "./budget.js";
import { Text } from "./text.js";
import { Callable, Dict, error, Generator, List, type_name, Undefined, type Value } from "./values.js";

export const text = (value: string) => new Text(value);

/** Shortest digits that read back as the same number, in Python's form. */
export function float_text(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value < 0 ? "-inf" : "inf";
  const [, sign, digits, power] = /^(-?)([\d.]+)e([+-]\d+)$/.exec(value.toExponential())!;
  const exponent = Number(power);
  const minus = Object.is(value, -0) ? "-" : sign!;
  if (exponent < -4 || exponent >= 16)
    return `${minus}${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  const all = digits!.replace(".", "");
  if (exponent < 0) return `${minus}0.${"0".repeat(-exponent - 1)}${all}`;
  const whole = all.padEnd(exponent + 1, "0");
  return `${minus}${whole.slice(0, exponent + 1)}.${whole.slice(exponent + 1) || "0"}`;
}

/** `str(value)` */
export function str(value: Value): Text {
  if (value instanceof Text) return value;
  if (value instanceof Undefined) return text("");
  return repr(value);
}

const not_printable = /[\p{C}\p{Z}]/u;

function repr_text(value: Text): Text {
  const quote = value.value.includes("'") && !value.value.includes('"') ? '"' : "'";
  const escaped = value.map((part) =>
    part.replace(/[\\'"]|[^ -~]/gu, (character) => {
      charge(STEP);
      if (character === quote || character === "\\") return `\\${character}`;
      if (!not_printable.test(character)) return character;
      if (character === "\n") return "\\n";
      if (character === "\r") return "\\r";
      if (character === "\t") return "\\t";
      const hex = character.codePointAt(0)!.toString(16);
      return hex.length <= 2
        ? `\\x${hex.padStart(2, "0")}`
        : hex.length <= 4
          ? `\\u${hex.padStart(4, "0")}`
          : `\\U${hex.padStart(8, "0")}`;
    }),
  );
  return Text.join([text(quote), escaped, text(quote)]);
}

const listed = (open: string, parts: readonly Text[], close: string, between = ", "): Text =>
  Text.join([text(open), Text.join(parts, text(between)), text(close)]);

/** `repr(value)` */
export function repr(value: Value): Text {
  charge(STEP);
  if (value === null) return text("None");
  if (typeof value === "boolean") return text(value ? "True" : "False");
  if (typeof value === "bigint") return text(int_text(value));
  if (typeof value === "number") return text(float_text(value));
  if (value instanceof Text) return repr_text(value);
  if (value instanceof Undefined) return text("Undefined");
  if (value instanceof Dict)
    return listed(
      "{",
      value.entries().map(([key, item]) => Text.join([repr(key), text(": "), repr(item)])),
      "}",
    );
  if (value instanceof List) return repr_list(value);
  if (value instanceof Generator) return text("<generator object>");
  if (value instanceof Callable) return text(`<function ${value.name}>`);
  const shown = value.attributes("__repr__");
  return shown instanceof Text ? shown : text(`<${value.type} object>`);
}

/** Python's own limit. */
const LARGEST_PRINTED = 10n ** 4300n;

function int_text(value: bigint): string {
  if (value >= LARGEST_PRINTED || value <= -LARGEST_PRINTED)
    error("Exceeds the limit (4300 digits) for integer string conversion");
  return String(value);
}

function repr_list({ items, kind }: List): Text {
  if (kind === "range") {
    const [first = 0n, second] = items as bigint[];
    const step = second === undefined ? 1n : second - first;
    const stop = items.length === 0 ? first : (items.at(-1) as bigint) + step;
    return text(`range(${first}, ${stop}${step === 1n ? "" : `, ${step}`})`);
  }
  const parts = items.map(repr);
  if (kind === "list") return listed("[", parts, "]");
  if (kind === "tuple") return listed("(", parts, parts.length === 1 ? ",)" : ")");
  return listed(`${kind}([`, parts, "])");
}

export interface DumpOptions {
  ensure_ascii: boolean;
  indent: Text | null;
  /** Between items, and between a key and its value. */
  separators: readonly [Text, Text];
  sort_keys: boolean;
}

const short: Record<string, string> = {
  '"': '\\"',
  "\\": "\\\\",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
  "\b": "\\b",
  "\f": "\\f",
};

function dump_text(value: Text, ascii: boolean): Text {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what JSON escapes
  const pattern = ascii ? /["\\\u0000-\u001f]|[^ -~]/g : /["\\\u0000-\u001f]/g;
  const escaped = (unit: string) => {
    charge(STEP);
    return short[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  };
  return Text.join([text('"'), value.map((part) => part.replace(pattern, escaped)), text('"')]);
}

function dump_key(key: Value): Text {
  if (key instanceof Text) return key;
  if (key === null || typeof key !== "object") return dump(key, dump_defaults);
  return error(`keys must be str, int, float, bool or None, not ${type_name(key)}`);
}

export const dump_defaults: DumpOptions = {
  ensure_ascii: false,
  indent: null,
  separators: [text(", "), text(": ")],
  sort_keys: false,
};

/** `json.dumps(value)` */
export function dump(value: Value, options: DumpOptions, depth = 0): Text {
  charge(STEP);
  if (value === null) return text("null");
  if (typeof value === "boolean") return text(String(value));
  if (typeof value === "number")
    return text(
      Number.isNaN(value) ? "NaN" : Number.isFinite(value) ? float_text(value) : value < 0 ? "-Infinity" : "Infinity",
    );
  if (typeof value === "bigint") return text(int_text(value));
  if (value instanceof Text) return dump_text(value, options.ensure_ascii);
  const around = (open: string, parts: Text[], close: string): Text => {
    if (parts.length === 0) return text(open + close);
    const { indent, separators } = options;
    if (indent === null) return Text.join([text(open), Text.join(parts, separators[0]), text(close)]);
    const line = (levels: number) => Text.join([text("\n"), indent.repeat(levels)]);
    const between = Text.join([separators[0], line(depth + 1)]);
    return Text.join([text(open), line(depth + 1), Text.join(parts, between), line(depth), text(close)]);
  };
  if (value instanceof List && (value.kind === "list" || value.kind === "tuple"))
    return around(
      "[",
      value.items.map((item) => dump(item, options, depth + 1)),
      "]",
    );
  if (value instanceof Dict) {
    const entries = [...value.entries()];
    if (options.sort_keys) {
      if (entries.some(([key]) => !(key instanceof Text))) error("sort_keys is supported for keys of type str");
      entries.sort(([a], [b]) => ((a as Text).value < (b as Text).value ? -1 : 1));
    }
    const parts = entries.map(([key, item]) =>
      Text.join([
        dump_text(dump_key(key), options.ensure_ascii),
        options.separators[1],
        dump(item, options, depth + 1),
      ]),
    );
    return around("{", parts, "}");
  }
  return error(`Object of type ${type_name(value)} is not JSON serializable`);
}
