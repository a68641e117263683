/** `loop`, as templates see it. */
import { text } from "./print.js";
import { type Args, Callable, equal, error, Instance, List, or_else, Undefined, type Value } from "./values.js";

export function loop_object(
  items: readonly Value[],
  state: { index: number; changed: Value | undefined },
  depth: number,
  again: (args: Args) => Value,
): Instance {
  const attributes: Record<string, () => Value> = {
    index: () => BigInt(state.index + 1),
    index0: () => BigInt(state.index),
    revindex: () => BigInt(items.length - state.index),
    revindex0: () => BigInt(items.length - state.index - 1),
    first: () => state.index === 0,
    last: () => state.index === items.length - 1,
    length: () => BigInt(items.length),
    depth: () => BigInt(depth + 1),
    depth0: () => BigInt(depth),
    previtem: () => or_else(items[state.index - 1], () => new Undefined("there is no previous item")),
    nextitem: () => or_else(items[state.index + 1], () => new Undefined("there is no next item")),
    cycle: () =>
      new Callable("cycle", ({ positional }) =>
        positional.length > 0 ? positional[state.index % positional.length]! : error("no items for cycling given"),
      ),
    changed: () =>
      new Callable("changed", ({ positional }) => {
        const value = new List(positional, "tuple");
        const same = state.changed !== undefined && equal(state.changed, value);
        state.changed = value;
        return !same;
      }),
    __call__: () => new Callable("loop", again),
    __repr__: () => text(`<LoopContext ${state.index + 1}/${items.length}>`),
  };
  return new Instance("LoopContext", (name) => (Object.hasOwn(attributes, name) ? attributes[name]!() : undefined));
}
