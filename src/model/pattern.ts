/**
 * Regular expressions of Python's `re` over the names of modules, for what adapter_config.json may hold.
 *
 * The file comes from outside, and an engine that backtracks can be kept busy for ever by twenty characters. This one follows all ways at
 * once (https://swtch.com/~rsc/regexp/regexp1.html), so its work is bounded by pattern times name. Only whether a name matches is asked,
 * so groups need not be remembered. Backreferences, lookbehind, flags, atomic groups and possessive repetition are refused by name.
 */
import { BimedixError } from "../errors.js";
import { type Instruction, Parser, type Program, word } from "./pattern_parser.js";

const MAX_LENGTH = 4000;
/** Of all matching by one pattern: a few seconds, where a model's names and a usual pattern take less than one in a hundred of them. */
const MAX_STEPS = 3e7;

export class Pattern {
  private readonly program: Program;
  private steps = 0;
  /** What `full` said: a reader asks for each name more than once. */
  private readonly known = new Map<string, boolean>();

  /** @param where names the source in errors. @throws BimedixError bad_adapter */
  constructor(
    readonly source: string,
    private readonly where: string,
  ) {
    this.program = source.length <= MAX_LENGTH ? new Parser(source, (why) => this.refuse(why)).parse() : [];
    if (source.length > MAX_LENGTH) this.refuse(`${source.length} characters`);
  }

  /** Python's `re.fullmatch`. */
  full(text: string): boolean {
    const matches = this.known.get(text) ?? this.ends(this.program, text, 0).has(text.length);
    this.known.set(text, matches);
    return matches;
  }

  /** Whether it matches what stands behind some dot, or the whole, to the end: `re.match(rf"(.*\.)?({pattern})$", text)`. */
  suffix(text: string): boolean {
    return starts(text).some((start) => this.ends(this.program, text, start).has(text.length));
  }

  /** The places at which a match that begins at `start` may end. */
  from(text: string, start: number): ReadonlySet<number> {
    return this.ends(this.program, text, start);
  }

  private ends(program: Program, text: string, start: number): Set<number> {
    const found = new Set<number>();
    let current = new Set<number>();
    this.follow(program, 0, text, start, current, new Set());
    for (let at = start; current.size > 0; at++) {
      const next = new Set<number>();
      const seen = new Set<number>();
      for (const place of current) {
        const instruction = program[place]!;
        if (instruction.op === "match") found.add(at);
        else if (instruction.op === "char" && at < text.length && instruction.test(text.charCodeAt(at)))
          this.follow(program, place + 1, text, at + 1, next, seen);
      }
      current = next;
    }
    return found;
  }

  /** Adds the places that are reached from `place` without a character. */
  private follow(
    program: Program,
    place: number,
    text: string,
    at: number,
    reached: Set<number>,
    seen: Set<number>,
  ): void {
    const waiting = [place];
    while (waiting.length > 0) {
      const here = waiting.pop()!;
      if (seen.has(here)) continue;
      seen.add(here);
      if (++this.steps > MAX_STEPS) this.refuse("too much work");
      const instruction = program[here]!;
      if (instruction.op === "jump") waiting.push(instruction.to);
      else if (instruction.op === "split") waiting.push(...instruction.to);
      else if (instruction.op === "char" || instruction.op === "match") reached.add(here);
      else if (this.holds(instruction, text, at)) waiting.push(here + 1);
    }
  }

  private holds(instruction: Instruction, text: string, at: number): boolean {
    if (instruction.op === "look") return this.ends(instruction.program, text, at).size > 0 === instruction.wanted;
    if (instruction.op === "start") return at === 0;
    if (instruction.op === "end") return at === text.length;
    const edge = is_word(text, at - 1) !== is_word(text, at);
    return edge === (instruction.op === "edge");
  }

  private refuse(why: string): never {
    const shown = this.source.length > 100 ? `${this.source.slice(0, 100)}…` : this.source;
    throw new BimedixError("bad_adapter", {
      given: `the pattern ${JSON.stringify(shown)} of ${this.where} with ${why}`,
      expected: "a regular expression of Python without lookbehind, references, flags and atomic groups",
      todo: "write it in another way, or list the modules by name",
    });
  }
}

/** The beginning of a name, and what comes after each dot. */
export const starts = (text: string): number[] => [0, ...[...text.matchAll(/\./g)].map(({ index }) => index + 1)];

const is_word = (text: string, at: number) => at >= 0 && at < text.length && word(text.charCodeAt(at));
