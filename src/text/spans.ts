/** Which characters of a text each of its tokens stands for. */

/** From a place up to another, in UTF-16 units. */
export interface Span {
  start: number;
  end: number;
}

/**
 * The characters of `text` that each token stands for. Exact where the tokens' bytes spell the text, or its normalised form and
 * normalising changes each character by itself; else in proportion to the bytes. A space that was put in front stands for no character.
 *
 * @param normalized what the tokens were made from
 * @param normalize of a character in the middle of a text
 */
export function token_spans(
  text: string,
  normalized: string,
  tokens: readonly Uint8Array[],
  normalize: (text: string) => string,
): Span[] {
  const bytes = Buffer.concat(tokens);
  const exact = along(text, bytes, tokens);
  if (exact) return exact;
  const place = alignment(text, normalized, normalize);
  const spans = along(normalized.replaceAll("\u2581", " "), bytes, tokens);
  if (spans) return spans.map(({ start, end }) => ({ start: place(start), end: place(end) }));
  let done = 0;
  return tokens.map(({ length }) => {
    const at = (count: number) => Math.round((count / Math.max(1, bytes.length)) * text.length);
    done += length;
    return { start: at(done - length), end: at(done) };
  });
}

/** The spans of tokens whose bytes are the text's; null where they are others. A character in parts belongs to each of its tokens. */
function along(text: string, bytes: Buffer, tokens: readonly Uint8Array[]): Span[] | null {
  const own = Buffer.from(text);
  const prefix = bytes.length - own.length;
  if ((prefix !== 0 && !(prefix === 1 && bytes[0] === 32)) || !bytes.subarray(prefix).equals(own)) return null;
  let [from, behind] = [0, -prefix];
  return tokens.map(({ length }) => {
    behind += length;
    let to = from;
    while (to < text.length && behind > 0) {
      const code = text.codePointAt(to)!;
      const width = code > 0xffff ? 4 : code > 0x7ff ? 3 : code > 0x7f ? 2 : 1;
      if (behind < width) break;
      behind -= width;
      to += code > 0xffff ? 2 : 1;
    }
    const span = { start: from, end: behind > 0 ? to + 1 : to };
    from = to;
    return span;
  });
}

/** From a place in the normalised text to the place in the text. */
export function alignment(
  text: string,
  normalized: string,
  normalize: (text: string) => string,
): (place: number) => number {
  if (text === normalized) return (place) => place;
  // What is put in front of every text is not part of a character's form.
  const [, front = ""] = /^(.*)x$/su.exec(normalize("x")) ?? [];
  const bare = (part: string) => (part.startsWith(front) ? part.slice(front.length) : part);
  const ends: number[] = [];
  const places: number[] = [];
  let joined = "";
  for (const { segment, index } of new Intl.Segmenter().segment(text)) {
    joined += bare(normalize(segment));
    ends.push(joined.length);
    places.push(index + segment.length);
  }
  const shift = normalized.length - joined.length;
  if (shift < 0 || !normalized.endsWith(joined))
    return (place) => Math.round((place / Math.max(1, normalized.length)) * text.length);
  return (place) => {
    if (place <= shift) return 0;
    const i = ends.findIndex((end) => end >= place - shift);
    return i < 0 ? text.length : places[i]!;
  };
}
