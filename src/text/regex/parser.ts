/**
 * Regular expressions of tokenizer.json as trees. The `tokenizers` library reads them with Oniguruma: `\s` is Unicode's white space,
 * `^` begins a line, `(?i:...)` folds case in a part, and `(?>...)`, `*+`, `++` and `?+` do not go back.
 */
import { SPACES, WORD } from "./classes.js";
import type { Node } from "./nodes.js";

const CLASSES: Readonly<Record<string, string>> = {
  s: SPACES,
  d: "\\p{Nd}",
  w: WORD,
  h: "0-9a-fA-F",
};

/** POSIX brackets, and the properties of the same names but for `punct`. */
const POSIX: Readonly<Record<string, string>> = {
  alnum: "\\p{Alphabetic}\\p{Nd}",
  alpha: "\\p{Alphabetic}",
  ascii: "\\x00-\\x7f",
  blank: "\\p{Zs}\\t",
  cntrl: "\\p{Cc}",
  digit: "\\p{Nd}",
  lower: "\\p{Lowercase}",
  punct: "\\p{P}\\p{S}",
  space: SPACES,
  upper: "\\p{Uppercase}",
  word: WORD,
  xdigit: "0-9a-fA-F",
};

const CONTROL: Readonly<Record<string, number>> = { t: 9, n: 10, v: 11, f: 12, r: 13, a: 7, e: 27 };

const literal = (code: number): string => {
  const character = String.fromCodePoint(code);
  return /[\p{L}\p{M}\p{N} ]/u.test(character) ? character : `\\u{${code.toString(16)}}`;
};

/** A character with the others of its case. */
function folded(code: number): number[] {
  const character = String.fromCodePoint(code);
  const all = [character, character.toLowerCase(), character.toUpperCase()];
  // The long s, the sign of Kelvin and that of Angstrom fold to letters.
  const extra = { s: "\u017f", k: "\u212a", å: "\u212b" }[all[1]!];
  if (extra) all.push(extra);
  return [...new Set(all.filter((one) => [...one].length === 1).map((one) => one.codePointAt(0)!))];
}

/** Parts within parts, and characters of an expression: far more than any published one has. */
const DEPTH = 100;
const LONGEST = 20_000;

const set = (inside: string): Node => ({ type: "set", inside });
const sequence = (...items: Node[]): Node => ({ type: "sequence", items });
const look = (item: Node, not = false, behind = false): Node => ({ type: "look", item, not, behind });
const ANY = set("\\s\\S");
/** Of `\b`: a word's character on one side alone. */
const edge = (before: boolean, after: boolean): Node =>
  sequence(look(set(WORD), !before, true), look(set(WORD), !after));
const ANCHORS: Readonly<Record<string, Node>> = {
  A: look(ANY, true, true),
  z: look(ANY, true),
  Z: look(
    sequence(
      { type: "repeat", item: { type: "character", code: 10 }, least: 0, most: 1, lazy: false },
      look(ANY, true),
    ),
  ),
  R: {
    type: "choice",
    items: [
      sequence({ type: "character", code: 13 }, { type: "character", code: 10 }),
      set("\\n-\\r\\x85\\u2028\\u2029"),
    ],
  },
  b: { type: "choice", items: [edge(true, false), edge(false, true)] },
  B: { type: "choice", items: [edge(true, true), edge(false, false)] },
};

/** The tree of an expression, and how many groups it has. */
export function parse(source: string): { node: Node; groups: number } {
  if (source.length > LONGEST) throw new SyntaxError(`a regular expression of ${source.length} characters`);
  return new Parser(source).parse();
}

class Parser {
  private at = 0;
  private depth = 0;
  private captured = 0;
  private asked = 0;
  /** Groups are captured only where an expression comes back to them. */
  private readonly captures: boolean;

  constructor(private readonly source: string) {
    this.captures = /\\[1-9]/.test(source);
  }

  parse(): { node: Node; groups: number } {
    const node = this.alternatives(false);
    if (this.at < this.source.length) this.fail("an unopened )");
    if (this.asked > this.captured) this.fail(`\\${this.asked}`);
    return { node, groups: this.captured };
  }

  private fail(what: string): never {
    throw new SyntaxError(`${what} in the regular expression ${this.source.slice(0, 120)}`);
  }

  private take(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.source);
    if (found) this.at += found[0].length;
    return found;
  }

  private deeper<T>(work: () => T): T {
    if (++this.depth > DEPTH) this.fail(`more than ${DEPTH} parts inside each other`);
    const result = work();
    this.depth--;
    return result;
  }

  private alternatives(fold: boolean): Node {
    return this.deeper(() => {
      const branches: Node[][] = [[]];
      while (this.at < this.source.length && this.source[this.at] !== ")") {
        if (this.take(/\|/y)) branches.push([]);
        else {
          const flags = this.take(/\(\?([imx]*)(?:-([imx]*))?\)/y);
          // Flags by themselves hold to the end of the group that they are in.
          branches.at(-1)!.push(flags ? this.alternatives(this.flags(flags, fold)) : this.quantified(fold));
        }
      }
      const items = branches.map((branch) => sequence(...branch));
      return items.length === 1 ? items[0]! : { type: "choice", items };
    });
  }

  private flags([, on = "", off = ""]: RegExpExecArray, fold: boolean): boolean {
    const other = /[mx]/.exec(on + off);
    if (other) this.fail(`the flag ${other[0]}`);
    return on.includes("i") || (fold && !off.includes("i"));
  }

  private quantified(fold: boolean): Node {
    let item = this.atom(fold);
    for (let turns = 0; ; turns++) {
      const found = this.take(/([*+?])|\{(\d*)(,?)(\d*)\}/y);
      const [all, sign, from, comma, to] = found ?? [];
      if (all !== undefined && !sign && from === "" && to === "") this.at -= all.length;
      if (all === undefined || (!sign && from === "" && to === "")) return item;
      const least = sign ? Number(sign === "+") : Number(from || 0);
      const most = sign ? (sign === "?" ? 1 : Infinity) : to ? Number(to) : comma ? Infinity : least;
      if (turns > DEPTH || most < least) this.fail(`the quantifier ${all}`);
      const lazy = this.take(/\?/y) !== null;
      // Behind braces a plus is one more quantifier, as in Ruby.
      const possessive = !lazy && sign !== undefined && this.take(/\+/y) !== null;
      item = { type: "repeat", item, least, most, lazy };
      if (possessive) item = { type: "atomic", item };
    }
  }

  private atom(fold: boolean): Node {
    const character = this.source[this.at];
    if (character === "(") return this.group(fold);
    if (character === "[") return set(`${this.class(fold)}`);
    if (character === "\\") return this.escape(fold);
    this.at++;
    if (character === ".") return set("^\\n");
    if (character === "^") return look(set("^\\n"), true, true);
    if (character === "$") return look(set("^\\n"), true);
    if (character === "*" || character === "+" || character === "?") this.fail("a quantifier of nothing");
    this.at--;
    return this.literal(this.code_point(), fold);
  }

  private code_point(): number {
    const code = this.source.codePointAt(this.at)!;
    this.at += code > 0xffff ? 2 : 1;
    return code;
  }

  private literal(code: number, fold: boolean): Node {
    const all = fold ? folded(code) : [code];
    return all.length === 1 ? { type: "character", code } : set(all.map(literal).join(""));
  }

  private group(fold: boolean): Node {
    const comment = this.take(/\(\?#[^)]*\)/y);
    if (comment) return sequence();
    const scoped = this.take(/\(\?([imx]*)(?:-([imx]*))?:/y);
    const special = scoped ? null : this.take(/\(\?(?:<?[=!]|>)/y)?.[0];
    if (!scoped && !special && !this.take(/\(\?<[A-Za-z_]\w*>|\((?!\?)/y)) {
      this.fail(`the group ${this.source.slice(this.at, this.at + 4)}`);
    }
    const number = scoped || special ? 0 : ++this.captured;
    const item = this.alternatives(scoped ? this.flags(scoped, fold) : fold);
    if (!this.take(/\)/y)) this.fail("a group without end");
    if (special === "(?>") return { type: "atomic", item };
    if (special) return look(item, special.includes("!"), special.includes("<"));
    return number > 0 && this.captures ? { type: "group", number, item } : item;
  }

  /** Outside of classes. */
  private escape(fold: boolean): Node {
    const number = Number(this.take(/\\([1-9])(?!\d)/y)?.[1] ?? 0);
    this.asked = Math.max(this.asked, number);
    if (number > 0) return { type: "again", number };
    const anchor = this.take(/\\([AzZbBRKGX1-9gk])/y)?.[1];
    if (anchor) return ANCHORS[anchor] ?? this.fail(`\\${anchor}`);
    const word = this.take(/\\([wW])/y)?.[1];
    // Outside of classes it has these of Latin-1 too.
    if (word) return set(`${word === "W" ? "^" : ""}${WORD}\\xb2\\xb3\\xb9\\xbc-\\xbe`);
    const inside = this.set();
    return inside ? set(inside) : this.literal(this.escaped(), fold);
  }

  /** `\s`, `\P{L}` and their like as the inside of a class; null where something else stands. */
  private set(): string | null {
    const short = this.take(/\\([sSdDwWhH])/y)?.[1];
    if (short) {
      const inside = CLASSES[short.toLowerCase()]!;
      return short === short.toLowerCase() ? inside : `[^${inside}]`;
    }
    const property = this.take(/\\([pP])\{(\^?)([\w\s-]+)\}/y);
    if (!property) return null;
    const [, letter, not, name] = property;
    const inside = this.property(name!);
    return (letter === "P") !== (not === "^") ? `[^${inside}]` : inside;
  }

  private property(name: string): string {
    const plain = name.replace(/[\s_-]/g, "").toLowerCase();
    if (plain === "punct") return "\\p{P}";
    if (Object.hasOwn(POSIX, plain)) return POSIX[plain]!;
    const title = name.replace(
      /(^|[\s_-])(\w)(\w*)/g,
      (_, __, a: string, b: string) => `_${a.toUpperCase()}${b.toLowerCase()}`,
    );
    for (const one of [name, title.slice(1)]) {
      for (const form of [`\\p{${one}}`, `\\p{Script=${one}}`]) {
        try {
          new RegExp(form, "v");
          return form;
        } catch {
          // Not a property of that form.
        }
      }
    }
    return this.fail(`the property ${name}`);
  }

  private escaped(): number {
    const hex = this.take(/\\(?:x\{([0-9a-fA-F]{1,6})\}|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4}))/y);
    if (hex) return Number.parseInt(hex[1] ?? hex[2] ?? hex[3]!, 16);
    const control = this.take(/\\([tnvfrae])/y)?.[1];
    if (control) return CONTROL[control]!;
    if (this.take(/\\0/y)) return 0;
    const other = this.take(/\\[A-Za-z0-9]/y);
    if (other) this.fail(other[0]);
    this.at++;
    return this.at < this.source.length ? this.code_point() : this.fail("a \\ at the end");
  }

  /** A whole class, in its brackets. */
  private class(fold: boolean): string {
    return this.deeper(() => this.class_inside(fold));
  }

  private class_inside(fold: boolean): string {
    this.at++;
    const not = this.take(/\^/y) ? "^" : "";
    const operands: string[] = [];
    let inside = "";
    for (let first = true; first || this.source[this.at] !== "]"; first = false) {
      if (this.at >= this.source.length) this.fail("a class without end");
      if (this.take(/&&/y)) {
        operands.push(inside);
        inside = "";
      } else inside += this.member(fold);
    }
    this.at++;
    operands.push(inside);
    return `[${not}${operands.length > 1 ? operands.map((one) => `[${one}]`).join("&&") : inside}]`;
  }

  private member(fold: boolean): string {
    const posix = this.take(/\[:(\^?)(\w+):\]/y);
    if (posix) {
      const inside = POSIX[posix[2]!] ?? this.fail(posix[0]);
      return posix[1] ? `[^${inside}]` : inside;
    }
    if (this.source[this.at] === "[") return this.class(fold);
    const set = this.set();
    if (set) return set;
    const from = this.source[this.at] === "\\" ? this.escaped() : this.code_point();
    if (!this.take(/-(?=[^\]])(?!\[|\\[sSdDwWhHpP])/y)) return (fold ? folded(from) : [from]).map(literal).join("");
    const to = this.source[this.at] === "\\" ? this.escaped() : this.code_point();
    const range = `${literal(from)}-${literal(to)}`;
    if (!fold) return range;
    if (to - from > 1000) this.fail("a long range without regard to case");
    const cases = Array.from({ length: to - from + 1 }, (_, i) => folded(from + i)).flat();
    return (
      range +
      [...new Set(cases)]
        .filter((code) => code < from || code > to)
        .map(literal)
        .join("")
    );
  }
}
