/**
 * Regular expressions of tokenizer.json as JavaScript's. The `tokenizers` library reads them with Oniguruma: `\s` is Unicode's
 * white space, `^` begins a line, `(?i:...)` folds case in a part, and `(?>...)`, `*+`, `++` and `?+` do not go back.
 */

const SPACES = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";

/** White space as Rust and Oniguruma have it: with U+0085, without U+FEFF. */
export const is_space = (character: string): boolean => SPACE.test(character);
const SPACE = new RegExp(`^[${SPACES}]$`, "v");

/** What Rust's `\w` matches. */
export const is_word = (character: string): boolean => RUST_WORD.test(character);
const RUST_WORD = new RegExp(`^[${WORD}\\p{Join_Control}]$`, "v");

/** Punctuation as the library's splitters see it. */
export const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/gu;
export const SPACE_CHARACTER = new RegExp(`[${SPACES}]`, "gv");
export const WORDS = new RegExp(`[${WORD}\\p{Join_Control}]+|[^${WORD}\\p{Join_Control}${SPACES}]+`, "gv");

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

/** @throws SyntaxError that names what has no counterpart */
export function to_regexp(source: string): RegExp {
  return new RegExp(new Translator(source).translate(), "gv");
}

/** The expression of a literal text. */
export const literal_regexp = (text: string): RegExp =>
  new RegExp([...text].map((one) => literal(one.codePointAt(0)!)).join(""), "gv");

class Translator {
  private at = 0;
  private atomic = 0;
  private captured = 0;
  /** Groups are captured only where an expression comes back to them. */
  private readonly captures: boolean;

  constructor(private readonly source: string) {
    this.captures = /\\[1-9]/.test(source);
  }

  translate(): string {
    const out = this.alternatives(false);
    return this.at < this.source.length ? this.fail("an unopened )") : out;
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

  private alternatives(fold: boolean): string {
    let out = "";
    while (this.at < this.source.length && this.source[this.at] !== ")") {
      if (this.take(/\|/y)) out += "|";
      else {
        const flags = this.take(/\(\?([imx]*)(?:-([imx]*))?\)/y);
        // Flags by themselves hold to the end of the group that they are in.
        if (flags) return `${out}(?:${this.alternatives(this.flags(flags, fold))})`;
        out += this.quantified(fold);
      }
    }
    return out;
  }

  private flags([, on = "", off = ""]: RegExpExecArray, fold: boolean): boolean {
    const other = /[mx]/.exec(on + off);
    if (other) this.fail(`the flag ${other[0]}`);
    return on.includes("i") || (fold && !off.includes("i"));
  }

  private quantified(fold: boolean): string {
    let atom = this.atom(fold);
    for (;;) {
      const found = this.take(/[*+?]|\{(?:\d+(?:,\d*)?|,\d+)\}/y);
      if (!found) return atom;
      const times = found[0].replace("{,", "{0,");
      const lazy = this.take(/\?/y);
      // Behind braces a plus is one more quantifier, as in Ruby.
      const possessive = !lazy && times.length === 1 && this.take(/\+/y);
      atom = `(?:${atom})${times}${lazy ? "?" : ""}`;
      if (possessive) atom = this.group_without_return(atom);
    }
  }

  private group_without_return(inner: string): string {
    const name = `atomic${this.atomic++}`;
    return `(?:(?=(?<${name}>${inner}))\\k<${name}>)`;
  }

  private atom(fold: boolean): string {
    const character = this.source[this.at];
    if (character === "(") return this.group(fold);
    if (character === "[") return this.class(fold);
    if (character === "\\") return this.escape(fold);
    this.at++;
    if (character === ".") return "[^\\n]";
    if (character === "^") return "(?<![^\\n])";
    if (character === "$") return "(?=\\n|(?![^]))".replace("[^]", "[\\s\\S]");
    if (character === "*" || character === "+" || character === "?") this.fail("a quantifier of nothing");
    this.at--;
    return this.literal(this.code_point(), fold);
  }

  private code_point(): number {
    const code = this.source.codePointAt(this.at)!;
    this.at += code > 0xffff ? 2 : 1;
    return code;
  }

  private literal(code: number, fold: boolean): string {
    const all = fold ? folded(code) : [code];
    return all.length === 1 ? literal(code) : `[${all.map(literal).join("")}]`;
  }

  private group(fold: boolean): string {
    const comment = this.take(/\(\?#[^)]*\)/y);
    if (comment) return "";
    const scoped = this.take(/\(\?([imx]*)(?:-([imx]*))?:/y);
    const look = scoped ? null : this.take(/\(\?(?:<?[=!]|>)/y);
    if (!scoped && !look && !this.take(/\(\?<[A-Za-z_]\w*>|\((?!\?)/y)) {
      this.fail(`the group ${this.source.slice(this.at, this.at + 4)}`);
    }
    const number = scoped || look ? 0 : ++this.captured;
    const inner = this.alternatives(scoped ? this.flags(scoped, fold) : fold);
    if (!this.take(/\)/y)) this.fail("a group without end");
    if (look?.[0] === "(?>") return this.group_without_return(inner);
    return `${look ? look[0] : number > 0 && this.captures ? `(?<group${number}>` : "(?:"}${inner})`;
  }

  /** Outside of classes. */
  private escape(fold: boolean): string {
    const group = this.take(/\\([1-9])(?!\d)/y)?.[1];
    if (group) return `\\k<group${group}>`;
    const anchor = this.take(/\\([AzZbBRKGX1-9gk])/y)?.[1];
    if (anchor === "A") return "(?<![\\s\\S])";
    if (anchor === "z") return "(?![\\s\\S])";
    if (anchor === "Z") return "(?=\\n?(?![\\s\\S]))";
    if (anchor === "R") return "(?:\\r\\n|[\\n-\\r\\x85\\u2028\\u2029])";
    if (anchor === "b") return `(?:(?<=[${WORD}])(?![${WORD}])|(?<![${WORD}])(?=[${WORD}]))`;
    if (anchor === "B") return `(?:(?<=[${WORD}])(?=[${WORD}])|(?<![${WORD}])(?![${WORD}]))`;
    if (anchor) this.fail(`\\${anchor}`);
    const word = this.take(/\\([wW])/y)?.[1];
    // Outside of classes it has these of Latin-1 too.
    if (word) return `[${word === "W" ? "^" : ""}${WORD}\\xb2\\xb3\\xb9\\xbc-\\xbe]`;
    const set = this.set();
    return set ? `[${set}]` : this.literal(this.escaped(), fold);
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

  private class(fold: boolean): string {
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
