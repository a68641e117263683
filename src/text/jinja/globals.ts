/** The functions that every template has. */
import { charge, STEP, TemplateError } from "./budget.js";
import { as_int, as_text, take } from "./methods.js";
import { str, text } from "./print.js";
import { strftime } from "./time.js";
import { type Args, Callable, Dict, error, Instance, iterate, List, type Value } from "./values.js";

/** Python's own limit in the sandbox of Jinja. */
const MAX_RANGE = 100_000;

function range({ positional }: Args): Value {
  const [a, b, c] = positional.map((value) => as_int(value, 0));
  const [start, stop, step] =
    b === undefined ? [0, a ?? error("range expected at least 1 argument"), 1] : [a!, b, c ?? 1];
  if (step === 0) return error("range() arg 3 must not be zero");
  const length = Math.max(0, Math.ceil((stop - start) / step));
  charge(32 * length);
  if (!(length <= MAX_RANGE)) return error(`Range too big. The sandbox blocks ranges larger than ${MAX_RANGE}.`);
  return new List(
    Array.from({ length }, (_, i) => BigInt(start + i * step)),
    "range",
  );
}

function as_pairs(args: Args): [Value, Value][] {
  const pairs: [Value, Value][] = args.positional.flatMap((value) =>
    value instanceof Dict
      ? value.entries().map(([key, item]): [Value, Value] => [key, item])
      : iterate(value).map((pair) => iterate(pair) as [Value, Value]),
  );
  return [...pairs, ...[...args.named].map(([name, value]): [Value, Value] => [text(name), value])];
}

function namespace(args: Args): Value {
  const values = new Map(as_pairs(args).map(([key, value]) => [as_text(key, "a name").value, value]));
  return new Instance(
    "Namespace",
    (name) => values.get(name),
    (name, value) => {
      charge(STEP);
      values.set(name, value);
    },
  );
}

function cycler({ positional }: Args): Value {
  let at = 0;
  if (positional.length === 0) error("at least one item has to be provided");
  const attributes: Record<string, () => Value> = {
    current: () => positional[at]!,
    next: () =>
      new Callable(
        "next",
        () => positional[(at = (at + 1) % positional.length) === 0 ? positional.length - 1 : at - 1]!,
      ),
    reset: () => {
      return new Callable("reset", () => {
        at = 0;
        return null;
      });
    },
  };
  return new Instance("Cycler", (name) => (Object.hasOwn(attributes, name) ? attributes[name]!() : undefined));
}

function joiner(args: Args): Value {
  const [separator = text(", ")] = take("joiner", args, "sep?");
  let used = false;
  const next = (): Value => {
    const value = used ? separator : text("");
    used = true;
    return value;
  };
  return new Instance("Joiner", (name) => (name === "__call__" ? new Callable("joiner", next) : undefined));
}

export function globals(now: () => Date): [string, Value][] {
  const made: Record<string, (args: Args) => Value> = {
    range,
    namespace,
    cycler,
    joiner,
    dict: (args) => new Dict(as_pairs(args)),
    raise_exception: ({ positional }) => {
      throw Object.assign(new TemplateError(str(positional[0] ?? null).value), { raised: true });
    },
    strftime_now: ({ positional }) => text(strftime(now(), as_text(positional[0], "the format").value)),
  };
  return Object.entries(made).map(([name, of]) => [name, new Callable(name, of)]);
}
