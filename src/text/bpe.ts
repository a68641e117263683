/**
 * Byte-pair encoding: a text is one run of characters, and the adjacent pair with the best rank is merged first, the leftmost
 * among equals. A character that the vocabulary lacks becomes its UTF-8 bytes, or the unknown token.
 *
 * Written here because the library for this (@huggingface/tokenizers) reads no SentencePiece file, always turns `</s>` in a
 * user's text into the control token, and is several times slower (docs/log.md). A heap of candidate pairs keeps a word of
 * a megabyte from taking quadratic time.
 */
import { BYTE_TO_CHARACTER } from "./byte_level.js";
import { Trie } from "./trie.js";

export const SPACE = "\u2581";

/** What makes tokens of a piece of text. */
export interface Model {
  encode(text: string): readonly number[];
  /** The most characters (UTF-16 units) of a text that one token stands for. Infinity where an unknown one stands for any number. */
  readonly most_characters?: number;
}

export interface BpeModel {
  ids: ReadonlyMap<string, number>;
  /** The ids of `<0x00>` and its like, where a text never becomes them otherwise. Default: those of `ids`. */
  byte_ids?: ReadonlyMap<string, number>;
  /** Pairs to merge, what they become, and their rank: the least is first. */
  merges: Iterable<readonly [left: string, right: string, merged: string, rank: number]>;
  /** The id of the unknown token; null: an unknown character without bytes leaves nothing. */
  unknown: (() => number) | null;
  /** Neighbours that are unknown become one token. */
  fuse_unk?: boolean;
  byte_fallback?: boolean;
  /** A whole piece that is in the vocabulary is that token. */
  ignore_merges?: boolean;
  /** Stands in the vocabulary before each character but the first. */
  continuing_subword_prefix?: string;
  /** Stands in the vocabulary behind the last character. */
  end_of_word_suffix?: string;
  /** Texts that are always one token and never merge: SentencePiece's user-defined pieces. */
  frozen?: readonly string[];
}

/** Words of ordinary text repeat: their ids are remembered, within this many entries. */
const MEMORY = 20_000;

const PAIR = 2 ** 24;
/** Added to the id of a symbol that merges with nothing. */
const FROZEN = 2 ** 23;
const GONE = -1;
const utf8 = new TextEncoder();

export class Bpe implements Model {
  /** `left * 2^24 + right` to a place in `ranks` and `merged`. */
  private readonly pairs = new Map<number, number>();
  private readonly ranks: number[] = [];
  private readonly merged: number[] = [];
  /** What the first pair of each rank becomes. */
  private readonly becomes: number[] = [];
  private readonly bytes: (number | undefined)[];
  private readonly memory = new Map<string, readonly number[]>();
  /** Where no piece has a space after something else, no merge crosses the beginning of a word. */
  private readonly words: RegExp | null;
  private readonly frozen: Trie<number> | null;
  readonly most_characters: number;

  /** @throws RangeError that names a merge of tokens that are not in the vocabulary */
  constructor(private readonly model: BpeModel) {
    const { ids, merges, continuing_subword_prefix: prefix, end_of_word_suffix: suffix } = model;
    for (const [left, right, whole, rank] of merges) {
      const [a, b, ab] = [ids.get(left), ids.get(right), ids.get(whole)];
      if (a === undefined || b === undefined || ab === undefined)
        throw new RangeError(`the merge of ${left} and ${right}`);
      this.pairs.set(a * PAIR + b, this.merged.length);
      this.ranks.push(rank);
      this.merged.push(ab);
      this.becomes[rank] = ab;
    }
    const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, "0");
    this.bytes = Array.from({ length: model.byte_fallback ? 256 : 0 }, (_, byte) =>
      (model.byte_ids ?? ids).get(`<0x${hex(byte)}>`),
    );
    // Where every byte is a token, or every character that stands for one, nothing is unknown.
    const complete =
      (this.bytes.length > 0 && !this.bytes.includes(undefined)) ||
      Array.from(BYTE_TO_CHARACTER).every((character) => ids.has(character));
    let longest = 2;
    for (const piece of ids.keys()) longest = Math.max(longest, piece.length);
    this.most_characters = complete ? longest : Number.POSITIVE_INFINITY;
    // A character that leaves nothing lets its neighbours merge.
    const leaves_nothing = !model.unknown && !model.byte_fallback;
    const whole = model.ignore_merges || prefix || suffix || leaves_nothing || !ids.has(SPACE);
    const crossing = () => Array.from(ids.keys()).some((piece) => /[^\u2581]\u2581/u.test(piece));
    this.words = whole || crossing() ? null : /\u2581*[^\u2581]*/gu;
    this.frozen = model.frozen?.length ? new Trie(model.frozen.map((text) => [text, ids.get(text)! + FROZEN])) : null;
  }

  encode(text: string): readonly number[] {
    if (!this.words) return this.word(text);
    const out: number[] = [];
    for (const [word] of text.matchAll(this.words)) for (const id of this.word(word)) out.push(id);
    return out;
  }

  private word(word: string): readonly number[] {
    const known = this.memory.get(word);
    if (known) return known;
    const whole = this.model.ignore_merges ? this.model.ids.get(word) : undefined;
    const ids = whole === undefined ? this.merge(word) : [whole];
    if (this.memory.size >= MEMORY) this.memory.clear();
    if (word.length < 64) this.memory.set(word, ids);
    return ids;
  }

  private merge(word: string): number[] {
    const { pairs, ranks, merged, becomes } = this;
    const symbols = this.symbols(word);
    const count = symbols.length;
    const next = Int32Array.from({ length: count }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const pair_at = (at: number): number | undefined => {
      const after = next[at]!;
      return after < count ? pairs.get(symbols[at]! * PAIR + symbols[after]!) : undefined;
    };
    const heap = new Heap();
    const consider = (at: number): void => {
      const pair = at < 0 ? undefined : pair_at(at);
      if (pair !== undefined) heap.push(ranks[pair]! * PAIR + at);
    };
    for (let at = 0; at < count; at++) consider(at);
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const [at, rank] = [top % PAIR, Math.floor(top / PAIR)];
      const pair = symbols[at] === GONE ? undefined : pair_at(at);
      // A pair that an earlier merge took apart is still in the heap. What now stands there counts if it becomes the same.
      if (pair === undefined || (ranks[pair] !== rank && merged[pair] !== becomes[rank])) continue;
      const after = next[at]!;
      symbols[at] = merged[pair]!;
      symbols[after] = GONE;
      next[at] = next[after]!;
      if (next[at]! < count) previous[next[at]!] = at;
      consider(at);
      consider(previous[at]!);
    }
    return symbols.filter((symbol) => symbol !== GONE).map((symbol) => (symbol >= FROZEN ? symbol - FROZEN : symbol));
  }

  private symbols(word: string): number[] {
    const { ids, unknown, fuse_unk, continuing_subword_prefix = "", end_of_word_suffix = "" } = this.model;
    const symbols: number[] = [];
    let pending = false;
    for (let at = 0, length = 1; at < word.length; at += length) {
      const frozen = this.frozen?.longest(word, at);
      length = frozen ? frozen.length : word.codePointAt(at)! > 0xffff ? 2 : 1;
      const character = word.slice(at, at + length);
      const piece =
        (at > 0 ? continuing_subword_prefix : "") + character + (at + length === word.length ? end_of_word_suffix : "");
      const id = frozen?.value ?? ids.get(piece);
      const bytes =
        id === undefined && this.bytes.length > 0 ? Array.from(utf8.encode(piece), (byte) => this.bytes[byte]) : [];
      if (id !== undefined) {
        if (pending) symbols.push(unknown!());
        pending = false;
        symbols.push(id);
      } else if (bytes.length > 0 && !bytes.includes(undefined)) symbols.push(...(bytes as number[]));
      else if (unknown) {
        if (pending && !fuse_unk) symbols.push(unknown());
        pending = true;
      }
    }
    if (pending) symbols.push(unknown!());
    return symbols;
  }
}

/** The least number first. */
class Heap {
  private readonly items: number[] = [];

  push(item: number): void {
    const { items } = this;
    let at = items.length;
    while (at > 0) {
      const up = (at - 1) >> 1;
      if (items[up]! <= item) break;
      items[at] = items[up]!;
      at = up;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const { items } = this;
    const top = items[0];
    const last = items.pop();
    if (items.length === 0 || last === undefined) return top;
    let at = 0;
    for (let down = 1; down < items.length; down = 2 * at + 1) {
      if (down + 1 < items.length && items[down + 1]! < items[down]!) down++;
      if (items[down]! >= last) break;
      items[at] = items[down]!;
      at = down;
    }
    items[at] = last;
    return top;
  }
}
