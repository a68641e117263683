/** Pre-tokenizers of tokenizer.json: one record each, by the library's name. They cut a text into the pieces that the model reads. */
import { BYTE_TO_CHARACTER } from "./byte_level.js";
import { type Component, make, type Table } from "./component.js";
import { type Piece, read_pattern } from "./normalizers.js";
import {
  GPT2,
  literal_pattern,
  NUMBER,
  of_length,
  type Pattern,
  PUNCTUATION,
  SPACE_CHARACTER,
  WORDS,
} from "./patterns.js";

export type PreTokenizer = (pieces: readonly Piece[]) => readonly Piece[];

/** A part of a text, and whether the pattern matched it. */
type Span = { from: number; to: number; match: boolean };

function find(text: string, pattern: Pattern, invert: boolean): Span[] {
  const spans: Span[] = [];
  let last = 0;
  const add = (from: number, to: number, match: boolean) => spans.push({ from, to, match: match !== invert });
  const found = pattern.all(text);
  for (let i = 0; i < found.length; i += 2) {
    const [from, to] = [found[i]!, found[i + 1]!];
    if (from > last) add(last, from, false);
    add(from, to, true);
    last = to;
  }
  if (last < text.length) add(last, text.length, false);
  return spans;
}

type Behavior = (spans: Span[]) => Span[];

/** A matching span joins the one before it, unless that is a match too. */
const merged = (spans: readonly Span[], joins: (span: Span, before: boolean) => boolean): Span[] => {
  const out: Span[] = [];
  let before = false;
  for (const span of spans) {
    const last = out.at(-1);
    if (last && joins(span, before)) {
      last.from = Math.min(last.from, span.from);
      last.to = Math.max(last.to, span.to);
    } else out.push({ ...span });
    before = span.match;
  }
  return out;
};

const BEHAVIORS: Readonly<Record<string, Behavior>> = {
  Removed: (spans) => spans.filter(({ match }) => !match),
  Isolated: (spans) => spans,
  Contiguous: (spans) => merged(spans, (span, before) => span.match === before),
  MergedWithPrevious: (spans) => merged(spans, (span, before) => span.match && !before),
  MergedWithNext: (spans) => merged(spans.toReversed(), (span, before) => span.match && !before).reverse(),
};

function read_behavior(part: Component, fallback?: string): Behavior {
  const name = part.text("behavior", fallback);
  return Object.hasOwn(BEHAVIORS, name)
    ? BEHAVIORS[name]!
    : part.refuse(`the behavior ${name}`, Object.keys(BEHAVIORS).join(", "));
}

function cut(pieces: readonly Piece[], pattern: Pattern, behavior: Behavior, invert = false): Piece[] {
  const out: Piece[] = [];
  for (const { text, first } of pieces) {
    for (const { from, to } of behavior(find(text, pattern, invert))) {
      if (to > from) out.push({ text: text.slice(from, to), first: first && from === 0 });
    }
  }
  return out;
}

const each = (pieces: readonly Piece[], change: (piece: Piece) => string): Piece[] =>
  pieces.map((piece) => ({ text: change(piece), first: piece.first }));

function byte_level(part: Component): PreTokenizer {
  const [prefix, regex] = [part.flag("add_prefix_space"), part.flag("use_regex", true)];
  const utf8 = new TextEncoder();
  return (pieces) => {
    const spaced = prefix ? each(pieces, ({ text }) => (text.startsWith(" ") ? text : ` ${text}`)) : pieces;
    const words = regex ? cut(spaced, GPT2, BEHAVIORS.Isolated!) : spaced;
    return each(words, ({ text }) => {
      let out = "";
      for (const byte of utf8.encode(text)) out += BYTE_TO_CHARACTER[byte];
      return out;
    });
  };
}

export type PrependScheme = "always" | "first" | "never";

/** Old files have `add_prefix_space` alone. */
export function prepend_scheme(part: Component): PrependScheme {
  const never = part.has("add_prefix_space") && !part.flag("add_prefix_space");
  const scheme = part.text("prepend_scheme", never ? "never" : "always");
  if (scheme !== "always" && scheme !== "first" && scheme !== "never")
    return part.refuse(`prepend_scheme ${scheme}`, "always, first or never");
  return never && scheme !== "never" ? part.refuse(`add_prefix_space false with ${scheme}`, "never") : scheme;
}

function metaspace(part: Component): PreTokenizer {
  const [space, scheme, split] = [part.character("replacement"), prepend_scheme(part), part.flag("split", true)];
  const pattern = literal_pattern(space);
  return (pieces) => {
    const spaced = each(pieces, ({ text, first }) => {
      const replaced = text.replaceAll(" ", space);
      const prepends = scheme === "always" || (scheme === "first" && first);
      return prepends && !replaced.startsWith(space) ? space + replaced : replaced;
    });
    return split ? cut(spaced, pattern, BEHAVIORS.MergedWithNext!) : spaced;
  };
}

const PRE_TOKENIZERS: Table<PreTokenizer> = {
  BertPreTokenizer: () => (pieces) =>
    cut(cut(pieces, SPACE_CHARACTER, BEHAVIORS.Removed!), PUNCTUATION, BEHAVIORS.Isolated!),
  ByteLevel: byte_level,
  CharDelimiterSplit: (part) => {
    const pattern = literal_pattern(part.character("delimiter"));
    return (pieces) => cut(pieces, pattern, BEHAVIORS.Removed!);
  },
  Digits: (part) => {
    const behavior = part.flag("individual_digits") ? BEHAVIORS.Isolated! : BEHAVIORS.Contiguous!;
    return (pieces) => cut(pieces, NUMBER, behavior);
  },
  FixedLength: (part) => {
    const length = part.count("length", 5) || part.refuse("the length 0", "at least 1");
    return (pieces) => cut(pieces, of_length(length), BEHAVIORS.Isolated!);
  },
  Metaspace: metaspace,
  Punctuation: (part) => {
    const behavior = read_behavior(part, "Isolated");
    return (pieces) => cut(pieces, PUNCTUATION, behavior);
  },
  Sequence: (part) => {
    const all = part.parts("pretokenizers").map(read_pre_tokenizer);
    return (pieces) => all.reduce((done, one) => one(done), pieces);
  },
  Split: (part) => {
    const [pattern, behavior, invert] = [read_pattern(part), read_behavior(part), part.flag("invert")];
    return (pieces) => cut(pieces, pattern, behavior, invert);
  },
  Whitespace: () => (pieces) => cut(pieces, WORDS, BEHAVIORS.Removed!, true),
  WhitespaceSplit: () => (pieces) => cut(pieces, SPACE_CHARACTER, BEHAVIORS.Removed!),
};

/** @throws BimedixError bad_tokenizer */
export function read_pre_tokenizer(part: Component | null): PreTokenizer {
  return part ? make(part, "the pre-tokenizer", PRE_TOKENIZERS) : (pieces) => pieces;
}
