/** Regular expressions as trees, and trees as programs. */
import { CharacterSet } from "./character_set.js";
import type { Instruction, Program } from "./matcher.js";

export type Node =
  | { type: "character"; code: number }
  /** What stands between the brackets of a class of JavaScript's with the flag `v`. */
  | { type: "set"; inside: string }
  | { type: "sequence"; items: readonly Node[] }
  | { type: "choice"; items: readonly Node[] }
  | { type: "repeat"; item: Node; least: number; most: number; lazy: boolean }
  | { type: "group"; number: number; item: Node }
  | { type: "again"; number: number }
  | { type: "look"; item: Node; not: boolean; behind: boolean }
  | { type: "atomic"; item: Node };

/** Far more than any published expression has. */
const LARGEST = 50_000;
const MOST_WIDTHS = 100;

/** Lengths in characters that a node can match, the least first; null for too many. */
function widths_of(node: Node): number[] | null {
  const sum = (a: number[] | null, b: number[] | null): number[] | null =>
    a && b && limited(a.flatMap((one) => b.map((other) => one + other)));
  const limited = (all: number[]): number[] | null => {
    const widths = [...new Set(all)].sort((a, b) => a - b);
    return widths.length > MOST_WIDTHS ? null : widths;
  };
  switch (node.type) {
    case "character":
    case "set":
      return [1];
    case "sequence":
      return node.items.map(widths_of).reduce(sum, [0]);
    case "choice": {
      const all = node.items.map(widths_of);
      return all.includes(null) ? null : limited(all.flatMap((one) => one!));
    }
    case "repeat": {
      if (node.most > MOST_WIDTHS) return null;
      const one = widths_of(node.item);
      let [all, widths]: [number[] | null, number[] | null] = [[], [0]];
      for (let count = 0; count <= node.most; count++) {
        if (count >= node.least) all = all && widths && limited([...all, ...widths]);
        widths = sum(widths, one);
      }
      return all;
    }
    case "look":
      return [0];
    case "again":
      return null;
    default:
      return widths_of(node.item);
  }
}

/** What a node's first character is one of, as the inside of a class; null where it may match nothing, or that is not looked into. */
function first_of(node: Node): string | null {
  switch (node.type) {
    case "character":
    case "set":
      return inside_of(node);
    case "sequence": {
      // What may be left out and what stands behind it.
      const all: string[] = [];
      for (const item of node.items) {
        const optional = item.type === "repeat" && item.least === 0;
        const first = first_of(optional ? item.item : item);
        if (first === null) return null;
        all.push(first);
        if (!optional) return all.join("");
      }
      return null;
    }
    case "choice": {
      const all = node.items.map(first_of);
      return all.includes(null) ? null : all.join("");
    }
    case "repeat":
      return node.least > 0 ? first_of(node.item) : null;
    case "group":
    case "atomic":
      return first_of(node.item);
    default:
      return null;
  }
}

const inside_of = (node: Node & { type: "character" | "set" }): string =>
  node.type === "set" ? `[${node.inside}]` : `\\u{${node.code.toString(16)}}`;

type Split = Instruction & { op: "split" };

class Compiler {
  readonly code: Instruction[] = [];

  constructor(
    private readonly counts: { size: number; slots: number },
    private readonly sets: Map<string, CharacterSet>,
  ) {}

  whole(node: Node): Program {
    const inner = new Compiler(this.counts, this.sets);
    inner.add(node);
    inner.emit({ op: "match" });
    return inner.code;
  }

  private count(): void {
    if (++this.counts.size > LARGEST) throw new SyntaxError("a regular expression that is too large");
  }

  private emit<T extends Instruction>(one: T): T {
    this.count();
    this.code.push(one);
    return one;
  }

  private set(inside: string): CharacterSet {
    const known = this.sets.get(inside) ?? new CharacterSet(inside);
    this.sets.set(inside, known);
    return known;
  }

  /** @param node what the first way is */
  private split(node: Node): Split {
    const first = first_of(node);
    return this.emit({
      op: "split",
      first: this.code.length + 1,
      second: 0,
      ahead: first === null ? null : this.set(first),
    });
  }

  private add(node: Node): void {
    // Parts that leave no instruction take time too, a billion times.
    this.count();
    switch (node.type) {
      case "character":
        this.emit({ op: "character", code: node.code });
        return;
      case "set":
        this.emit({ op: "set", set: this.set(inside_of(node)) });
        return;
      case "sequence":
        for (const item of node.items) this.add(item);
        return;
      case "choice":
        this.choice(node.items);
        return;
      case "repeat":
        this.repeat(node);
        return;
      case "group":
        this.emit({ op: "save", slot: 2 * node.number });
        this.add(node.item);
        this.emit({ op: "save", slot: 2 * node.number + 1 });
        return;
      case "again":
        this.emit({ op: "again", slot: 2 * node.number });
        return;
      case "atomic":
        this.emit({ op: "atomic", code: this.whole(node.item) });
        return;
      case "look": {
        const widths = node.behind ? widths_of(node.item) : null;
        if (node.behind && !widths) throw new SyntaxError("a look behind of any length");
        this.emit({ op: "look", code: this.whole(node.item), not: node.not, widths });
      }
    }
  }

  private choice(items: readonly Node[]): void {
    const ends: { to: number }[] = [];
    for (const [i, item] of items.entries()) {
      const split = i < items.length - 1 ? this.split(item) : null;
      this.add(item);
      if (!split) break;
      ends.push(this.emit({ op: "jump", to: 0 }));
      split.second = this.code.length;
    }
    for (const end of ends) end.to = this.code.length;
  }

  private repeat({ item, least, most, lazy }: Node & { type: "repeat" }): void {
    if (item.type === "set" || item.type === "character") {
      this.emit({ op: "repeat", set: this.set(inside_of(item)), least, most, lazy });
      return;
    }
    for (let i = 0; i < least; i++) this.add(item);
    if (most === Number.POSITIVE_INFINITY) {
      const start = this.code.length;
      const split = this.split(item);
      const slot = this.counts.slots++;
      this.emit({ op: "save", slot });
      this.add(item);
      const turn = this.emit({ op: "turn", slot, out: 0 });
      this.emit({ op: "jump", to: start });
      this.leave([split], lazy);
      turn.out = this.code.length;
      return;
    }
    const splits: Split[] = [];
    for (let i = least; i < most; i++) {
      splits.push(this.split(item));
      this.add(item);
    }
    this.leave(splits, lazy);
  }

  /** Ways out of a loop, which come first where it is lazy. */
  private leave(splits: readonly Split[], lazy: boolean): void {
    for (const split of splits) {
      split.second = this.code.length;
      if (lazy) Object.assign(split, { first: split.second, second: split.first, ahead: null });
    }
  }
}

/** @param groups how many there are. @throws SyntaxError for what is too large */
export function compile(node: Node, groups: number): { program: Program; slots: number } {
  const counts = { size: 0, slots: 2 * (groups + 1) };
  const program = new Compiler(counts, new Map()).whole(node);
  return { program, slots: counts.slots };
}
