/** Jinja's tests: what stands after `is`. */
import { take } from "./methods.js";
import { arithmetic } from "./operators.js";
import { str } from "./print.js";
import { Text } from "./text.js";
import {
  type Args,
  Callable,
  compare,
  contains,
  Dict,
  equal,
  error,
  Instance,
  is_number,
  List,
  Undefined,
  type Value,
} from "./values.js";

type Test = [signature: string, call: (value: Value, other: Value) => boolean];
const equal_to: Test = ["other", equal];
const ordered = (operator: string, holds: (order: number) => boolean): Test => [
  "other",
  (value, other) => holds(compare(value, other, operator)),
];
const [above, at_least] = [ordered(">", (order) => order > 0), ordered(">=", (order) => order >= 0)];
const [below, at_most] = [ordered("<", (order) => order < 0), ordered("<=", (order) => order <= 0)];
const different: Test = ["other", (value, other) => !equal(value, other)];
const modulo = (value: Value, by: Value) => arithmetic("%", value, by);

const tests: Record<string, Test> = {
  boolean: ["", (value) => typeof value === "boolean"],
  callable: ["", (value) => value instanceof Callable || value instanceof Undefined || (value instanceof Instance && value.attributes("__call__") !== undefined)],
  defined: ["", (value) => !(value instanceof Undefined)],
  divisibleby: ["num", (value, by) => equal(modulo(value, by), 0n)],
  eq: equal_to, equalto: equal_to, "==": equal_to,
  escaped: ["", () => false],
  even: ["", (value) => equal(modulo(value, 2n), 0n)],
  false: ["", (value) => value === false],
  float: ["", (value) => typeof value === "number"],
  ge: at_least, ">=": at_least,
  gt: above, greaterthan: above, ">": above,
  in: ["seq", (value, container) => contains(container, value)],
  integer: ["", (value) => typeof value === "bigint"],
  iterable: ["", (value) => typeof value === "object" && value !== null && !(value instanceof Callable) && !(value instanceof Instance)],
  le: at_most, "<=": at_most,
  lower: ["", (value) => /\p{Ll}/u.test(str(value).value) && !/[\p{Lu}\p{Lt}]/u.test(str(value).value)],
  lt: below, lessthan: below, "<": below,
  mapping: ["", (value) => value instanceof Dict],
  ne: different, "!=": different,
  none: ["", (value) => value === null],
  number: ["", is_number],
  odd: ["", (value) => equal(modulo(value, 2n), 1n)],
  sameas: ["other", (value, other) => value === other || (value instanceof Text && other instanceof Text && value.value === other.value)],
  sequence: ["", (value) => value instanceof Text || value instanceof Dict || value instanceof Undefined || (value instanceof List && !value.kind.startsWith("dict_"))],
  string: ["", (value) => value instanceof Text],
  test: ["", (value) => value instanceof Text && Object.hasOwn(tests, value.value)],
  true: ["", (value) => value === true],
  undefined: ["", (value) => value instanceof Undefined],
  upper: ["", (value) => /\p{Lu}/u.test(str(value).value) && !/[\p{Ll}\p{Lt}]/u.test(str(value).value)],
}; // biome-ignore format: a table

/** @throws TemplateError for a test that there is not */
export function call_test(name: string, value: Value, args: Args): boolean {
  if (!Object.hasOwn(tests, name)) return error(`No test named '${name}'`);
  const [signature, call] = tests[name]!;
  const [other] = take(name, args, signature);
  return call(value, other as Value);
}
