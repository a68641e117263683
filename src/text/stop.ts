import { BimedixError } from "../errors.js";

/** Ends a streamed text at the first of several strings, which may arrive in pieces. */
export class StopStrings {
  private held = "";
  /** The string that ended the text, once one has. */
  found: string | null = null;

  private readonly strings: readonly string[];

  /** @throws BimedixError bad_option for what is not a text, or an empty one */
  constructor(stop: string | readonly string[] = []) {
    this.strings = [stop].flat();
    if (this.strings.every((text) => typeof text === "string" && text !== "")) return;
    throw new BimedixError("bad_option", {
      given: `stop ${JSON.stringify(stop)}`,
      expected: "texts that are not empty",
      todo: "change it or leave it out",
    });
  }

  /** What may be shown of the text so far: nothing that could still turn out to begin a stop string. */
  push(text: string): string {
    if (this.found !== null) return "";
    this.held += text;
    let end = this.held.length;
    for (const string of this.strings) {
      const at = this.held.indexOf(string);
      if (at >= 0 && (at < end || this.found === null)) [end, this.found] = [Math.min(at, end), string];
    }
    const shown = this.found === null ? this.held.length - this.possible_beginning() : end;
    const out = this.held.slice(0, shown);
    this.held = this.held.slice(shown);
    return out;
  }

  /** What was held back, when the text ends of its own accord. */
  flush(): string {
    return this.found === null ? this.held : "";
  }

  private possible_beginning(): number {
    let longest = 0;
    for (const string of this.strings) {
      for (let length = Math.min(string.length - 1, this.held.length); length > longest; length--) {
        if (this.held.endsWith(string.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
