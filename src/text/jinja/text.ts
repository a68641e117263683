/** Python's strings, each of whose characters remembers whether it came out of a message. */
import { charge, MAX_TEXT, TemplateError } from "./budget.js";

/** Characters `start` to `end` (UTF-16 units) came from `source`. Marks may overlap. */
export interface Mark {
  readonly start: number;
  readonly end: number;
  /** 0 or more: stretches of one source that meet become one. */
  readonly source: number;
}

const no_marks: readonly Mark[] = [];
/** What `str.isspace` holds to be a space: unlike `\s` with U+001C to U+001F and U+0085, and without U+FEFF. */
export const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const spaces = new RegExp(`[${SPACE}]+`, "g");
const is_space = new RegExp(`^[${SPACE}]$`);
// biome-ignore lint/suspicious/noControlCharactersInRegex: Python ends lines at them
const line_end = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/g;

/** What one more part of a split text costs. */
const PIECE = 192;

export class Text {
  private counted: number | undefined;

  constructor(
    readonly value: string,
    readonly marks: readonly Mark[] = no_marks,
  ) {
    if (value.length > MAX_TEXT) too_long(value.length);
  }

  /** The whole of it from one source. */
  static from(value: string, source: number): Text {
    return new Text(value, value === "" ? no_marks : [{ start: 0, end: value.length, source }]);
  }

  static join(parts: readonly Text[], between?: Text): Text {
    if (parts.length === 1) return parts[0]!;
    const gap = between && between.value !== "" ? between : undefined;
    let length = gap ? gap.value.length * (parts.length - 1) : 0;
    let marks = gap ? gap.marks.length * parts.length : 0;
    for (const part of parts) {
      length += part.value.length;
      marks += part.marks.length;
    }
    charge(length + 8 * parts.length + 32 * marks);
    if (length > MAX_TEXT) too_long(length);
    const joined = parts.map(({ value }) => value).join(gap?.value ?? "");
    if (marks === 0) return new Text(joined);
    const all: Mark[] = [];
    let at = 0;
    const add = ({ value, marks }: Text): void => {
      for (const { start, end, source } of marks) {
        const last = all.at(-1);
        if (source >= 0 && last?.source === source && last.end === at + start)
          all[all.length - 1] = { ...last, end: at + end };
        else all.push({ start: at + start, end: at + end, source });
      }
      at += value.length;
    };
    for (const [i, part] of parts.entries()) {
      if (gap && i > 0) add(gap);
      add(part);
    }
    return new Text(joined, all);
  }

  /** By UTF-16 units. */
  cut(start: number, end = this.value.length): Text {
    if (start <= 0 && end >= this.value.length) return this;
    const value = this.value.slice(start, end);
    if (this.marks.length === 0 || value === "") return new Text(value);
    charge(this.marks.length);
    const marks: Mark[] = [];
    for (const mark of this.marks) {
      const [from, to] = [Math.max(mark.start, start), Math.min(mark.end, end)];
      if (from < to) marks.push({ start: from - start, end: to - start, source: mark.source });
    }
    return new Text(value, marks);
  }

  repeat(times: number): Text {
    if (times <= 0) return new Text("");
    charge((this.value.length + this.marks.length) * times);
    if (this.value.length * times > MAX_TEXT) too_long(this.value.length * times);
    return this.marks.length === 0
      ? new Text(this.value.repeat(times))
      : Text.join(Array.from({ length: times }, () => this));
  }

  /** Through a function that changes characters one by one, to others or to several. */
  map(change: (value: string) => string): Text {
    charge(this.value.length);
    const changed = change(this.value);
    charge(changed.length);
    if (this.marks.length === 0 || changed.length === this.value.length) return new Text(changed, this.marks);
    const edges = [...new Set([0, ...this.marks.flatMap(({ start, end }) => [start, end]), this.value.length])];
    edges.sort((a, b) => a - b);
    return Text.join(
      edges.slice(1).map((end, i) => {
        const { value, marks } = this.cut(edges[i]!, end);
        const length = change(value).length;
        return new Text(
          change(value),
          marks.map(({ source }) => ({ start: 0, end: length, source })),
        );
      }),
    );
  }

  /** Python counts characters, JavaScript UTF-16 units. */
  get size(): number {
    if (this.counted === undefined) {
      charge(this.value.length);
      this.counted = this.value.length;
      for (let at = 0; at < this.value.length; at++) {
        if (this.value.codePointAt(at)! > 0xffff) {
          this.counted--;
          at++;
        }
      }
    }
    return this.counted;
  }

  /** The UTF-16 offset of a character's number. */
  offset(index: number): number {
    if (this.size === this.value.length) return index;
    charge(index);
    let at = 0;
    for (let i = 0; i < index && at < this.value.length; i++) at += this.value.codePointAt(at)! > 0xffff ? 2 : 1;
    return at;
  }

  /** The number of the character at a UTF-16 offset. */
  index(offset: number): number {
    return this.size === this.value.length ? offset : this.cut(0, offset).size;
  }

  characters(): Text[] {
    charge(this.value.length * 64);
    let at = 0;
    return Array.from(this.value, (character) => this.cut(at, (at += character.length)));
  }

  /** `sides`: 1 the start, 2 the end, 3 both. */
  strip(chars: Text | null, sides: 1 | 2 | 3): Text {
    charge(this.value.length);
    return this.cut(...stripped(this.value, chars?.value ?? null, sides));
  }

  /** At most `limit` cuts, counted from the end when `from_end`. A separator of null is any run of spaces. */
  split(separator: Text | null, limit = -1, from_end = false): Text[] {
    charge(this.value.length);
    const { value } = this;
    const found: [number, number][] = [];
    if (separator === null) {
      const inner = this.strip(null, limit < 0 ? 3 : from_end ? 2 : 1);
      if (inner.value === "") return [];
      for (const match of inner.value.matchAll(spaces)) {
        charge(PIECE);
        if (match.index > 0 && match.index + match[0].length < inner.value.length)
          found.push([match.index, match.index + match[0].length]);
      }
      const pieces = inner.pieces(pick(found, limit, from_end));
      // The rest beyond the limit keeps the spaces at its far end alone.
      if (limit < 0) return pieces;
      const rest = from_end ? 0 : pieces.length - 1;
      pieces[rest] = pieces[rest]!.strip(
        null,
        from_end ? (found.length >= limit ? 2 : 3) : found.length >= limit ? 1 : 3,
      );
      return pieces;
    }
    const width = separator.value.length;
    if (from_end) {
      for (let at = value.length; (at = at < width ? -1 : value.lastIndexOf(separator.value, at - width)) >= 0; ) {
        charge(PIECE);
        found.push([at, at + width]);
      }
      found.reverse();
    } else {
      for (let at = 0; (at = value.indexOf(separator.value, at)) >= 0; at += width) {
        charge(PIECE);
        found.push([at, at + width]);
      }
    }
    return this.pieces(pick(found, limit, from_end));
  }

  replace(old: Text, by: Text, limit = -1): Text {
    if (old.value !== "") return Text.join(this.split(old, limit), by);
    const characters = this.characters();
    const gaps = limit < 0 ? characters.length + 1 : Math.min(limit, characters.length + 1);
    return Text.join(
      characters
        .flatMap((character, i) => (i < gaps ? [by, character] : [character]))
        .concat(gaps > characters.length ? [by] : []),
    );
  }

  split_lines(keep_ends = false): Text[] {
    charge(this.value.length);
    const lines: Text[] = [];
    let at = 0;
    for (const match of this.value.matchAll(line_end)) {
      charge(PIECE);
      const end = match.index + match[0].length;
      lines.push(this.cut(at, keep_ends ? end : match.index));
      at = end;
    }
    if (at < this.value.length) lines.push(this.cut(at));
    return lines;
  }

  private pieces(gaps: readonly [number, number][]): Text[] {
    let at = 0;
    const pieces = gaps.map(([start, end]) => {
      const piece = this.cut(at, start);
      at = end;
      return piece;
    });
    return [...pieces, this.cut(at)];
  }
}

function stripped(value: string, chars: string | null, sides: 1 | 2 | 3): [start: number, end: number] {
  const set = chars === null ? null : new Set(chars);
  const strips = (character: string) => (set ? set.has(character) : is_space.test(character));
  let [start, end] = [0, value.length];
  if (sides & 1) for (let c: string; start < end && strips((c = char_at(value, start))); start += c.length);
  if (sides & 2) for (let c: string; end > start && strips((c = char_before(value, end))); end -= c.length);
  return [start, end];
}

/** `str.strip()`; `sides` as in Text. */
export const strip = (value: string, sides: 1 | 2 | 3): string => value.slice(...stripped(value, null, sides));

const too_long = (length: number): never => {
  throw new TemplateError(`makes a text of ${length} characters`);
};

const pick = <T>(list: readonly T[], limit: number, from_end: boolean): readonly T[] =>
  limit < 0 ? list : from_end ? list.slice(Math.max(0, list.length - limit)) : list.slice(0, limit);

const char_at = (value: string, at: number) => String.fromCodePoint(value.codePointAt(at)!);
const char_before = (value: string, end: number) =>
  end > 1 && /^[\ud800-\udbff][\udc00-\udfff]$/.test(value.slice(end - 2, end))
    ? value.slice(end - 2, end)
    : value.slice(end - 1, end);
