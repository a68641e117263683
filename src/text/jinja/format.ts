/** Python's `%` formatting, `str.format` and rounding. */
import { charge, STEP } from "./budget.js";
import { float_text, repr, str, text } from "./print.js";
import { Text } from "./text.js";
import { type Args, Dict, error, is_number, List, plain, type_name, Undefined, type Value } from "./values.js";

/** The exact decimal digits of a number, rounded half to even after `digits` places (negative ones too). */
function rounded_digits(value: number, digits: number): string {
  // toFixed is exact, and a number that is half-way between has few digits; so 60 more than asked are enough to see that.
  const exact =
    Math.abs(value) < 1e21
      ? Math.abs(value).toFixed(Math.min(100, Math.max(digits, 0) + 60))
      : `${BigInt(Math.abs(value))}.0`;
  const [whole = "0", fraction = ""] = exact.split(".");
  const keep = whole.length + digits;
  const all = whole + fraction;
  if (keep < 0) return "0";
  const [kept, rest] = [all.slice(0, keep), all.slice(keep)];
  let number = BigInt(kept || "0");
  if (/^5/.test(rest) ? (/^50*$/.test(rest) ? number % 2n === 1n : true) : /^[6-9]/.test(rest)) number++;
  const padded = String(number).padStart(Math.max(digits, 0) + 1, "0");
  if (digits <= 0) return padded + "0".repeat(-digits);
  return `${padded.slice(0, -digits)}.${padded.slice(-digits)}`;
}

/** `round(value, digits)` of Python: half to even. An int stays one. */
export function round(value: Value, digits: number): bigint | number {
  if (!is_number(value)) return error(`type ${type_name(value)} doesn't define __round__ method`);
  const number = plain(value);
  charge(Math.abs(digits));
  if (typeof number === "bigint") {
    if (digits >= 0) return number;
    if (-digits > 6000) return 0n;
    const unit = 10n ** BigInt(-digits);
    const remainder = ((number % unit) + unit) % unit;
    const down = number - remainder;
    return remainder * 2n > unit || (remainder * 2n === unit && (down / unit) % 2n !== 0n) ? down + unit : down;
  }
  if (!Number.isFinite(number) || digits > 300) return number;
  const result = Number(rounded_digits(number, digits));
  return number < 0 || Object.is(number, -0) ? -result : result;
}

interface Spec {
  fill: string;
  align: string;
  sign: string;
  alternate: boolean;
  width: number;
  group: string;
  precision: number | null;
  type: string;
}

function pad(body: Text, { fill, align, width }: Spec, otherwise: string): Text {
  const missing = width - body.size;
  if (missing <= 0) return body;
  const where = align || otherwise;
  const left = where === "<" ? 0 : where === "^" ? Math.floor(missing / 2) : missing;
  return Text.join([text(fill).repeat(left), body, text(fill).repeat(missing - left)]);
}

/** A number's digits without its sign. */
function digits_of(value: bigint | number, spec: Spec): string {
  const { precision, alternate } = spec;
  const type = spec.type || (typeof value === "bigint" ? "d" : precision === null ? "repr" : "g");
  if ("bcdoxX".includes(type) && type !== "c") {
    if (typeof value !== "bigint") error(`Unknown format code '${type}' for object of type 'float'`);
    const radix = type === "b" ? 2 : type === "o" ? 8 : type === "d" ? 10 : 16;
    const magnitude = value < 0n ? -value : value;
    const plain_digits = magnitude.toString(radix);
    const prefix = alternate && radix !== 10 ? `0${type}` : "";
    const grouped = spec.group
      ? plain_digits.replace(radix === 10 ? /\B(?=(\d{3})+$)/g : /\B(?=(\w{4})+$)/g, spec.group)
      : plain_digits;
    return prefix + (type === "X" ? grouped.toUpperCase() : grouped);
  }
  const number = Math.abs(Number(value));
  if (precision !== null && precision > 100) error("a precision above 100 is not supported");
  if (!Number.isFinite(number)) return /[A-Z]/.test(type) ? float_text(number).toUpperCase() : float_text(number);
  let shown: string;
  if (type === "repr") shown = float_text(number);
  else if (type === "%") shown = `${rounded_digits(number * 100, precision ?? 6)}%`;
  else if (/f/i.test(type)) shown = rounded_digits(number, precision ?? 6);
  else if (/e/i.test(type)) shown = exponential(number, precision ?? 6);
  else if (/[gn]/i.test(type)) shown = general(number, precision ?? 6, alternate);
  else shown = error(`Unknown format code '${type}'`);
  if (spec.group) shown = shown.replace(/^\d+/, (whole) => whole.replace(/\B(?=(\d{3})+$)/g, spec.group));
  return /[EFG]/.test(type) ? shown.toUpperCase() : shown;
}

const exponential = (number: number, precision: number) =>
  number.toExponential(Math.min(precision, 100)).replace(/e([+-])(\d)$/, "e$10$2");

function general(number: number, precision: number, alternate: boolean): string {
  const significant = Math.max(1, precision);
  const power = number === 0 ? 0 : Number(number.toExponential(Math.min(significant - 1, 100)).split("e")[1]);
  const shown =
    power < -4 || power >= significant
      ? exponential(number, significant - 1)
      : rounded_digits(number, Math.max(0, significant - 1 - power));
  return alternate || !shown.includes(".") ? shown : shown.replace(/\.?0+(?=e|$)/, "");
}

function format_number(value: bigint | number, spec: Spec): Text {
  charge((spec.precision ?? 0) + spec.width + 16 * STEP);
  const negative = value < 0 || Object.is(value, -0);
  const sign = negative ? "-" : spec.sign === "+" || spec.sign === " " ? spec.sign : "";
  const body = digits_of(value, spec);
  if (spec.align === "=") return text(sign + body.padStart(spec.width - sign.length, spec.fill));
  return pad(text(sign + body), spec, ">");
}

const conversion = /%(?:\(([^()]*)\))?([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+)?)?[hlL]?(.)/gs;

/** `left % right` */
export function percent_format(left: Text, right: Value): Text {
  const is_tuple = right instanceof List && right.kind === "tuple";
  const values = is_tuple ? [...right.items] : [right];
  let used = 0;
  const next = (): Value => (used < values.length ? values[used++]! : error("not enough arguments for format string"));
  const star = (value: string | undefined): number =>
    value === "*" ? Number(plain(next() as bigint)) : value === undefined ? 0 : Number(value);
  const parts: Text[] = [];
  let at = 0;
  charge(left.value.length);
  for (const match of left.value.matchAll(conversion)) {
    const [all, key, flags = "", width, precision, type = ""] = match;
    parts.push(left.cut(at, match.index));
    at = match.index + all.length;
    if (type === "%") {
      parts.push(text("%"));
      continue;
    }
    const wide = star(width);
    const has_precision = /\./.test(all.slice(0, -1).replace(/\([^)]*\)/, ""));
    const exact = has_precision ? star(precision) : null;
    let value: Value;
    if (key !== undefined) {
      if (!(right instanceof Dict)) return error("format requires a mapping");
      value = right.get(text(key)) ?? error(`KeyError: '${key}'`);
      used = values.length;
    } else value = next();
    const align = flags.includes("-") ? "<" : flags.includes("0") && !"sra".includes(type) ? "=" : ">";
    const sign = flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
    const spec: Spec = {
      fill: align === "=" ? "0" : " ", align, sign, alternate: flags.includes("#"), width: wide, group: "", precision: exact, type,
    }; // biome-ignore format: one line
    parts.push(percent_one(value, spec));
  }
  if (left.value.indexOf("%", at) >= 0) error("incomplete format");
  if (
    used < values.length &&
    (is_tuple || !(right instanceof Dict || right instanceof List || right instanceof Undefined))
  )
    error("not all arguments converted during string formatting");
  return Text.join([...parts, left.cut(at)]);
}

function percent_one(value: Value, spec: Spec): Text {
  const { type, precision } = spec;
  if (type === "s" || type === "r" || type === "a") {
    const shown = type === "s" ? str(value) : repr(value);
    return pad(precision === null ? shown : shown.cut(0, shown.offset(precision)), spec, ">");
  }
  if (type === "c") {
    if (value instanceof Text && value.size === 1) return pad(value, spec, ">");
    if (typeof value !== "bigint" || value < 0n || value > 0x10ffffn) return error("%c requires int or char");
    return pad(text(String.fromCodePoint(Number(value))), spec, ">");
  }
  if (!"diouxXeEfFgG".includes(type)) return error(`unsupported format character '${type}'`);
  if (!is_number(value)) return error(`%${type} format: a real number is required, not ${type_name(value)}`);
  const number = plain(value);
  if ("diu".includes(type)) {
    const whole = typeof number === "bigint" ? number : BigInt(Math.trunc(number));
    const body = String(whole < 0n ? -whole : whole).padStart(precision ?? 0, "0");
    const sign = whole < 0n ? "-" : spec.sign;
    charge(spec.width);
    return spec.align === "="
      ? text(sign + body.padStart(spec.width - sign.length, "0"))
      : pad(text(sign + body), spec, ">");
  }
  if ("oxX".includes(type) && typeof number === "number")
    return error(`%${type} format: an integer is required, not float`);
  return format_number("eEfFgG".includes(type) ? Number(number) : number, spec);
}

const spec_form = /^(?:(.)?([<>=^]))?([-+ ]?)(#?)(0?)(\d*)([,_]?)(?:\.(\d+))?([bcdeEfFgGnosxX%]?)$/su;

/** `format(value, spec)` */
function format_value(value: Value, form: string): Text {
  const match = spec_form.exec(form) ?? error(`Invalid format specifier '${form}'`);
  const [, fill, align = "", sign = "", alternate, zero, width, group = "", precision, type = ""] = match;
  const spec: Spec = {
    fill: fill ?? (zero ? "0" : " "), align: align || (zero && is_number(value) ? "=" : ""), sign, alternate: alternate !== "", width: Number(width),
    group, precision: precision === undefined ? null : Number(precision), type,
  }; // biome-ignore format: two lines
  if (is_number(value) && !(typeof value === "boolean" && form === "")) {
    const number = plain(value);
    return format_number(typeof number === "bigint" && /[eEfFgG%]/.test(type) ? Number(number) : number, spec);
  }
  if (form !== "" && !(value instanceof Text) && typeof value !== "boolean")
    return error(`unsupported format string passed to ${type_name(value)}.__format__`);
  if (type !== "" && type !== "s")
    return error(`Unknown format code '${type}' for object of type '${type_name(value)}'`);
  if (sign !== "" || spec.alternate || group !== "" || spec.align === "=")
    return error(`'${form}' is not a format of a text`);
  const shown = str(value);
  return pad(spec.precision === null ? shown : shown.cut(0, shown.offset(spec.precision)), spec, "<");
}

const field = /\{\{|\}\}|\{([^{}!:]*)(?:!([rsa]))?(?::((?:[^{}]|\{[^{}]*\})*))?\}|[{}]/g;

/** How `{0.name[key]}` finds its value. */
export interface Lookup {
  attribute: (object: Value, name: string) => Value;
  item: (object: Value, key: Value) => Value;
}

/** `pattern.format(...)` */
export function brace_format(pattern: Text, args: Args, { attribute, item }: Lookup): Text {
  let automatic = 0;
  const look_up = (name: string): Value => {
    const [, first = "", rest = ""] = /^([^.[]*)(.*)$/s.exec(name)!;
    const position = first === "" ? automatic++ : /^\d+$/.test(first) ? Number(first) : null;
    let value = position === null ? args.named.get(first) : args.positional[position];
    if (value === undefined)
      return error(
        position === null ? `KeyError: '${first}'` : "Replacement index out of range for positional args tuple",
      );
    for (const [, name, key] of rest.matchAll(/\.([^.[]+)|\[([^\]]+)\]/g))
      value = name !== undefined ? attribute(value, name) : item(value, /^\d+$/.test(key!) ? BigInt(key!) : text(key!));
    return value;
  };
  const parts: Text[] = [];
  let at = 0;
  charge(pattern.value.length);
  for (const match of pattern.value.matchAll(field)) {
    const [all, name = "", convert, form = ""] = match;
    parts.push(pattern.cut(at, match.index));
    at = match.index + all.length;
    if (all === "{{" || all === "}}") parts.push(text(all[0]!));
    else if (all.length === 1) error(`Single '${all}' encountered in format string`);
    else {
      const value = look_up(name);
      const spec = form.replace(/\{([^{}]*)\}/g, (_, inner: string) => str(look_up(inner)).value);
      if (value instanceof Undefined && convert === undefined && spec === "") continue;
      parts.push(format_value(convert === undefined ? value : convert === "s" ? str(value) : repr(value), spec));
    }
  }
  return Text.join([...parts, pattern.cut(at)]);
}
