/**
 * SentencePiece's compiled normalisation rules: a double-array trie (darts-clone) from byte sequences to offsets of texts that
 * end with a zero byte. https://github.com/google/sentencepiece/blob/master/src/normalizer.cc
 */
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { ignoreBOM: true });

const offset = (unit: number): number => ((unit >>> 10) << ((unit & 0x200) >>> 6)) >>> 0;

export class Charsmap {
  private constructor(
    private readonly trie: Uint32Array,
    private readonly texts: Uint8Array,
  ) {}

  /** null where the bytes are not whole. */
  static read(bytes: Uint8Array): Charsmap | null {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = bytes.length < 4 ? 0 : view.getUint32(0, true);
    if (size === 0 || size % 4 !== 0 || size + 4 > bytes.length) return null;
    return new Charsmap(
      Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true)),
      bytes.subarray(4 + size),
    );
  }

  /** Lengths in bytes of the rules that `bytes` begins with at `at`, with the offsets of their texts, the shortest first. */
  private *prefixes(bytes: Uint8Array, at: number): Generator<[length: number, value: number]> {
    const { trie } = this;
    let node = offset(trie[0]!);
    for (let i = at; i < bytes.length && bytes[i] !== 0; i++) {
      node = (node ^ bytes[i]!) >>> 0;
      const unit = trie[node];
      if (unit === undefined || (unit & 0x800000ff) >>> 0 !== bytes[i]) return;
      node = (node ^ offset(unit)) >>> 0;
      if (unit & 0x100) yield [i - at + 1, (trie[node] ?? 0) & 0x7fffffff];
    }
  }

  private text_at(start: number): string {
    const end = this.texts.indexOf(0, start);
    return text.decode(this.texts.subarray(start, end < 0 ? this.texts.length : end));
  }

  /** The longest rule at a place, as SentencePiece applies it; null where there is none. */
  longest(bytes: Uint8Array, at: number): { length: number; text: string } | null {
    let found: [number, number] | null = null;
    for (const one of this.prefixes(bytes, at)) found = one;
    return found && { length: found[0], text: this.text_at(found[1]) };
  }

  /** The `tokenizers` library's way: the shortest rule, of a short grapheme as a whole or of each character. */
  by_grapheme(given: string): string {
    const replaced = (part: string): string | null => {
      const [first] = this.prefixes(utf8.encode(part), 0);
      return first ? this.text_at(first[1]) : null;
    };
    let out = "";
    for (const { segment } of GRAPHEMES.segment(given)) {
      const whole = utf8.encode(segment).length < 6 ? replaced(segment) : null;
      out += whole ?? Array.from(segment, (one) => replaced(one) ?? one).join("");
    }
    return out;
  }
}

const GRAPHEMES = new Intl.Segmenter("en", { granularity: "grapheme" });
