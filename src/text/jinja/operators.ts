/** Python's arithmetic, indexing and attributes. */
import { charge } from "./budget.js";
import { brace_format, percent_format } from "./format.js";
import { method_of } from "./methods.js";
import type { Binary } from "./nodes.js";
import { text } from "./print.js";
import { Text } from "./text.js";
import {
  Callable,
  Dict,
  error,
  INT_BITS,
  Instance,
  is_number,
  List,
  or_else,
  plain,
  type_name,
  Undefined,
  type Value,
} from "./values.js";

const bits = (value: bigint | number) =>
  typeof value === "bigint" ? (value > -(2n ** 53n) && value < 2n ** 53n ? 53 : value.toString(16).length * 4) : 53;

export function arithmetic(operator: Binary, left: Value, right: Value): Value {
  for (const value of [left, right])
    if (value instanceof Undefined && !(operator === "%" && left instanceof Text)) error(value.problem);
  if (is_number(left) && is_number(right)) return numeric(operator, plain(left), plain(right));
  if (operator === "+") {
    if (left instanceof Text && right instanceof Text) return Text.join([left, right]);
    if (left instanceof List && right instanceof List && left.kind === right.kind && /list|tuple/.test(left.kind)) {
      charge(left.items.length + right.items.length);
      return new List([...left.items, ...right.items], left.kind);
    }
    if (left instanceof Text) return error(`can only concatenate str (not "${type_name(right)}") to str`);
  }
  if (operator === "%" && left instanceof Text) return percent_format(left, right);
  if (operator === "*") {
    const [many, count] = is_number(left) ? [right, left] : [left, right];
    if (typeof count === "bigint" || typeof count === "boolean") {
      const times = Math.max(0, Number(count));
      if (many instanceof Text) return many.repeat(times);
      if (many instanceof List && /list|tuple/.test(many.kind)) {
        charge(many.items.length * times);
        return new List(Array.from({ length: times }, () => many.items).flat(), many.kind);
      }
    }
  }
  return error(`unsupported operand type(s) for ${operator}: '${type_name(left)}' and '${type_name(right)}'`);
}

function numeric(operator: Binary, a: bigint | number, b: bigint | number): Value {
  if (typeof a === "bigint" && typeof b === "bigint") {
    const size = operator === "**" ? bits(a) * Math.max(1, Number(b)) : bits(a) + bits(b);
    if (!(size <= INT_BITS) && (operator === "*" || operator === "**") && a !== 0n && a !== 1n && a !== -1n)
      error(`makes an int of more than ${INT_BITS} bits`);
    charge(Math.min(size, INT_BITS));
    if (operator === "+") return a + b;
    if (operator === "-") return a - b;
    if (operator === "*") return a * b;
    if (operator === "**" && b >= 0n) return a ** b;
    if (operator !== "**" && b === 0n)
      return error(operator === "/" ? "division by zero" : "integer division or modulo by zero");
    if (operator === "//" || operator === "%") {
      const remainder = a % b;
      const borrowed = remainder !== 0n && remainder < 0n !== b < 0n;
      if (operator === "%") return borrowed ? remainder + b : remainder;
      return a / b - (borrowed ? 1n : 0n);
    }
  }
  const [x, y] = [Number(a), Number(b)];
  if (operator === "+") return x + y;
  if (operator === "-") return x - y;
  if (operator === "*") return x * y;
  if (operator === "**") {
    if (x === 0 && y < 0) return error("0.0 cannot be raised to a negative power");
    return x ** y;
  }
  if (y === 0) return error(operator === "/" ? "float division by zero" : "float modulo");
  if (operator === "/") return x / y;
  const remainder = x % y;
  const modulo = remainder !== 0 && remainder < 0 !== y < 0 ? remainder + y : remainder;
  return operator === "%" ? modulo : Math.floor((x - modulo) / y + 0.5);
}

/** Methods that change a list or a dict: the sandbox of transformers forbids them. */
const forbidden = new Set(
  "append clear pop reverse insert sort extend remove popitem setdefault update add discard format_map".split(" "),
);

/** `object.name` in Python: a method or an attribute, never an item. */
export function python_attribute(object: Value, name: string): Value | undefined {
  if (object instanceof Undefined) return error(object.problem);
  if (name.startsWith("_")) return name === "__repr__" ? undefined : unsafe(object, name);
  if (object instanceof Instance || object instanceof Callable) return object.attributes(name);
  if (object instanceof Text && name === "format")
    return new Callable(name, (args) => brace_format(object, args, { attribute: get_attribute, item: get_item }));
  const method = method_of(object, name);
  if (method) return method;
  return (object instanceof List || object instanceof Dict) && forbidden.has(name) ? unsafe(object, name) : undefined;
}

const unsafe = (object: Value, name: string) =>
  new Undefined(`access to attribute '${name}' of '${type_name(object)}' object is unsafe`);

const missing = (object: Value, name: string) =>
  new Undefined(`'${object === null ? "None" : `${type_name(object)} object`}' has no attribute '${name}'`);

/** `object.name` in a template: an attribute, else an item. */
export function get_attribute(object: Value, name: string): Value {
  const item = object instanceof Dict ? object.get(text(name)) : undefined;
  const attribute = item !== undefined && name.startsWith("_") ? undefined : python_attribute(object, name);
  return or_else(
    or_else(attribute, () => item!),
    () => missing(object, name),
  );
}

/** `object[key]` in a template: an item, else an attribute. */
export function get_item(object: Value, key: Value): Value {
  if (object instanceof Undefined) return error(object.problem);
  const index = typeof key === "boolean" ? Number(key) : typeof key === "bigint" ? Number(key) : null;
  let found: Value | undefined;
  if (object instanceof Dict) {
    const hashable = !(key instanceof List && key.kind !== "tuple") && !(key instanceof Dict);
    found = hashable ? object.get(key) : undefined;
  } else if (index !== null && object instanceof List && !object.kind.startsWith("dict_"))
    found = object.items.at(index);
  else if (index !== null && object instanceof Text) {
    const at = index < 0 ? index + object.size : index;
    if (at >= 0 && at < object.size) return object.cut(object.offset(at), object.offset(at + 1));
  }
  if (found !== undefined) return found;
  if (key instanceof Text) return or_else(python_attribute(object, key.value), () => missing(object, key.value));
  return new Undefined(`${type_name(object)} object has no element ${key === null ? "None" : String(index)}`);
}

/** `object[start:stop:step]` */
export function get_slice(object: Value, start: Value, stop: Value, step: Value): Value {
  const whole = (value: Value, otherwise: number): number => {
    if (value === null) return otherwise;
    if (typeof value === "bigint" || typeof value === "boolean") return Number(value);
    return error("slice indices must be integers or None");
  };
  if (object instanceof Undefined) return error(object.problem);
  if (!(object instanceof Text) && !(object instanceof List && !object.kind.startsWith("dict_")))
    return error(`'${type_name(object)}' object is not subscriptable`);
  const by = whole(step, 1);
  if (by === 0) return error("slice step cannot be zero");
  const length = object instanceof Text ? object.size : object.items.length;
  const [low, high] = by > 0 ? [0, length] : [-1, length - 1];
  const within = (value: Value, otherwise: number) => {
    const given = whole(value, otherwise);
    return value === null ? otherwise : Math.min(high, Math.max(low, given < 0 ? given + length : given));
  };
  const [from, to] = [within(start, by > 0 ? low : high), within(stop, by > 0 ? high : low)];
  if (object instanceof Text && by === 1)
    return from < to ? object.cut(object.offset(from), object.offset(to)) : text("");
  const items: readonly Value[] = object instanceof Text ? object.characters() : object.items;
  charge(length);
  const chosen: Value[] = [];
  for (let at = from; by > 0 ? at < to : at > to; at += by) chosen.push(items[at]!);
  return object instanceof Text ? Text.join(chosen as Text[]) : new List(chosen, object.kind);
}
