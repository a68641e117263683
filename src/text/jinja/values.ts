/** Python's values, as far as templates meet them. An int is a bigint and a float a number. */
import { charge, credit, STEP, TemplateError } from "./budget.js";
import { Text } from "./text.js";

export type Value = null | boolean | bigint | number | Text | List | Dict | Generator | Undefined | Callable | Instance;

/** Lists and what else has a length and an order. */
export class List {
  constructor(
    readonly items: readonly Value[],
    readonly kind: "list" | "tuple" | "range" | "dict_keys" | "dict_values" | "dict_items" = "list",
  ) {
    charge(items.length * 8 + STEP);
  }
}

export class Dict {
  private readonly entries_by_key = new Map<string, readonly [Value, Value]>();

  constructor(entries: Iterable<readonly [Value, Value]> = []) {
    for (const [key, value] of entries) this.set(key, value);
  }

  /** Only while it is being made: templates cannot change one. The first spelling of a key stays. */
  set(key: Value, value: Value): this {
    charge(8 * STEP);
    const hash = hash_of(key);
    this.entries_by_key.set(hash, [this.entries_by_key.get(hash)?.[0] ?? key, value]);
    return this;
  }

  get(key: Value): Value | undefined {
    return this.entries_by_key.get(hash_of(key))?.[1];
  }

  get size(): number {
    return this.entries_by_key.size;
  }

  entries(): (readonly [Value, Value])[] {
    charge(this.size * STEP);
    return [...this.entries_by_key.values()];
  }
}

/** What filters return: it can be gone through once, and is always true. */
export class Generator {
  private at = 0;

  constructor(private readonly items: readonly Value[]) {
    charge(items.length * 8 + STEP);
  }

  next(): Value | undefined {
    return this.items[this.at++];
  }

  rest(): readonly Value[] {
    const rest = this.items.slice(this.at);
    this.at = this.items.length;
    return rest;
  }
}

/** A name or attribute that is not there: printed as nothing, false, empty, and an error in all else. */
export class Undefined {
  constructor(readonly problem: string) {}
}

export interface Args {
  positional: readonly Value[];
  named: ReadonlyMap<string, Value>;
}

export class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: Args) => Value,
    readonly attributes: (name: string) => Value | undefined = () => undefined,
  ) {}
}

/** An object with attributes: `loop`, a namespace, a cycler. `assign` only where a template may set them. */
export class Instance {
  constructor(
    readonly type: string,
    readonly attributes: (name: string) => Value | undefined,
    readonly assign?: (name: string, value: Value) => void,
  ) {}
}

/** Bits of the largest int: each operation on one costs about that many units. */
export const INT_BITS = 20_000;

export const error = (message: string): never => {
  throw new TemplateError(message);
};

/** Python's None is a value like others, so `??` will not do. */
export const or_else = <T>(value: T | undefined, otherwise: () => T): T => (value === undefined ? otherwise() : value);

/** The value of what JSON can hold. Strings are marked with `source`, or left unmarked when it is null; `undefined` is left out. */
export function to_value(data: unknown, source: number | null): Value {
  charge(STEP);
  if (data === null || data === undefined) return null;
  if (typeof data === "string") credit(data.length);
  if (typeof data === "string") return source === null ? new Text(data) : Text.from(data, source);
  if (typeof data === "boolean" || typeof data === "bigint") return data;
  if (typeof data === "number") return Number.isSafeInteger(data) && !Object.is(data, -0) ? BigInt(data) : data;
  if (Array.isArray(data)) return new List(data.map((item) => to_value(item, source)));
  if (typeof data === "object") {
    const entries = Object.entries(data).filter(([, value]) => value !== undefined);
    return new Dict(entries.map(([key, value]) => [to_value(key, source), to_value(value, source)]));
  }
  return error(`is given a ${typeof data}`);
}

function hash_of(key: Value): string {
  if (key instanceof Text) {
    charge(key.value.length);
    return `s${key.value}`;
  }
  if (typeof key === "boolean") return `n${Number(key)}`;
  if (typeof key === "number") return `n${Number.isInteger(key) ? BigInt(key) : key}`;
  if (typeof key === "bigint") {
    if (BigInt.asIntN(64, key) !== key) charge(INT_BITS);
    return `n${key}`;
  }
  if (key === null) return "none";
  if (key instanceof Undefined) return "undefined";
  if (key instanceof List && key.kind === "tuple")
    return key.items.map(hash_of).reduce((all, hash) => {
      charge(4 * (all.length + hash.length));
      return `${all}${hash.length}:${hash}`;
    }, "t");
  return error(`unhashable type: '${type_name(key)}'`);
}

export function type_name(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "bigint") return "int";
  if (typeof value === "number") return "float";
  if (value instanceof Text) return "str";
  if (value instanceof List) return value.kind;
  if (value instanceof Dict) return "dict";
  if (value instanceof Generator) return "generator";
  if (value instanceof Undefined) return "Undefined";
  return value instanceof Instance ? value.type : "function";
}

export function truth(value: Value): boolean {
  if (value === null || value === false || value instanceof Undefined) return false;
  if (value instanceof Text) return value.value !== "";
  if (value instanceof List) return value.items.length > 0;
  if (value instanceof Dict) return value.size > 0;
  return typeof value === "bigint" ? value !== 0n : typeof value === "number" ? value !== 0 : true;
}

/** Everything a value gives when it is gone through. */
export function iterate(value: Value): readonly Value[] {
  if (value instanceof List) return value.items;
  if (value instanceof Text) return value.characters();
  if (value instanceof Dict) return value.entries().map(([key]) => key);
  if (value instanceof Undefined) return [];
  if (value instanceof Generator) return value.rest();
  return error(`'${type_name(value)}' object is not iterable`);
}

export function length_of(value: Value): number {
  if (value instanceof Text || value instanceof Dict) return value.size;
  if (value instanceof List) return value.items.length;
  if (value instanceof Undefined) return 0;
  return error(`object of type '${type_name(value)}' has no len()`);
}

export const is_number = (value: Value): value is bigint | number | boolean =>
  typeof value === "bigint" || typeof value === "number" || typeof value === "boolean";

export function equal(a: Value, b: Value): boolean {
  charge(STEP);
  if (is_number(a) && is_number(b)) return plain(a) <= plain(b) && plain(a) >= plain(b);
  if (a instanceof Text && b instanceof Text) {
    charge(a.value.length === b.value.length ? a.value.length : 0);
    return a.value === b.value;
  }
  if (a instanceof List && b instanceof List)
    return (
      a.kind === b.kind && a.items.length === b.items.length && a.items.every((item, i) => equal(item, b.items[i]!))
    );
  if (a instanceof Dict && b instanceof Dict)
    return (
      a.size === b.size &&
      a.entries().every(([key, value]) => {
        const other = b.get(key);
        return other !== undefined && equal(value, other);
      })
    );
  return a === b || (a instanceof Undefined && b instanceof Undefined);
}

export const plain = (value: bigint | number | boolean): bigint | number =>
  typeof value === "boolean" ? BigInt(value) : value;

/** Below, equal or above 0, as Python's `<` orders them. */
export function compare(a: Value, b: Value, operator = "<"): number {
  charge(STEP);
  if (is_number(a) && is_number(b)) {
    const [left, right] = [plain(a), plain(b)];
    return left < right ? -1 : left > right ? 1 : left >= right ? 0 : Number.NaN;
  }
  if (a instanceof Text && b instanceof Text) return compare_text(a.value, b.value);
  if (a instanceof List && b instanceof List && a.kind === b.kind) {
    const at = a.items.findIndex((item, i) => i >= b.items.length || !equal(item, b.items[i]!));
    if (at < 0) return a.items.length - b.items.length;
    return at >= b.items.length ? 1 : compare(a.items[at]!, b.items[at]!, operator);
  }
  for (const value of [a, b]) if (value instanceof Undefined) error(value.problem);
  return error(`'${operator}' not supported between instances of '${type_name(a)}' and '${type_name(b)}'`);
}

/** By code points: UTF-16 units order some characters otherwise. */
function compare_text(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  charge(length);
  let at = 0;
  while (at < length && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  if (at === length) return a.length - b.length;
  const [left, right] = [a.charCodeAt(at), b.charCodeAt(at)];
  const surrogate = (unit: number) => unit >= 0xd800 && unit < 0xe000;
  if (surrogate(left) !== surrogate(right)) return surrogate(left) ? 1 : -1;
  return left - right;
}

export function contains(container: Value, item: Value): boolean {
  if (container instanceof Text) {
    if (!(item instanceof Text)) {
      if (item instanceof Undefined) error(item.problem);
      return error(`'in <string>' requires string as left operand, not ${type_name(item)}`);
    }
    charge(container.value.length);
    return container.value.includes(item.value);
  }
  if (container instanceof Dict) return container.get(item) !== undefined;
  return iterate(container).some((one) => equal(one, item));
}
