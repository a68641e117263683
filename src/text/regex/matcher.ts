/**
 * Runs a regular expression on a text by going back, as Oniguruma does, but counts what it does: the expressions of a tokenizer.json come
 * from outside, and an engine that does not count can be kept busy for ever by twenty characters. JavaScript's own engine cannot be
 * stopped on every runtime, and no look at an expression tells honest ones from those that take the square of a text's length.
 */
import type { CharacterSet } from "./character_set.js";

/** Where a match leaves its place for the next. */
export type Instruction =
  | { op: "character"; code: number }
  | { op: "set"; set: CharacterSet }
  /** As many of a set as there are, or as few. */
  | { op: "repeat"; set: CharacterSet; least: number; most: number; lazy: boolean }
  /** Here first, and there after that; only there, where the first way needs one of `ahead` and something else stands here. */
  | { op: "split"; first: number; second: number; ahead: CharacterSet | null }
  | { op: "jump"; to: number }
  | { op: "save"; slot: number }
  /** Leaves a loop whose turn took nothing since `save`. */
  | { op: "turn"; slot: number; out: number }
  | { op: "again"; slot: number }
  /** What stands ahead, or before within `widths` characters. */
  | { op: "look"; code: Program; not: boolean; widths: readonly number[] | null }
  /** Without a way back into it. */
  | { op: "atomic"; code: Program }
  | { op: "match" };

export type Program = readonly Instruction[];

/** Steps of one search through a text: ten times what published expressions take, and a few seconds for a text of megabytes. */
const STEPS = 2_000_000;
const STEPS_A_CHARACTER = 32;
/** Numbers on the stack of places to go back to. */
const USUAL_STACK = 1 << 12;
const LARGEST_STACK = 1 << 24;

/** More steps than an expression may take. */
export class TooManySteps extends Error {}

// Frames are four numbers: one of these, and what it needs.
const CHOICE = 0;
const GREEDY = 1;
const LAZY = 2;
const RESTORE = 3;
const FRAME = 4;
const NOWHERE = -1;

export class Matcher {
  private text = "";
  private steps = 0;
  private stack = new Int32Array(USUAL_STACK);
  private top = 0;
  private readonly slots: Int32Array;

  constructor(
    private readonly program: Program,
    slots: number,
  ) {
    this.slots = new Int32Array(slots);
  }

  /** Begins and ends of all matches, in one list. @throws TooManySteps */
  all(text: string): number[] {
    this.text = text;
    this.steps = STEPS + STEPS_A_CHARACTER * text.length;
    if (this.stack.length > USUAL_STACK) this.stack = new Int32Array(USUAL_STACK);
    const found: number[] = [];
    let last = NOWHERE;
    for (let at = 0; at <= text.length; ) {
      this.slots.fill(NOWHERE);
      this.top = 0;
      const end = this.run(this.program, at, NOWHERE);
      // There is no empty match where the last one ended.
      if (end > at || (end === at && at !== last)) found.push(at, (last = end));
      at = end > at ? end : at + this.width(at);
    }
    return found;
  }

  private width(at: number): number {
    return this.text.codePointAt(at)! > 0xffff ? 2 : 1;
  }

  private before(at: number): number {
    const pair = at > 1 && this.text.codePointAt(at - 2)! > 0xffff;
    return at - (pair ? 2 : 1);
  }

  private pay(steps: number): void {
    this.steps -= steps;
    if (this.steps < 0) throw new TooManySteps();
  }

  private push(kind: number, x: number, y: number, z: number): void {
    let { stack, top } = this;
    if (top === stack.length) {
      if (top === LARGEST_STACK) throw new TooManySteps();
      this.stack = new Int32Array(2 * top);
      this.stack.set(stack);
      stack = this.stack;
    }
    stack[top++] = kind;
    stack[top++] = x;
    stack[top++] = y;
    stack[top++] = z;
    this.top = top;
  }

  /** @param target the only place to end at, or NOWHERE for any. @returns the end, or NOWHERE */
  private run(code: Program, start: number, target: number): number {
    const { text, top: base } = this;
    let [at, pc] = [start, 0];
    for (;;) {
      this.pay(1);
      const step = code[pc]!;
      let fits = true;
      switch (step.op) {
        case "character": {
          fits = text.codePointAt(at) === step.code;
          if (fits) at += step.code > 0xffff ? 2 : 1;
          pc++;
          break;
        }
        case "set": {
          const next = text.codePointAt(at) ?? NOWHERE;
          fits = step.set.has(next);
          if (fits) at += next > 0xffff ? 2 : 1;
          pc++;
          break;
        }
        case "repeat": {
          const least = this.forward(step.set, at, step.least, step.least);
          if (least < 0) fits = false;
          else if (step.lazy) {
            this.push(LAZY, pc, least, step.least);
            at = least;
          } else {
            at = this.forward(step.set, least, 0, step.most - step.least);
            if (at > least) this.push(GREEDY, pc + 1, at, least);
          }
          pc++;
          break;
        }
        case "split":
          if (step.ahead && !step.ahead.has(text.codePointAt(at) ?? NOWHERE)) pc = step.second;
          else {
            this.push(CHOICE, step.second, at, 0);
            pc = step.first;
          }
          break;
        case "jump":
          pc = step.to;
          break;
        case "save":
          this.push(RESTORE, step.slot, this.slots[step.slot]!, 0);
          this.slots[step.slot] = at;
          pc++;
          break;
        case "turn":
          pc = this.slots[step.slot] === at ? step.out : pc + 1;
          break;
        case "again": {
          const [from, to] = [this.slots[step.slot]!, this.slots[step.slot + 1]!];
          this.pay(Math.max(0, to - from));
          fits = from >= 0 && to >= from && text.startsWith(text.slice(from, to), at);
          if (fits) at += to - from;
          pc++;
          break;
        }
        case "look":
          fits = this.look(step.code, at, step.widths) !== step.not;
          pc++;
          break;
        case "atomic": {
          const end = this.inner(step.code, at, NOWHERE);
          fits = end >= 0;
          at = end;
          pc++;
          break;
        }
        default:
          if (target === NOWHERE || at === target) return at;
          fits = false;
      }
      if (fits) continue;
      const back = this.back(code, base);
      if (back < 0) return NOWHERE;
      [pc, at] = [back, this.place];
    }
  }

  /** Where `back` goes on. */
  private place = 0;

  /** The latest way that was not taken: its instruction, or NOWHERE. */
  private back(code: Program, base: number): number {
    const { stack } = this;
    while (this.top > base) {
      const top = this.top - FRAME;
      const kind = stack[top]!;
      const x = stack[top + 1]!;
      const y = stack[top + 2]!;
      const z = stack[top + 3]!;
      if (kind === CHOICE) {
        this.top = top;
        this.place = y;
        return x;
      }
      if (kind === GREEDY) {
        this.place = this.before(y);
        if (this.place > z) stack[top + 2] = this.place;
        else this.top = top;
        return x;
      }
      if (kind === LAZY) {
        const { set, most } = code[x] as Instruction & { op: "repeat" };
        const next = z < most ? this.forward(set, y, 1, 1) : NOWHERE;
        if (next >= 0) {
          stack[top + 2] = next;
          stack[top + 3] = z + 1;
          this.place = next;
          return x + 1;
        }
      } else this.slots[x] = y;
      this.top = top;
    }
    return NOWHERE;
  }

  /** Behind `least` to `most` characters of a set, as many as there are. */
  private forward(set: CharacterSet, start: number, least: number, most: number): number {
    const { text } = this;
    let [at, count] = [start, 0];
    for (; count < most; count++) {
      const next = text.codePointAt(at) ?? NOWHERE;
      if (!set.has(next)) break;
      at += next > 0xffff ? 2 : 1;
    }
    this.pay(count);
    return count < least ? NOWHERE : at;
  }

  /** A part by itself, with no way back into it; what it saved stays to be restored. */
  private inner(code: Program, at: number, target: number): number {
    const base = this.top;
    const end = this.run(code, at, target);
    let kept = base;
    for (let from = base; from < this.top; from += FRAME) {
      if (this.stack[from] !== RESTORE) continue;
      this.stack.copyWithin(kept, from, from + FRAME);
      kept += FRAME;
    }
    this.top = kept;
    return end;
  }

  private look(code: Program, at: number, widths: readonly number[] | null): boolean {
    if (widths === null) return this.inner(code, at, NOWHERE) >= 0;
    let [from, back] = [at, 0];
    for (const width of widths) {
      for (; back < width && from > 0; back++) from = this.before(from);
      if (back < width) return false;
      if (this.inner(code, from, at) >= 0) return true;
    }
    return false;
  }
}
