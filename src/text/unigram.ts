/** Unigram language models (T5, XLM-R, SentencePiece): the cut of a text whose pieces have the best total score. */
import type { Model } from "./bpe.js";

export interface UnigramModel {
  /** Pieces with their scores, by id. */
  pieces: readonly (readonly [string, number])[];
  unknown: () => number;
  byte_fallback: boolean;
  /** The ids of `<0x00>` and its like, where a text never becomes them otherwise. */
  byte_ids?: ReadonlyMap<string, number>;
  /** Pieces that a text never becomes. */
  blocked: ReadonlySet<string>;
  /** The least score of a piece, where some of `pieces` do not count. */
  least?: number;
}

const PENALTY = 10;
const utf8 = new TextEncoder();

export class Unigram implements Model {
  private readonly ids = new Map<string, number>();
  /** In the order of their UTF-16, so that a place in a text narrows a range of them character by character. */
  private readonly sorted: string[];
  private readonly unknown_score: number;

  constructor(private readonly model: UnigramModel) {
    for (const [id, [piece]] of model.pieces.entries()) if (!model.blocked.has(piece)) this.ids.set(piece, id);
    this.sorted = [...this.ids.keys()].filter((piece) => piece !== "").sort();
    const least = model.pieces.reduce((score, [, one]) => Math.min(score, one), Number.POSITIVE_INFINITY);
    this.unknown_score = (model.least ?? least) - PENALTY;
  }

  encode(text: string): readonly number[] {
    const unknown = -1;
    const scores = new Float64Array(text.length + 1);
    const starts = new Int32Array(text.length + 1).fill(-1);
    const chosen = new Int32Array(text.length + 1);
    const consider = (from: number, to: number, id: number, score: number): void => {
      const total = scores[from]! + score;
      if (starts[to]! >= 0 && total <= scores[to]!) return;
      [scores[to], starts[to], chosen[to]] = [total, from, id];
    };
    for (let at = 0, width = 1; at < text.length; at += width) {
      width = text.codePointAt(at)! > 0xffff ? 2 : 1;
      let single = false;
      for (const id of this.prefixes(text, at)) {
        const [piece, score] = this.model.pieces[id]!;
        single ||= piece.length === width;
        consider(at, at + piece.length, id, score);
      }
      if (!single) consider(at, at + width, unknown, this.unknown_score);
    }
    const path: [from: number, to: number, id: number][] = [];
    for (let to = text.length; to > 0; to = starts[to]!) {
      const last = path.at(-1);
      // Neighbours that are unknown are one.
      if (chosen[to] === unknown && last?.[2] === unknown) last[0] = starts[to]!;
      else path.push([starts[to]!, to, chosen[to]!]);
    }
    return path.reverse().flatMap(([from, to, id]) => (id === unknown ? this.unknown_piece(text.slice(from, to)) : id));
  }

  private unknown_piece(piece: string): number | number[] {
    const known = this.ids.get(piece);
    if (known !== undefined) return known;
    if (this.model.byte_fallback) {
      const hex = (byte: number) => byte.toString(16).toUpperCase().padStart(2, "0");
      const ids = this.model.byte_ids ?? this.ids;
      const bytes = Array.from(utf8.encode(piece), (byte) => ids.get(`<0x${hex(byte)}>`));
      if (!bytes.includes(undefined)) return bytes as number[];
    }
    return this.model.unknown();
  }

  /** The ids of the pieces that stand at a place, the shortest first. */
  private *prefixes(text: string, at: number): Generator<number> {
    const { sorted, ids } = this;
    let [low, high] = [0, sorted.length];
    for (let depth = 0; at + depth < text.length && low < high; depth++) {
      const code = text.charCodeAt(at + depth);
      low = this.bound(low, high, depth, code);
      high = this.bound(low, high, depth, code + 1);
      const piece = low < high ? sorted[low]! : "";
      if (piece.length === depth + 1) yield ids.get(piece)!;
    }
  }

  /** The first of a range whose character at `depth` is not less than `code`; a piece that has ended is less. */
  private bound(from: number, to: number, depth: number, code: number): number {
    let [low, high] = [from, to];
    while (low < high) {
      const middle = (low + high) >> 1;
      const piece = this.sorted[middle]!;
      if (piece.length <= depth || piece.charCodeAt(depth) < code) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
