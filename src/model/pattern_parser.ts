/** Regular expressions of Python's `re` as instructions for the matcher in pattern.ts. */

export type Test = (code: number) => boolean;
export type Instruction =
  | { op: "char"; test: Test }
  | { op: "split"; to: readonly [number, number] }
  | { op: "jump"; to: number }
  | { op: "start" | "end" | "edge" | "inside" | "match" }
  | { op: "look"; program: Program; wanted: boolean };
export type Program = Instruction[];

const MAX_INSTRUCTIONS = 4000;

export const word: Test = (code) => /\w/.test(String.fromCharCode(code));
const classes: Record<string, Test> = {
  d: (code) => code >= 48 && code <= 57,
  w: word,
  s: (code) => code === 32 || (code >= 9 && code <= 13),
};
const escapes: Record<string, string> = { n: "\n", t: "\t", r: "\r", f: "\f", v: "\v", a: "\x07" };

/** Recursive descent; each method returns the instructions of what it read, with places counted from its own beginning. */
export class Parser {
  private at = 0;

  constructor(
    private readonly source: string,
    private readonly refuse: (why: string) => never,
  ) {}

  parse(): Program {
    const program = this.alternatives();
    if (this.at < this.source.length) this.refuse("a ) too many");
    return [...program, { op: "match" }];
  }

  private alternatives(): Program {
    let program = this.sequence();
    while (this.take("|")) program = either(program, this.sequence());
    return program;
  }

  private sequence(): Program {
    const program: Program = [];
    while (this.at < this.source.length && this.source[this.at] !== "|" && this.source[this.at] !== ")") {
      append(program, this.repeated());
      if (program.length > MAX_INSTRUCTIONS) this.refuse("too many repetitions");
    }
    return program;
  }

  private repeated(): Program {
    const atom = this.atom();
    const counts = this.counts();
    if (!counts) return atom;
    if (this.source[this.at] === "+") this.refuse("possessive repetition");
    // Lazy or not is the same to whoever asks only whether it matches.
    this.take("?");
    if (this.counts()) this.refuse("a repetition of a repetition");
    const [least, most] = counts;
    const program: Program = [];
    const size = atom.length * Math.min(most, Math.max(least, 1) + 1);
    if (Math.max(least, most === Number.POSITIVE_INFINITY ? 0 : most) * atom.length + size > MAX_INSTRUCTIONS)
      this.refuse("too many repetitions");
    for (let i = 0; i < least; i++) append(program, atom);
    if (most === Number.POSITIVE_INFINITY) append(program, any_number(atom));
    else {
      let optional: Program = [];
      for (let i = least; i < most; i++) {
        const one: Program = [];
        append(one, atom);
        append(one, optional);
        optional = either(one, []);
      }
      append(program, optional);
    }
    return program;
  }

  private counts(): [number, number] | null {
    if (this.take("*")) return [0, Number.POSITIVE_INFINITY];
    if (this.take("+")) return [1, Number.POSITIVE_INFINITY];
    if (this.take("?")) return [0, 1];
    const match = /^\{(\d*)(?:(,)(\d*))?\}/.exec(this.source.slice(this.at, this.at + 30));
    // Braces without a number are characters, as in Python.
    if (!match || (match[1] === "" && !match[2])) return null;
    this.at += match[0].length;
    const least = Number(match[1]);
    const most = match[2] ? (match[3] === "" ? Number.POSITIVE_INFINITY : Number(match[3])) : least;
    if (most < least || least > MAX_INSTRUCTIONS) this.refuse(`the repetition ${match[0]}`);
    return [least, most];
  }

  private atom(): Program {
    const char = this.next();
    if (char === "(") return this.group();
    if (char === "[") return [{ op: "char", test: this.set() }];
    if (char === "\\") return [this.escape()];
    if (char === ".") return [{ op: "char", test: (code) => code !== 10 }];
    if (char === "^") return [{ op: "start" }];
    if (char === "$") return [{ op: "end" }];
    if ("*+?".includes(char)) this.refuse("nothing to repeat");
    return [literal(char)];
  }

  private group(): Program {
    let look: boolean | null = null;
    if (this.take("?")) {
      const kind = /^(?::|=|!|P<[A-Za-z_]\w*>)/.exec(this.source.slice(this.at, this.at + 100))?.[0];
      if (kind === undefined) this.refuse(`(?${this.source.slice(this.at, this.at + 2)}`);
      this.at += kind!.length;
      if (kind === "=" || kind === "!") look = kind === "=";
    }
    const program = this.alternatives();
    if (!this.take(")")) this.refuse("a ( that is not closed");
    return look === null ? program : [{ op: "look", program: [...program, { op: "match" }], wanted: look }];
  }

  private escape(): Instruction {
    const char = this.next();
    if (char === "A") return { op: "start" };
    if (char === "Z") return { op: "end" };
    if (char === "b") return { op: "edge" };
    if (char === "B") return { op: "inside" };
    return { op: "char", test: this.escaped(char) };
  }

  private escaped(char: string): Test {
    const of_class = classes[char.toLowerCase()];
    if (of_class) return char === char.toLowerCase() ? of_class : (code) => !of_class(code);
    if (char === "x" || char === "u") {
      const digits = this.source.slice(this.at, this.at + (char === "x" ? 2 : 4));
      if (!/^[\da-f]+$/i.test(digits)) this.refuse(`\\${char}${digits}`);
      this.at += digits.length;
      return equals(String.fromCharCode(Number.parseInt(digits, 16)));
    }
    if (char in escapes) return equals(escapes[char]!);
    if (/[A-Za-z\d]/.test(char)) this.refuse(`\\${char}`);
    return equals(char);
  }

  private set(): Test {
    const negated = this.take("^");
    const tests: Test[] = [];
    do {
      const [test, low] = this.member();
      const high = this.source[this.at] === "-" && this.source[this.at + 1] !== "]" ? this.range_end(low) : null;
      tests.push(high === null ? test : (code) => code >= low! && code <= high);
    } while (!this.take("]"));
    return negated ? (code) => !tests.some((test) => test(code)) : (code) => tests.some((test) => test(code));
  }

  private range_end(low: number | null): number {
    this.at++;
    const [, high] = this.member();
    if (low === null || high === null || high < low) this.refuse("a range of characters that is none");
    return high!;
  }

  /** A character of a set, and its code unless it is a class. */
  private member(): [Test, number | null] {
    const char = this.next();
    if (char !== "\\") return [equals(char), char.charCodeAt(0)];
    const escaped = this.next();
    const test = escaped === "b" ? equals("\b") : this.escaped(escaped);
    if (classes[escaped.toLowerCase()]) return [test, null];
    const code = Array.from({ length: 65536 }, (_, code) => code).find(test)!;
    return [test, code];
  }

  private next(): string {
    if (this.at >= this.source.length) this.refuse("an end too early");
    return this.source[this.at++]!;
  }

  private take(char: string): boolean {
    if (this.source[this.at] !== char) return false;
    this.at++;
    return true;
  }
}

const equals = (char: string): Test => {
  const wanted = char.charCodeAt(0);
  return (code) => code === wanted;
};
const literal = (char: string): Instruction => ({ op: "char", test: equals(char) });

function append(program: Program, more: Program): void {
  const by = program.length;
  for (const instruction of more) program.push(shifted(instruction, by));
}

function shifted(instruction: Instruction, by: number): Instruction {
  if (instruction.op === "jump") return { op: "jump", to: instruction.to + by };
  if (instruction.op === "split") return { op: "split", to: [instruction.to[0] + by, instruction.to[1] + by] };
  return instruction;
}

function either(one: Program, other: Program): Program {
  const program: Program = [{ op: "split", to: [1, one.length + 2] }];
  append(program, one);
  program.push({ op: "jump", to: one.length + other.length + 2 });
  append(program, other);
  return program;
}

function any_number(one: Program): Program {
  const program: Program = [{ op: "split", to: [1, one.length + 2] }];
  append(program, one);
  program.push({ op: "jump", to: 0 });
  return program;
}
