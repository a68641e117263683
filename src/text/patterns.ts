/** What normalizers, pre-tokenizers and decoders look for in a text: texts, expressions of tokenizer.json, and classes of their own. */
import { SPACES, WORD } from "./regex/classes.js";
import { Matcher, TooManySteps } from "./regex/matcher.js";
import { compile } from "./regex/nodes.js";
import { parse } from "./regex/parser.js";

/** Something to look for. */
export interface Pattern {
  /** Begins and ends of all matches, in one list; no empty one where the last ended. */
  all(text: string): number[];
  /** The text with something else at each match, and how far a match at its very beginning reached; 0 where there is none. */
  replace(text: string, by: string): { text: string; begins: number };
}

/** A pattern that is known by its matches. */
const matching = (all: Pattern["all"]): Pattern => ({
  all,
  replace(text, by) {
    const found = all(text);
    if (found.length === 0) return { text, begins: 0 };
    let [out, last] = ["", 0];
    for (let i = 0; i < found.length; i += 2) {
      out += text.slice(last, found[i]) + by;
      last = found[i + 1]!;
    }
    return { text: out + text.slice(last), begins: found[0] === 0 ? found[1]! : 0 };
  },
});

/** White space as Rust and Oniguruma have it: with U+0085, without U+FEFF. */
export const is_space = (character: string): boolean => SPACE.test(character);
const SPACE = new RegExp(`^[${SPACES}]$`, "v");

/** What Rust's `\w` matches. */
export const is_word = (character: string): boolean => RUST_WORD.test(character);
const RUST_WORD = new RegExp(`^[${WORD}\\p{Join_Control}]$`, "v");

/** One of the project's own, for JavaScript's engine. */
const own = (expression: RegExp): Pattern =>
  matching((text) => {
    const found: number[] = [];
    for (const { 0: match, index } of text.matchAll(expression)) found.push(index, index + match.length);
    return found;
  });

/** Punctuation as the library's splitters see it. */
export const PUNCTUATION = own(/[!-/:-@[-`{-~\p{P}]/gu);
export const NUMBER = own(/\p{N}/gu);
export const SPACE_CHARACTER = own(new RegExp(`[${SPACES}]`, "gv"));
export const WORDS = own(new RegExp(`[${WORD}\\p{Join_Control}]+|[^${WORD}\\p{Join_Control}${SPACES}]+`, "gv"));
/** `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` */
export const GPT2 = own(
  new RegExp(
    `'(?:s|t|re|ve|m|ll|d)| ?\\p{L}+| ?\\p{N}+| ?[^${SPACES}\\p{L}\\p{N}]+|[${SPACES}]+(?![^${SPACES}])|[${SPACES}]+`,
    "gv",
  ),
);
export const of_length = (length: number): Pattern => own(new RegExp(`[\\s\\S]{1,${length}}`, "gv"));

/** A text as it stands. */
export function literal_pattern(wanted: string): Pattern {
  return {
    all(text) {
      const found: number[] = [];
      if (wanted === "") return found;
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length))
        found.push(at, at + wanted.length);
      return found;
    },
    // Of megabytes in a third of the time that a walk through all matches takes.
    replace: (text, by) => ({
      text: wanted === "" ? text : text.split(wanted).join(by),
      begins: wanted !== "" && text.startsWith(wanted) ? wanted.length : 0,
    }),
  };
}

/**
 * A regular expression of tokenizer.json.
 * @param refuse is told of an expression that takes too long on a text
 * @throws SyntaxError that names what is not supported
 */
export function regex_pattern(source: string, refuse: (given: string) => never): Pattern {
  const { node, groups } = parse(source);
  const { program, slots } = compile(node, groups);
  const matcher = new Matcher(program, slots);
  return matching((text) => {
    try {
      return matcher.all(text);
    } catch (error) {
      if (!(error instanceof TooManySteps)) throw error;
      return refuse(`a regular expression that takes too long on ${text.length} characters: ${source.slice(0, 120)}`);
    }
  });
}
