/** Text as Python treats it, where prompts and data must be the same characters as there: JavaScript counts other ones as space. */

/** The characters of `str.isspace`. JavaScript's `\s` has U+FEFF besides, and lacks U+001C to U+001F and U+0085. */
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const BREAK = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029";
const LINE_END = new RegExp(`\r\n|[${BREAK}]`);
const LEADING = new RegExp(`^[${SPACE}]+`);
const BLANK = new RegExp(`^[${SPACE}]*$`);
const is_space = new RegExp(`[${SPACE}]`);

/** `str.rstrip()`. Not by a regular expression, which takes quadratic time on spaces inside a text. */
export function rstrip(text: string): string {
  let end = text.length;
  while (end > 0 && is_space.test(text[end - 1]!)) end--;
  return text.slice(0, end);
}

/** `str.strip()` */
export const strip = (text: string): string => rstrip(text.replace(LEADING, ""));

/** Whether nothing is left of a text by `str.strip()`. */
export const is_blank = (text: string): boolean => BLANK.test(text);

/** `str.splitlines()` */
export function splitlines(text: string): string[] {
  const lines = text.split(LINE_END);
  if (lines.at(-1) === "") lines.pop();
  return lines;
}

/** The integer that a text of decimal digits of any script means (`int("١٢")` is 12), or null. */
export function digits_value(text: string): number | null {
  if (!/^\p{Nd}{1,9}$/u.test(text)) return null;
  // Compatibility forms (mathematical digits lie side by side) become ASCII; of the rest each script has ten in a row.
  return [...text.normalize("NFKC")].reduce((value, digit) => value * 10 + digit_value(digit.codePointAt(0)!), 0);
}

function digit_value(point: number): number {
  let value = 0;
  while (/\p{Nd}/u.test(String.fromCodePoint(point - value - 1))) value++;
  return value;
}
