/** Normalizers of tokenizer.json: one record each, by the library's name. */
import { BYTE_TO_CHARACTER } from "./byte_level.js";
import { Charsmap } from "./charsmap.js";
import { type Component, make, type Table } from "./component.js";
import { is_space, literal_pattern, type Pattern, regex_pattern } from "./patterns.js";

/** A part of a text. */
export interface Piece {
  text: string;
  /** Whether it begins the whole text, with nothing cut off before it and no added token there: what `first` of Metaspace asks. */
  first: boolean;
}

export type Normalizer = (piece: Piece) => Piece;

const plain =
  (change: (text: string) => string): Normalizer =>
  ({ text, first }) => ({ text: change(text), first });

/** Takes away what `pattern` matches; what then begins the text did not begin the whole one. */
const without = (pattern: RegExp, change: (text: string) => string = (text) => text): Normalizer => {
  return ({ text, first }) => ({
    text: change(text.replace(pattern, "")),
    first: first && text.search(pattern) !== 0,
  });
};

/** The `pattern` of Replace and Split: `{ String }` or `{ Regex }`. */
export function read_pattern(part: Component): Pattern {
  const pattern = part.part("pattern") ?? part.refuse("no pattern", "a String or a Regex");
  if (pattern.has("String")) return literal_pattern(pattern.text("String"));
  const source = pattern.text("Regex");
  try {
    return regex_pattern(source, (given) =>
      pattern.refuse(given, "one that does not go back as often", "use another tokenizer"),
    );
  } catch (error) {
    return part.refuse(`not supported: ${(error as Error).message}`, "a regular expression", "use another tokenizer");
  }
}

/** Case by character, as Rust has it: JavaScript's sigma knows the end of a word. */
const lowercase = (text: string): string =>
  text.includes("\u03a3") ? Array.from(text, (one) => one.toLowerCase()).join("") : text.toLowerCase();

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

function bert(part: Component): Normalizer {
  const [clean, chinese, lower] = [part.flag("clean_text"), part.flag("handle_chinese_chars"), part.flag("lowercase")];
  const accents = part.has("strip_accents") ? part.flag("strip_accents") : lower;
  const spaces = (text: string) => text.replace(/[\t\n\r\p{White_Space}]/gu, " ");
  return in_order([
    ...(clean ? [without(/[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/gu, spaces)] : []),
    ...(chinese ? [plain((text) => text.replace(CHINESE, " $& "))] : []),
    ...(accents ? [plain((text) => text.normalize("NFD")), without(/\p{Mn}/gu)] : []),
    ...(lower ? [plain(lowercase)] : []),
  ]);
}

function strip(text: string, left: boolean, right: boolean): string {
  const all = Array.from(text);
  let [from, to] = [0, all.length];
  if (left) while (from < to && is_space(all[from]!)) from++;
  if (right) while (to > from && is_space(all[to - 1]!)) to--;
  return from === 0 && to === all.length ? text : all.slice(from, to).join("");
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is removed
const NMT_REMOVED = /[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]/g;
const NMT_SPACES = /[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g;

/** Each on what the one before made. */
const in_order =
  (all: readonly Normalizer[]): Normalizer =>
  (piece) =>
    all.reduce((done, one) => one(done), piece);

const unicode = (form: string) => () => plain((text) => text.normalize(form));

function replace(part: Component): Normalizer {
  const [pattern, content] = [read_pattern(part), part.text("content")];
  return ({ text, first }) => {
    const { text: out, begins } = pattern.replace(text, content);
    // What stands for several characters has the place of the last.
    const moved = first && begins > 0 && [...text.slice(0, begins)].length > (content === "" ? 0 : 1);
    return { text: out, first: first && !moved };
  };
}

const bytes = (text: string): string =>
  Array.from(new TextEncoder().encode(text), (byte) => BYTE_TO_CHARACTER[byte]).join("");

const NORMALIZERS: Table<Normalizer> = {
  BertNormalizer: bert,
  ByteLevel: () => plain(bytes),
  Lowercase: () => plain(lowercase),
  NFC: unicode("NFC"),
  NFD: unicode("NFD"),
  NFKC: unicode("NFKC"),
  NFKD: unicode("NFKD"),
  Nmt: () => without(NMT_REMOVED, (text) => text.replace(NMT_SPACES, " ")),
  Precompiled: (part) => {
    const map = Charsmap.read(Buffer.from(part.text("precompiled_charsmap"), "base64"));
    if (!map) return part.refuse("a precompiled_charsmap that is cut short", "a whole one");
    return plain((text) => map.by_grapheme(text));
  },
  Prepend: (part) => {
    const prepend = part.text("prepend");
    return plain((text) => (text === "" ? text : prepend + text));
  },
  Replace: replace,
  Sequence: (part) => in_order(part.parts("normalizers").map(read_normalizer)),
  Strip: (part) => {
    const [left, right] = [part.flag("strip_left"), part.flag("strip_right")];
    return ({ text, first }) => ({
      text: strip(text, left, right),
      first: first && !(left && text !== "" && is_space(text[0]!)),
    });
  },
  StripAccents: () => without(/\p{M}/gu),
};

/** @throws BimedixError bad_tokenizer */
export function read_normalizer(part: Component | null): Normalizer {
  return part ? make(part, "the normalizer", NORMALIZERS) : (piece) => piece;
}
