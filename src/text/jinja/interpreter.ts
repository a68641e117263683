/** Runs a parsed template. */
import { charge, STEP } from "./budget.js";
import { call_filter, Group } from "./filters.js";
import { globals } from "./globals.js";
import { loop_object } from "./loop.js";
import { as_text } from "./methods.js";
import type { Arguments, Comparison, Node, Signature, Statement, Target } from "./nodes.js";
import { arithmetic, get_attribute, get_item, get_slice } from "./operators.js";
import { str, text } from "./print.js";
import { call_test } from "./tests.js";
import { Text } from "./text.js";
import {
  type Args, Callable, compare, contains, Dict, equal, error, Instance, is_number, iterate, List, or_else, plain, truth, type_name,
  Undefined, type Value,
} from "./values.js"; // biome-ignore format: a list

/** The source of the marks that `{% generation %}` leaves. */
export const GENERATION = -1;

class Scope {
  private readonly names = new Map<string, Value>();

  constructor(private readonly outer: Scope | null) {
    charge(STEP);
  }

  get(name: string): Value | undefined {
    for (let scope: Scope | null = this; scope; scope = scope.outer) {
      const value = scope.names.get(name);
      if (value !== undefined) return value;
    }
    return undefined;
  }

  set(name: string, value: Value): void {
    this.names.set(name, value);
  }
}

type Jump = "break" | "continue" | undefined;

/** What a template prints when these names have these values. */
export function run(program: readonly Statement[], variables: ReadonlyMap<string, Value>, now: () => Date): Text {
  const scope = new Scope(null);
  for (const [name, value] of globals(now)) scope.set(name, value);
  for (const [name, value] of variables) scope.set(name, value);
  return block(program, new Scope(scope));
}

/** The output of statements, in this scope. */
function block(body: readonly Statement[], scope: Scope): Text {
  const out: Text[] = [];
  run_all(body, scope, out);
  return Text.join(out);
}

function run_all(body: readonly Statement[], scope: Scope, out: Text[]): Jump {
  for (const statement of body) {
    const jump = run_one(statement, scope, out);
    if (jump) return jump;
  }
  return undefined;
}

function run_one(statement: Statement, scope: Scope, out: Text[]): Jump {
  charge(STEP);
  switch (statement.type) {
    case "text":
      out.push(text(statement.value));
      return undefined;
    case "print":
      out.push(str(evaluate(statement.value, scope)));
      return undefined;
    case "if": {
      const branch = statement.branches.find(({ test }) => test === null || truth(evaluate(test, scope)));
      return branch && run_all(branch.body, scope, out);
    }
    case "for":
      run_loop(statement, scope, out, evaluate(statement.list, scope), 0);
      return undefined;
    case "set":
      assign(statement.target, evaluate(statement.value, scope), scope);
      return undefined;
    case "set_block": {
      const content = block(statement.body, new Scope(scope));
      assign(statement.target, statement.filter ? filter_chain(statement.filter, content, scope) : content, scope);
      return undefined;
    }
    case "with": {
      const inner = new Scope(scope);
      const values = statement.values.map((value) => evaluate(value, scope));
      for (const [i, target] of statement.targets.entries()) assign(target, values[i]!, inner);
      return run_all(statement.body, inner, out);
    }
    case "macro":
      scope.set(statement.macro.name, macro(statement.macro, scope));
      return undefined;
    case "call_block": {
      const caller = macro(statement.caller, scope);
      out.push(str(call(statement.call, scope, [["caller", caller]])));
      return undefined;
    }
    case "filter_block":
      out.push(str(filter_chain(statement.filter, block(statement.body, new Scope(scope)), scope)));
      return undefined;
    case "scope":
      return run_all(statement.body, new Scope(scope), out);
    case "generation": {
      const { value, marks } = block(statement.body, new Scope(scope));
      out.push(new Text(value, [...marks, { start: 0, end: value.length, source: GENERATION }]));
      return undefined;
    }
    default:
      return statement.type;
  }
}

function run_loop(statement: Statement & { type: "for" }, scope: Scope, out: Text[], list: Value, depth: number): void {
  // biome-ignore format: one line
  const { target, filter, body, otherwise, recursive } = statement;
  let items = iterate(list);
  if (filter) {
    items = items.filter((item) => {
      const inner = new Scope(scope);
      assign(target, item, inner);
      return truth(evaluate(filter, inner));
    });
  }
  const again = (args: Args): Value => {
    if (!recursive) error("The loop must have the 'recursive' marker to be called recursively");
    const inner: Text[] = [];
    run_loop(statement, scope, inner, args.positional[0] ?? null, depth + 1);
    return Text.join(inner);
  };
  const state = { index: 0, changed: undefined as Value | undefined };
  const loop = loop_object(items, state, depth, again);
  // Jinja's `else` runs unless an iteration came to its end, so also after `break` in the first.
  let completed = false;
  for (const [index, item] of items.entries()) {
    state.index = index;
    const inner = new Scope(scope);
    inner.set("loop", loop);
    assign(target, item, inner);
    const jump = run_all(body, inner, out);
    completed ||= !jump;
    if (jump === "break") break;
  }
  if (!completed) run_all(otherwise, new Scope(scope), out);
}

function assign(target: Target, value: Value, scope: Scope): void {
  if (target.type === "name") scope.set(target.name, value);
  else if (target.type === "attribute_of") {
    const object = or_else(scope.get(target.name), () => new Undefined(`'${target.name}' is undefined`));
    if (!(object instanceof Instance) || !object.assign) error("cannot assign attribute on non-namespace object");
    else object.assign(target.attribute, value);
  } else {
    const items = iterate(value);
    if (items.length !== target.items.length)
      error(
        `${items.length < target.items.length ? "not enough" : "too many"} values to unpack (expected ${target.items.length}, got ${items.length})`,
      );
    for (const [i, one] of target.items.entries()) assign(one, items[i]!, scope);
  }
}

function macro({ name, parameters, defaults, reads, body }: Signature, scope: Scope): Callable {
  const call = ({ positional, named }: Args): Value => {
    const inner = new Scope(scope);
    const rest = new Map(named);
    const first_default = parameters.length - defaults.length;
    for (const [i, parameter] of parameters.entries()) {
      if (i < positional.length && rest.has(parameter))
        error(`macro '${name}' got multiple values for argument '${parameter}'`);
      const given = i < positional.length ? positional[i] : rest.get(parameter);
      rest.delete(parameter);
      const otherwise = (): Value =>
        i >= first_default
          ? evaluate(defaults[i - first_default]!, inner)
          : new Undefined(`parameter '${parameter}' was not provided`);
      inner.set(parameter, or_else(given, otherwise));
    }
    if (reads.has("caller") && !parameters.includes("caller")) {
      inner.set(
        "caller",
        or_else(rest.get("caller"), () => new Undefined("No caller defined")),
      );
      rest.delete("caller");
    }
    if (reads.has("kwargs")) inner.set("kwargs", new Dict([...rest].map(([key, value]) => [text(key), value])));
    else if (rest.size > 0) error(`macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`);
    if (reads.has("varargs")) inner.set("varargs", new List(positional.slice(parameters.length), "tuple"));
    else if (positional.length > parameters.length)
      error(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
    return block(body, inner);
  };
  const attributes: Record<string, () => Value> = {
    name: () => text(name),
    arguments: () => new List(parameters.map(text), "tuple"),
  };
  return new Callable(name, call, (attribute) =>
    Object.hasOwn(attributes, attribute) ? attributes[attribute]!() : undefined,
  );
}

/** A chain of filters on the content of a block: the innermost has no operand. */
function filter_chain(node: Node, content: Value, scope: Scope): Value {
  if (node.type !== "filter") return content;
  const operand = node.operand ? filter_chain(node.operand, content, scope) : content;
  return call_filter(node.name, operand, arguments_of(node.args, scope));
}

function arguments_of(
  { positional, named, rest, named_rest }: Arguments,
  scope: Scope,
  more: [string, Value][] = [],
): Args {
  const values = positional.map((node) => evaluate(node, scope));
  if (rest) values.push(...iterate(evaluate(rest, scope)));
  const names = new Map(named.map(([name, node]) => [name, evaluate(node, scope)]));
  if (named_rest) {
    const dict = evaluate(named_rest, scope);
    if (!(dict instanceof Dict)) return error("argument after ** must be a mapping");
    for (const [key, value] of dict.entries()) names.set(as_text(key, "keywords").value, value);
  }
  for (const [name, value] of more) names.set(name, value);
  return { positional: values, named: names };
}

function call(node: Node & { type: "call" }, scope: Scope, more?: [string, Value][]): Value {
  const callee = evaluate(node.callee, scope);
  const args = arguments_of(node.args, scope, more);
  if (callee instanceof Callable) return callee.call(args);
  if (callee instanceof Undefined) return error(callee.problem);
  const own = callee instanceof Instance ? callee.attributes("__call__") : undefined;
  return own instanceof Callable ? own.call(args) : error(`'${type_name(callee)}' object is not callable`);
}

function compared(operator: Comparison, left: Value, right: Value): boolean {
  if (operator === "==" || operator === "!=") return equal(left, right) === (operator === "==");
  if (operator === "in" || operator === "not in") return contains(right, left) === (operator === "in");
  const order = compare(left, right, operator);
  if (operator === "<") return order < 0;
  if (operator === ">") return order > 0;
  return operator === "<=" ? order <= 0 : order >= 0;
}

function evaluate(node: Node, scope: Scope): Value {
  charge(STEP);
  switch (node.type) {
    case "constant":
      return typeof node.value === "string" ? text(node.value) : node.value;
    case "name":
      return or_else(scope.get(node.name), () => new Undefined(`'${node.name}' is undefined`));
    case "list":
    case "tuple":
      return new List(
        node.items.map((item) => evaluate(item, scope)),
        node.type,
      );
    case "dict":
      return new Dict(node.pairs.map(([key, value]) => [evaluate(key, scope), evaluate(value, scope)]));
    case "attribute": {
      const object = evaluate(node.object, scope);
      if (object instanceof Group && (node.name === "grouper" || node.name === "list")) return object[node.name];
      return get_attribute(object, node.name);
    }
    case "item": {
      const object = evaluate(node.object, scope);
      if (node.key.type !== "slice") return get_item(object, evaluate(node.key, scope));
      const { start, stop, step } = node.key;
      const of = (part: Node | null) => (part ? evaluate(part, scope) : null);
      return get_slice(object, of(start), of(stop), of(step));
    }
    case "slice":
      return error("a slice among several indices");
    case "call":
      return call(node, scope);
    case "filter":
      return call_filter(
        node.name,
        node.operand ? evaluate(node.operand, scope) : null,
        arguments_of(node.args, scope),
      );
    case "test":
      return call_test(node.name, evaluate(node.operand, scope), arguments_of(node.args, scope));
    case "not":
      return !truth(evaluate(node.operand, scope));
    case "negative":
    case "positive": {
      const value = evaluate(node.operand, scope);
      if (value instanceof Undefined) return error(value.problem);
      if (!is_number(value))
        return error(`bad operand type for unary ${node.type === "negative" ? "-" : "+"}: '${type_name(value)}'`);
      return node.type === "negative" ? -plain(value) : plain(value);
    }
    case "and":
    case "or": {
      const left = evaluate(node.left, scope);
      return truth(left) === (node.type === "or") ? left : evaluate(node.right, scope);
    }
    case "binary":
      return arithmetic(node.operator, evaluate(node.left, scope), evaluate(node.right, scope));
    case "concat":
      return Text.join(node.parts.map((part) => str(evaluate(part, scope))));
    case "compare": {
      let left = evaluate(node.first, scope);
      for (const [operator, operand] of node.rest) {
        const right = evaluate(operand, scope);
        if (!compared(operator, left, right)) return false;
        left = right;
      }
      return true;
    }
    case "condition":
      if (truth(evaluate(node.test, scope))) return evaluate(node.yes, scope);
      return node.no ? evaluate(node.no, scope) : new Undefined("the inline if-expression has no else");
  }
}
