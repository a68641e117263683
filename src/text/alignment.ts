/** Which character of a text became which of another that was made from it by a normalizer, or by encoding and decoding. */

/** Characters that may have become one another: other case or width, accents, SentencePiece's space. */
const fold = (character: string): string =>
  character === "\u2581" || character.trim() === ""
    ? " "
    : character.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** How far apart the two may run before they meet again. */
const WINDOW = 16;

/**
 * For every offset of `changed` the offset of `original` that it stands at. Exact where a character became one other and where
 * something was put in front; elsewhere the nearest that fits.
 */
export function align(original: string, changed: string): (offset: number) => number {
  if (changed.endsWith(original)) {
    const added = changed.length - original.length;
    return (offset) => Math.max(0, offset - added);
  }
  const [before, after] = [Array.from(original), Array.from(changed)];
  const folded = before.map(fold);
  const places = new Uint32Array(changed.length + 1);
  let [from, offset, at] = [0, 0, 0];
  for (const [i, character] of after.entries()) {
    places.fill(offset, at, at + character.length);
    at += character.length;
    const wanted = fold(character);
    // Put in front of the character that comes next.
    if (folded[from] !== wanted && i + 1 < after.length && folded[from] === fold(after[i + 1]!)) continue;
    const end = Math.min(before.length, from + WINDOW);
    let found = from;
    while (found < end && folded[found] !== wanted) found++;
    if (found === end) continue;
    for (; from <= found; from++) offset += before[from]!.length;
    // What was skipped belongs to the character that came after it.
    places.fill(offset - before[found]!.length, at - character.length, at);
  }
  places[changed.length] = original.length;
  return (offset) => places[offset]!;
}
