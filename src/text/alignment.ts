/** Which character of a text became which of another that was made from it by a normalizer, or by encoding and decoding. */

/** Characters that may have become one another: other case or width, accents, SentencePiece's space. */
const fold = (character: string): string =>
  character === "\u2581" || character.trim() === ""
    ? " "
    : character.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

/** How far each may run before the two meet again. */
const WINDOW = 32;
/** How many more characters may be passed over to meet at two that agree instead of at one. */
const PATIENCE = 4;

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
  const [old_folds, new_folds] = [before.map(fold), after.map(fold)];
  const places = new Uint32Array(changed.length + 1);
  let [from, offset, at, meeting] = [0, 0, 0, 0];
  for (const [i, character] of after.entries()) {
    places.fill(offset, at, at + character.length);
    at += character.length;
    if (i < meeting) continue;
    const [left, added] = meet(old_folds, from, new_folds, i);
    meeting = i + added;
    // What was taken away belongs to the character before it.
    for (; added === 0 && from <= left; from++) {
      if (from === left) places.fill(offset, at - character.length, at);
      offset += before[from]!.length;
    }
  }
  places[changed.length] = original.length;
  return (offset) => places[offset]!;
}

/** Where the two agree next: at `left` of the old characters, once `added` of the new ones have been passed over. */
function meet(old: readonly string[], from: number, now: readonly string[], at: number): [left: number, added: number] {
  const next = (folds: readonly string[], i: number) => {
    while (folds[i] === "") i++;
    return folds[i];
  };
  let found: [number, number] | null = null;
  for (let [total, last] = [0, 2 * WINDOW]; total <= last; total++) {
    for (let added = Math.max(0, total - WINDOW); added <= Math.min(total, WINDOW); added++) {
      const [i, j] = [from + total - added, at + added];
      if (i >= old.length || j >= now.length || old[i] !== now[j]) continue;
      const [one, other] = [next(old, i + 1), next(now, j + 1)];
      if (total === 0 || one === other || one === undefined || other === undefined) return [i, added];
      if (!found) [found, last] = [[i, added], Math.min(last, total + PATIENCE)];
    }
  }
  return found ?? [from - 1, 0];
}
