/**
 * The line on which a question is written: Node's readline with what it lacks. A terminal marks what is pasted (bracketed paste), and a
 * paste of several lines becomes one mark in the line, so that its newlines do not send it and a long one costs nothing. The history is
 * readline's, in memory alone.
 */
import { createInterface, type Interface } from "node:readline";
import { Transform, type TransformCallback, type Writable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { is_screen, type Output } from "./terminal.js";

/** A terminal's input, as far as it is used. */
export type TerminalInput = NodeJS.ReadableStream & { setRawMode?(mode: boolean): unknown };

const [BEGIN, END] = ["\x1b[200~", "\x1b[201~"];
const [ASK_FOR_MARKS, NO_MARKS] = ["\x1b[?2004h", "\x1b[?2004l"];
/** A paste of one line up to this length is put into the line as if it were typed. */
const SHORT = 1000;

/** How much of the end of a text may be the beginning of a marker. */
function begun(text: string, marker: string): number {
  for (let length = Math.min(text.length, marker.length - 1); length > 0; length--)
    if (marker.startsWith(text.slice(-length))) return length;
  return 0;
}

/** Takes pastes out of what a terminal sends. Characters and markers may be cut anywhere. */
class Pastes extends Transform {
  readonly isTTY = true;
  private readonly decoder = new StringDecoder("utf8");
  private readonly pastes: string[] = [];
  private held = "";
  private pasting: string[] | null = null;

  constructor(private readonly source: TerminalInput) {
    super();
  }

  setRawMode(mode: boolean): this {
    this.source.setRawMode?.(mode);
    return this;
  }

  override _transform(chunk: Buffer, _: BufferEncoding, done: TransformCallback): void {
    this.held += this.decoder.write(chunk);
    for (;;) {
      const marker = this.pasting ? END : BEGIN;
      const at = this.held.indexOf(marker);
      const end = at >= 0 ? at : this.held.length - begun(this.held, marker);
      if (this.pasting) this.pasting.push(this.held.slice(0, end));
      else if (end > 0) this.push(this.held.slice(0, end));
      if (at < 0) {
        this.held = this.held.slice(end);
        break;
      }
      this.held = this.held.slice(at + marker.length);
      if (this.pasting) this.push(this.mark(this.pasting.join("")));
      this.pasting = this.pasting ? null : [];
    }
    done();
  }

  /** What stands in the line for a paste. */
  private mark(pasted: string): string {
    const text = pasted
      .replace(/\r\n?/g, "\n")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: keys are not text
      .replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, "")
      .replace(/^\n+|\s+$/g, "");
    const lines = text.split("\n").length;
    if (lines === 1 && text.length <= SHORT) return text.replaceAll("\t", " ");
    this.pastes.push(text);
    return `[paste ${this.pastes.length}: ${lines > 1 ? `${lines} lines` : `${text.length} characters`}]`;
  }

  /** A line with the texts of its marks. */
  expand(line: string): string {
    return line.replace(/\[paste (\d+): [^\]]*\]/g, (mark, number) => this.pastes[Number(number) - 1] ?? mark);
  }
}

export class LineEditor {
  private readonly pastes: Pastes;
  private readonly readline: Interface;
  private readonly restore: () => void;
  private readonly marks = () => void this.output.write(ASK_FOR_MARKS);

  /** @param on_interrupt at Ctrl-C @param on_end at Ctrl-D, or when the terminal is gone */
  constructor(
    private readonly input: TerminalInput,
    private readonly output: Output & Writable,
    { on_interrupt, on_end }: { on_interrupt: () => void; on_end: () => void },
  ) {
    this.pastes = new Pastes(input);
    input.pipe(this.pastes);
    // A carriage return and a newline, however far apart, are one end of a line.
    this.readline = createInterface({
      input: this.pastes,
      output,
      terminal: true,
      crlfDelay: Number.POSITIVE_INFINITY,
    });
    this.readline.on("SIGINT", on_interrupt).on("close", on_end);
    const screen = is_screen(output);
    this.restore = () => void (screen && output.write(NO_MARKS));
    if (!screen) return;
    this.marks();
    // Also where an error ends the process, and again after Ctrl-Z and fg.
    process.on("exit", this.restore);
    this.readline.on("SIGCONT", this.marks);
  }

  /** What is typed, line by line as it is sent, until Ctrl-D. */
  async *lines(): AsyncGenerator<string> {
    for await (const line of this.readline) yield this.pastes.expand(line);
  }

  prompt(text: string): void {
    this.readline.setPrompt(text);
    this.readline.prompt();
  }

  /** Forgets what stands in the line. */
  clear(): void {
    this.readline.write(null, { ctrl: true, name: "e" });
    this.readline.write(null, { ctrl: true, name: "u" });
  }

  /** Leaves the terminal as it was. */
  close(): void {
    this.readline.close();
    this.restore();
    process.off("exit", this.restore);
    this.input.unpipe(this.pastes);
    this.input.pause();
  }
}
