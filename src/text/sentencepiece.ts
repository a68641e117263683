/** tokenizer.model: SentencePiece's own file, with its normaliser. https://github.com/google/sentencepiece */
import { as_float, as_text, type Field, fields } from "../protobuf.js";
import { Bpe, type Model, SPACE } from "./bpe.js";
import { Charsmap } from "./charsmap.js";
import { Component } from "./component.js";
import type { Normalizer } from "./normalizers.js";
import type { PrependScheme } from "./pre_tokenizers.js";
import { Trie } from "./trie.js";
import { Unigram } from "./unigram.js";

/** `SentencePiece.Type` */
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6];

/** What stands in the file, in its own words and with its own defaults. */
export interface SentencePieceFile {
  pieces: { piece: string; score: number; type: number }[];
  model_type: number;
  treat_whitespace_as_suffix: boolean;
  byte_fallback: boolean;
  charsmap: Charsmap | null;
  add_dummy_prefix: boolean;
  remove_extra_whitespaces: boolean;
  escape_whitespaces: boolean;
}

const message = (value: Field["value"]): Iterable<Field> => {
  if (typeof value === "number") throw new RangeError("a number where a message should be");
  return fields(value);
};

/** @throws BimedixError bad_tokenizer */
export function read_sentencepiece(bytes: Uint8Array, at: string): SentencePieceFile {
  const file: SentencePieceFile = {
    pieces: [],
    model_type: 1,
    treat_whitespace_as_suffix: false,
    byte_fallback: false,
    charsmap: null,
    add_dummy_prefix: true,
    remove_extra_whitespaces: true,
    escape_whitespaces: true,
  };
  const whole = new Component({}, at);
  // Files of tiktoken have the same name: base64 and a rank in each line.
  if (/^[A-Za-z0-9+/]+={0,2} \d+\r?\n/.test(Buffer.from(bytes.subarray(0, 200)).toString("latin1")))
    whole.refuse("in the format of tiktoken", "SentencePiece", "use the model's tokenizer.json");
  try {
    for (const { field, value } of fields(bytes)) {
      if (field === 1) file.pieces.push(read_piece(value));
      if (field === 2) read_trainer(value, file);
      if (field === 3) read_normalizer(value, file, whole);
      if (field === 5) {
        for (const part of message(value))
          if (part.field === 2 && typeof part.value !== "number" && part.value.length > 0)
            whole.refuse("a denormalizer", "none", "use the model's tokenizer.json");
      }
    }
  } catch (error) {
    if (error instanceof RangeError)
      whole.refuse("not a SentencePiece model, or cut short", "tokenizer.model as published");
    throw error;
  }
  if (file.pieces.length === 0) whole.refuse("no tokens", "a SentencePiece model");
  if (file.model_type !== 1 && file.model_type !== 2)
    whole.refuse(
      `a model of type ${["", "", "", "WORD", "CHAR"][file.model_type] ?? file.model_type}`,
      "BPE or Unigram",
    );
  if (file.pieces.some(({ type }) => type === UNUSED)) whole.refuse("pieces of type UNUSED", "none");
  return file;
}

function read_piece(value: Field["value"]): SentencePieceFile["pieces"][number] {
  const one = { piece: "", score: 0, type: NORMAL! };
  for (const part of message(value)) {
    if (part.field === 1) one.piece = as_text(part.value);
    if (part.field === 2) one.score = as_float(part.value);
    if (part.field === 3) one.type = Number(part.value);
  }
  return one;
}

function read_trainer(value: Field["value"], file: SentencePieceFile): void {
  for (const part of message(value)) {
    if (part.field === 3) file.model_type = Number(part.value);
    if (part.field === 24) file.treat_whitespace_as_suffix = part.value === 1;
    if (part.field === 35) file.byte_fallback = part.value === 1;
  }
}

function read_normalizer(value: Field["value"], file: SentencePieceFile, whole: Component): void {
  for (const part of message(value)) {
    if (part.field === 2 && typeof part.value !== "number" && part.value.length > 0)
      file.charsmap = Charsmap.read(part.value) ?? whole.refuse("a charsmap that is cut short", "a whole one");
    if (part.field === 3) file.add_dummy_prefix = part.value === 1;
    if (part.field === 4) file.remove_extra_whitespaces = part.value === 1;
    if (part.field === 5) file.escape_whitespaces = part.value === 1;
  }
}

/** What a text may become by its letters. */
const is_text = (type: number): boolean => type === NORMAL || type === USER_DEFINED;

const user_defined = (file: SentencePieceFile): string[] =>
  file.pieces.filter(({ type }) => type === USER_DEFINED).map(({ piece }) => piece);

/** Rules and user-defined pieces in order, each longest first; what neither knows is a character. */
function* replaced(text: string, charsmap: Charsmap | null, kept: Trie<true> | null): Generator<string> {
  const bytes = new TextEncoder().encode(text);
  const ends = (byte: number) => (byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4);
  for (let [at, byte] = [0, 0]; at < text.length; ) {
    const known = kept?.longest(text, at);
    const rule = known ? null : charsmap?.longest(bytes, byte);
    // A rule may take several characters: as many as it has bytes.
    let [taken, length] = [0, 0];
    while (known ? length < known.length : taken < (rule?.length ?? 1)) {
      const width = ends(bytes[byte + taken]!);
      taken += width;
      length += width === 4 ? 2 : 1;
    }
    yield rule ? rule.text : text.slice(at, at + length);
    at += length;
    byte += taken;
  }
}

/** @param prefix where the dummy prefix goes, when there is one: before every run between control tokens, or the first */
export function sentencepiece_normalizer(file: SentencePieceFile, prefix: PrependScheme): Normalizer {
  const space = file.escape_whitespaces ? SPACE : " ";
  const kept = user_defined(file);
  const trie = kept.length > 0 ? new Trie(kept.map((piece) => [piece, true] as const)) : null;
  const changes = file.charsmap !== null;
  return ({ text: given, first }) => {
    let text = given;
    if (changes || (trie && file.remove_extra_whitespaces)) text = squeezed(given, file, trie);
    else if (file.remove_extra_whitespaces) text = given.replace(/^ +/, "").replace(/ {2,}/g, " ");
    const escaped = without_end(text.replaceAll(" ", space), file.remove_extra_whitespaces ? space : "");
    const bare = escaped === "" || !file.add_dummy_prefix || prefix === "never" || (prefix === "first" && !first);
    if (bare) return { text: escaped, first };
    return { text: file.treat_whitespace_as_suffix ? escaped + space : space + escaped, first };
  };
}

function squeezed(text: string, file: SentencePieceFile, kept: Trie<true> | null): string {
  const parts: string[] = [];
  let after_space = file.remove_extra_whitespaces;
  for (const part of replaced(text, file.charsmap, kept)) {
    const rest = after_space ? part.replace(/^ +/, "") : part;
    if (rest !== "") {
      parts.push(rest);
      after_space = file.remove_extra_whitespaces && rest.endsWith(" ");
    }
  }
  return parts.join("");
}

function without_end(text: string, space: string): string {
  let to = text.length;
  if (space !== "") while (to > 0 && text[to - 1] === space) to--;
  return text.slice(0, to);
}

/** SentencePiece merges any pair whose concatenation is a piece, the best score first. */
function* merges_of(file: SentencePieceFile): Generator<[string, string, string, number]> {
  const pieces = file.pieces.filter(({ type }) => is_text(type));
  const known = new Set(pieces.map(({ piece }) => piece));
  const scores = [...new Set(pieces.map(({ score }) => score))].sort((a, b) => b - a);
  const ranks = new Map(scores.map((score, rank) => [score, rank]));
  for (const { piece, score } of pieces) {
    for (let at = 1; at < piece.length; at++) {
      const [left, right] = [piece.slice(0, at), piece.slice(at)];
      if (known.has(left) && known.has(right)) yield [left, right, piece, ranks.get(score)!];
    }
  }
}

export function sentencepiece_model(file: SentencePieceFile): Model {
  const unk = file.pieces.findIndex(({ type }) => type === UNKNOWN);
  const byte_ids = new Map(file.pieces.flatMap(({ piece, type }, id) => (type === BYTE ? [[piece, id] as const] : [])));
  if (file.model_type === 1) {
    const normal = file.pieces.filter(({ type }) => type === NORMAL).map(({ score }) => score);
    const least = normal.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY);
    const most = normal.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
    const bytes = (piece: string) => new TextEncoder().encode(piece).length;
    return new Unigram({
      pieces: file.pieces.map(({ piece, score, type }) => [
        piece,
        type === USER_DEFINED ? bytes(piece) * most - 0.1 : score,
      ]),
      blocked: new Set(file.pieces.filter(({ type }) => !is_text(type)).map(({ piece }) => piece)),
      byte_fallback: file.byte_fallback,
      byte_ids,
      unknown: () => unk,
      least,
    });
  }
  return new Bpe({
    ids: new Map(file.pieces.flatMap(({ piece, type }, id) => (is_text(type) ? [[piece, id] as const] : []))),
    byte_ids,
    merges: merges_of(file),
    unknown: () => unk,
    fuse_unk: true,
    byte_fallback: file.byte_fallback,
    frozen: user_defined(file),
  });
}

/** As the decoder of tokenizer.json that transformers makes for it. */
export function sentencepiece_decoder(file: SentencePieceFile, prefix: PrependScheme): object {
  const strips = prefix !== "never" && (file.add_dummy_prefix || file.remove_extra_whitespaces);
  return {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: SPACE }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      ...(strips ? [{ type: "Strip", content: " ", start: file.remove_extra_whitespaces ? 1e9 : 1, stop: 0 }] : []),
    ],
  };
}

export const special_pieces = (file: SentencePieceFile): { unk: number; special: number[] } => ({
  unk: file.pieces.findIndex(({ type }) => type === UNKNOWN),
  special: [...file.pieces.keys()].filter((id) => [UNKNOWN, CONTROL].includes(file.pieces[id]!.type)),
});
