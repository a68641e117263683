/** The verb chat: one answer, or a conversation in the terminal. */
import { createInterface } from "node:readline/promises";
import type { Answering } from "../assistant/assistant.js";
import { BimedixError } from "../errors.js";
import type { ChatMessage } from "../text/chat.js";
import {
  answer_options,
  collect,
  type GenerationOptions,
  load_assistant,
  type ModelOptions,
  print_json,
  show,
  show_notice,
} from "./common.js";

const HELP = "/reset begins anew, /model DIR changes the model, /quit leaves; Ctrl-C stops an answer.";
/** Tokens of the context that stay free for an answer when older turns have to go. */
const ROOM = 256;

export async function chat(question: string, options: ModelOptions & GenerationOptions): Promise<void> {
  const assistant = await load_assistant(options);
  if (!question) return converse(assistant, options);
  try {
    const answer = assistant.chat([{ role: "user", content: question }], answer_options(options));
    if (options.json) return print_json({ question, answer: await collect(answer) });
    show_notice(question);
    await show(answer);
  } finally {
    await assistant.dispose();
  }
}

async function converse(first: Answering, options: ModelOptions & GenerationOptions): Promise<void> {
  let assistant = first;
  let messages: ChatMessage[] = [];
  let answering: AbortController | undefined;
  const terminal = createInterface({ input: process.stdin, output: process.stdout, prompt: "› " });
  terminal.on("SIGINT", () => {
    if (answering) answering.abort();
    else terminal.write(null, { ctrl: true, name: "u" });
  });
  show_notice("");
  show_notice("م");
  process.stderr.write(`${HELP}\n`);
  terminal.prompt();
  for await (const line of terminal) {
    const text = line.trim();
    const [command, argument] = [text.split(/\s+/)[0], text.split(/\s+/).slice(1).join(" ")];
    if (command === "/quit") break;
    try {
      if (command === "/reset") messages = [];
      else if (command === "/model") {
        const next = argument ? await load_assistant({ ...options, model: argument }) : assistant;
        if (next !== assistant) await assistant.dispose();
        assistant = next;
        messages = [];
        process.stderr.write(`${assistant.place}\n`);
      } else if (command?.startsWith("/")) process.stderr.write(`${HELP}\n`);
      else if (text) {
        answering = new AbortController();
        messages = await answer(assistant, [...messages, { role: "user", content: text }], options, answering.signal);
      }
    } catch (error) {
      if (!(error instanceof BimedixError)) throw error;
      process.stderr.write(`${error.message}\n`);
    }
    answering = undefined;
    terminal.prompt();
  }
  terminal.close();
  await assistant.dispose();
}

/** The conversation with its answer; a stopped answer stays as far as it came. */
async function answer(
  assistant: Answering,
  messages: ChatMessage[],
  options: GenerationOptions,
  signal: AbortSignal,
): Promise<ChatMessage[]> {
  const dropped = assistant.overflow(messages, ROOM);
  if (dropped > 0) process.stderr.write(`(the first ${dropped} messages no longer fit into the model's context)\n`);
  const kept = messages.slice(dropped);
  let text = "";
  const pieces = async function* () {
    for await (const piece of assistant.chat(kept, { ...answer_options(options), signal })) {
      text += piece;
      yield piece;
    }
  };
  await show(pieces()).catch((error: unknown) => {
    if (!(error instanceof BimedixError && error.code === "aborted")) throw error;
    process.stdout.write("\n");
  });
  return [...kept, { role: "assistant", content: text }];
}
