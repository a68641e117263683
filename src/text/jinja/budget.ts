/**
 * What a template may spend: about one unit for a byte that it makes and `STEP` for a step that it takes. A template is a
 * program from outside, and a count ends it everywhere alike: no clock (a process may sleep in between), no watchdog (browsers,
 * Bun and Deno have none), and memory is refused before it is taken.
 */
export class TemplateError extends Error {
  override readonly name = "TemplateError";
  /** By the template's own `raise_exception`. */
  raised = false;
}

export const STEP = 16;
const LIMIT = 48_000_000;
/** More for each character that a template is given: long conversations take longer. */
const PER_CHARACTER = 64;
/** Characters of one text. */
export const MAX_TEXT = 20_000_000;
let left = 0;

/** Pays before the work is done. @throws TemplateError when nothing is left */
export function charge(units: number): void {
  left -= units;
  if (!(left >= 0)) {
    left = 0;
    throw new TemplateError("takes too many steps or too much memory");
  }
}

/** A text from outside gives its share. */
export function credit(characters: number): void {
  left += PER_CHARACTER * characters;
}

/** Runs `work`, and everything that it calls, on a budget of its own. */
export function on_budget<T>(work: () => T): T {
  left = LIMIT;
  try {
    return work();
  } catch (error) {
    if (error instanceof TemplateError) throw error;
    throw new TemplateError(error instanceof RangeError ? "nests too deeply" : String(error), { cause: error });
  }
}
