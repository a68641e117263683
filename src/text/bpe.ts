/**
 * Byte-pair encoding as SentencePiece does it for Llama and Mixtral: spaces become U+2581, the text is one run of characters,
 * and the adjacent pair with the best rank is merged first, the leftmost among equals. A character that the vocabulary
 * lacks becomes its UTF-8 bytes.
 *
 * Written here because the library for this (@huggingface/tokenizers) reads no SentencePiece file, always turns `</s>` in a
 * user's text into the control token, and is several times slower (docs/log.md). A heap of candidate pairs keeps a word of
 * a megabyte from taking quadratic time.
 */
export const SPACE = "\u2581";

export interface BpeModel {
  /** The text of each id; `<0x41>` for bytes. */
  pieces: string[];
  /** Pairs to merge, best first. */
  merges: Iterable<readonly [string, string]>;
  /** Ids that text never becomes: control tokens. */
  control: ReadonlySet<number>;
  unk_token_id: number;
}

/** Words of ordinary text repeat: their ids are remembered, within this many entries. */
const MEMORY = 20_000;

export class Bpe {
  private readonly ids = new Map<string, number>();
  /** `left * 2^24 + right` to the rank of their merge. */
  private readonly ranks = new Map<number, number>();
  private readonly merged: number[] = [];
  private readonly bytes: (number | undefined)[];
  private readonly memory = new Map<string, readonly number[]>();
  /** Where no piece has a space after something else, no merge crosses the beginning of a word. */
  private readonly words: RegExp;
  private readonly unk: number;

  constructor({ pieces, merges, control, unk_token_id }: BpeModel) {
    this.unk = unk_token_id;
    for (const [id, piece] of pieces.entries()) if (!control.has(id)) this.ids.set(piece, id);
    for (const [left, right] of merges) {
      const [a, b, ab] = [this.ids.get(left), this.ids.get(right), this.ids.get(left + right)];
      if (a === undefined || b === undefined || ab === undefined) continue;
      const key = a * PAIR + b;
      if (!this.ranks.has(key)) this.ranks.set(key, this.merged.length);
      this.merged.push(ab);
    }
    const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, "0");
    this.bytes = Array.from({ length: 256 }, (_, byte) => this.ids.get(`<0x${hex(byte)}>`));
    for (const byte of this.bytes.keys()) this.ids.delete(`<0x${hex(byte)}>`);
    const crossing = pieces.some((piece) => /[^\u2581]\u2581/u.test(piece));
    this.words = crossing ? /[\s\S]+/g : /\u2581*[^\u2581]*/gu;
  }

  /** The ids of a text in which spaces are already U+2581. */
  encode(text: string): number[] {
    const out: number[] = [];
    for (const [word] of text.toWellFormed().matchAll(this.words)) {
      let ids = this.memory.get(word);
      if (!ids) {
        ids = this.merge(word);
        if (this.memory.size >= MEMORY) this.memory.clear();
        if (word.length < 64) this.memory.set(word, ids);
      }
      for (const id of ids) out.push(id);
    }
    return out;
  }

  private merge(word: string): number[] {
    const symbols = this.characters(word);
    const count = symbols.length;
    const next = Int32Array.from({ length: count }, (_, i) => i + 1);
    const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
    const rank_at = (at: number): number | undefined => {
      const after = next[at]!;
      return after < count ? this.ranks.get(symbols[at]! * PAIR + symbols[after]!) : undefined;
    };
    const heap = new Heap();
    const consider = (at: number): void => {
      const rank = at < 0 ? undefined : rank_at(at);
      if (rank !== undefined) heap.push(rank * PAIR + at);
    };
    for (let at = 0; at < count; at++) consider(at);
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const at = top % PAIR;
      // A pair that an earlier merge took apart is still in the heap: it no longer has the rank that it was put in with.
      if (symbols[at] === GONE || rank_at(at) !== Math.floor(top / PAIR)) continue;
      const after = next[at]!;
      symbols[at] = this.merged[Math.floor(top / PAIR)]!;
      symbols[after] = GONE;
      next[at] = next[after]!;
      if (next[at]! < count) previous[next[at]!] = at;
      consider(at);
      consider(previous[at]!);
    }
    return symbols.filter((symbol) => symbol !== GONE);
  }

  private characters(word: string): number[] {
    const symbols: number[] = [];
    for (const character of word) {
      const id = this.ids.get(character);
      if (id !== undefined) symbols.push(id);
      else for (const byte of utf8.encode(character)) symbols.push(this.bytes[byte] ?? this.unk);
    }
    return symbols;
  }
}

const PAIR = 2 ** 24;
const GONE = -1;
const utf8 = new TextEncoder();

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
