/** What a terminal is told: colours where they are wanted, lines that break between words, one line that is written over. */
import string_width from "string-width";

/** What is written to: a terminal, a pipe or a file. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

const caller = { start: "npm start --", npx: "npx bimedix" }[process.env.npm_lifecycle_event ?? ""] ?? "bimedix";
/** A command as the person at this terminal has to write it. */
export const called = (command: string): string => `${caller} ${command}`;

/** Whether more than plain text can be shown: a terminal may be called dumb. */
export const is_screen = ({ isTTY }: Output): boolean => isTTY === true && process.env.TERM !== "dumb";

/** NO_COLOR takes colours away and FORCE_COLOR puts them everywhere, as no-color.org and force-color.org have it. */
export function has_colours(output: Output): boolean {
  const { FORCE_COLOR = "", NO_COLOR = "" } = process.env;
  if (FORCE_COLOR !== "") return FORCE_COLOR !== "0" && FORCE_COLOR !== "false";
  return NO_COLOR === "" && is_screen(output);
}

export const dim = (text: string, output: Output): string => (has_colours(output) ? `\x1b[2m${text}\x1b[22m` : text);

/** Shows a state on one line that the next one is written over; nothing where the output is no screen. */
export function show_state(text: string, output: Output = process.stderr): void {
  if (is_screen(output)) output.write(`\r\x1b[K${text}`);
}

/** What a model writes has no say over the terminal: without control characters, of which escape sequences are made. */
export const printable = (text: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are exactly what is removed
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");

/** A bar and what stands beside it. */
export const bar = (part: number, width = 24): string =>
  "█".repeat(Math.round(Math.min(1, part) * width)).padEnd(width, "░");

/** A word and what may follow it on the next line: a wide character (Chinese, Japanese, Korean) is a word by itself. */
const WORDS =
  /[ \t]+|\n|[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]\p{P}*|[^\s\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]+|\s/gu;

/**
 * Breaks lines between words for a screen of so many columns, piece by piece as an answer comes. The last word is held back until it
 * is known where it ends, so nothing that was written has to be taken back. A word wider than the screen is left to the screen.
 */
export class WordWrap {
  private held = "";
  private column = 0;
  private space = "";

  /** @param columns asked at every word, as a window may change; 0 where it is unknown, and nothing is broken */
  constructor(private readonly columns: () => number) {}

  push(piece: string): string {
    this.held += piece;
    const words = this.held.match(WORDS) ?? [];
    this.held = words.pop() ?? "";
    return words.map((word) => this.place(word)).join("");
  }

  flush(): string {
    const rest = this.place(this.held) + this.space;
    [this.held, this.space, this.column] = ["", "", 0];
    return rest;
  }

  private place(word: string): string {
    if (word === "\n") {
      const end = `${this.space}\n`;
      [this.space, this.column] = ["", 0];
      return end;
    }
    if (/^\s+$/.test(word)) {
      this.space += word;
      return "";
    }
    const [columns, width] = [this.columns(), string_width(word)];
    const spaces = this.space;
    this.space = "";
    const at = this.column + string_width(spaces.replaceAll("\t", "        "));
    const fits = columns === 0 || at + width <= columns || this.column === 0;
    this.column = fits ? at + width : width;
    // The screen breaks a word that is wider than itself.
    if (columns > 0 && this.column > columns) this.column = ((this.column - 1) % columns) + 1;
    return fits ? spaces + word : `\n${word}`;
  }
}

/** A text whose lines break between words where it is shown on a screen. */
export function fold(text: string, output: Output): string {
  if (output.isTTY !== true) return text;
  const wrap = new WordWrap(() => output.columns ?? 0);
  return wrap.push(text) + wrap.flush();
}
