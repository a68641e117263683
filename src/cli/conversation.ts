/** A conversation in the terminal: its commands, its turns, and what fits into the model's context. */
import type { Writable } from "node:stream";
import type { Answering, AnswerOptions } from "../assistant/assistant.js";
import { BimedixError } from "../errors.js";
import { did_you_mean } from "../nearest.js";
import type { ChatMessage } from "../text/chat.js";
import { show, show_notice } from "./common.js";
import { LineEditor, type TerminalInput } from "./editor.js";
import { fold, type Output } from "./terminal.js";

const HELP = `/clear         begin a new conversation
/system TEXT   what the model is told before it; without a text, nothing
/model DIR     another model, a directory or a hub id
/help          this
/exit          leave; so does Ctrl-D, and Ctrl-C twice
"""            begins and ends a question of several lines; a paste of several lines is one question too
Ctrl-C         stops an answer
`;
const commands = ["/clear", "/reset", "/system", "/model", "/help", "/exit", "/quit", "/bye"];
/** Tokens of the context that stay free for an answer when older turns have to go. */
const ROOM = 256;
const QUOTES = '"""';

export interface ConversationOptions {
  input: TerminalInput;
  output: Output & Writable;
  /** Where answers go when that is not the screen, as in `bimedix | tee notes.txt`. */
  answers_to?: Output;
  answers: AnswerOptions;
  system?: string | undefined;
  /** Another model, for /model. */
  load(model: string): Promise<Answering>;
}

export class Conversation {
  private readonly editor: LineEditor;
  private messages: ChatMessage[] = [];
  private system: string | undefined;
  private answering: AbortController | null = null;
  /** The lines of a question that began with three quotes. */
  private block: string[] | null = null;
  /** Whether the last thing that happened was Ctrl-C. */
  private interrupted = false;
  private ended = false;

  constructor(
    private assistant: Answering,
    private readonly options: ConversationOptions,
  ) {
    this.system = options.system;
    this.editor = new LineEditor(options.input, options.output, {
      on_interrupt: () => this.interrupt(),
      on_end: () => this.leave(),
    });
  }

  /** Until the person leaves. The model is given back then. */
  async run(): Promise<void> {
    show_notice("", this.options.output);
    show_notice("م", this.options.output);
    this.say("/help shows the commands.");
    try {
      this.prompt();
      for await (const line of this.editor.lines()) {
        this.interrupted = false;
        await this.take(line).catch((error: unknown) => {
          if (!(error instanceof BimedixError)) throw error;
          this.say(error.message);
        });
        if (this.ended) break;
        this.prompt();
      }
    } finally {
      this.leave();
      await this.assistant.dispose();
    }
  }

  /** Ends the conversation and leaves the terminal as it was. */
  leave(): void {
    if (this.ended) return;
    this.ended = true;
    this.answering?.abort();
    this.editor.close();
    this.options.output.write("\n");
  }

  private interrupt(): void {
    if (this.interrupted) this.leave();
    else if (this.answering) this.answering.abort();
    else {
      this.block = null;
      this.editor.clear();
      this.say("^C (once more, or Ctrl-D, leaves)");
      this.prompt();
    }
    this.interrupted = true;
  }

  private prompt(): void {
    this.editor.prompt(this.block ? "... " : "> ");
  }

  private say(text: string): void {
    this.options.output.write(`${fold(text.replace(/\n$/, ""), this.options.output)}\n`);
  }

  /** One line: a part of a block, a command or a question. */
  private async take(line: string): Promise<void> {
    const begins = this.block === null && line.trimStart().startsWith(QUOTES);
    if (!this.block && !begins) {
      const text = line.trim();
      const [command = "", ...rest] = text.split(/\s+/);
      if (command.startsWith("/") || text === "exit" || text === "quit") return this.command(command, rest.join(" "));
      return text ? this.ask(text) : undefined;
    }
    this.block ??= [];
    const part = begins ? line.trimStart().slice(QUOTES.length) : line;
    const ends = part.trimEnd().endsWith(QUOTES);
    this.block.push(ends ? part.trimEnd().slice(0, -QUOTES.length) : part);
    if (!ends) return;
    const text = this.block.join("\n").trim();
    this.block = null;
    if (text) await this.ask(text);
  }

  private async command(name: string, argument: string): Promise<void> {
    if (["/exit", "/quit", "/bye", "exit", "quit"].includes(name)) this.leave();
    else if (name === "/help" || name === "/?") this.say(HELP);
    else if (name === "/clear" || name === "/reset") this.begin_anew("A new conversation.");
    else if (name === "/system") {
      this.system = argument || undefined;
      this.begin_anew(
        argument ? "A new conversation, with this system prompt." : "A new conversation, without a system prompt.",
      );
    } else if (name === "/model") {
      if (argument) {
        const next = await this.options.load(argument);
        await this.assistant.dispose();
        this.assistant = next;
        this.messages = [];
      }
      this.say(this.assistant.place);
    } else
      this.say(`${name} is no command${did_you_mean(name, commands)}; /help shows them. A question may stand in """.`);
  }

  private begin_anew(said: string): void {
    this.messages = [];
    this.say(said);
  }

  /** A question and its answer; a stopped answer stays as far as it came. */
  private async ask(question: string): Promise<void> {
    const system: ChatMessage[] = this.system === undefined ? [] : [{ role: "system", content: this.system }];
    const turns: ChatMessage[] = [...this.messages, { role: "user", content: question }];
    let dropped = 0;
    const overflows = () => this.assistant.overflow([...system, ...turns.slice(dropped)], ROOM) > 0;
    while (turns.length - dropped > 1 && overflows()) dropped += 2;
    if (dropped > 0) this.say(`(the first ${dropped} messages no longer fit into the model's context)`);
    const kept = turns.slice(dropped);
    const stop = new AbortController();
    this.answering = stop;
    let text = "";
    const { assistant, options } = this;
    const pieces = async function* () {
      for await (const piece of assistant.chat([...system, ...kept], { ...options.answers, signal: stop.signal })) {
        text += piece;
        yield piece;
      }
    };
    try {
      await show(pieces(), options.answers_to ?? options.output);
    } catch (error) {
      if (!(error instanceof BimedixError && error.code === "aborted")) throw error;
      if (!this.ended) this.say("(stopped)");
    } finally {
      this.answering = null;
    }
    // A question that was stopped before its answer began was not asked.
    if (text) this.messages = [...kept, { role: "assistant", content: text }];
  }
}
