/** The verb chat: one answer, or a conversation in the terminal. */
import { BimedixError } from "../errors.js";
import type { ChatMessage } from "../text/chat.js";
import {
  answer_options,
  collect,
  type GenerationOptions,
  load_assistant,
  type ModelOptions,
  print_json,
  read_input,
  show,
  show_notice,
  text_of,
} from "./common.js";
import { Conversation } from "./conversation.js";
import { end_by, on_signals } from "./ending.js";

export type ChatOptions = ModelOptions & GenerationOptions & { system?: string };

export async function chat(words: readonly string[], options: ChatOptions): Promise<void> {
  const answers = answer_options(options);
  const { stdin, stdout, stderr } = process;
  if (words.length === 0 && stdin.isTTY && !options.json) {
    const assistant = await load_assistant(options);
    const output = stdout.isTTY ? stdout : stderr;
    const load = (model: string) => load_assistant({ ...options, model });
    const { system } = options;
    const places = { input: stdin, output, answers_to: stdout };
    const conversation = new Conversation(assistant, { ...places, answers, system, load });
    const off = on_signals((signal) => {
      conversation.leave();
      end_by(signal);
    });
    return conversation.run().finally(off);
  }
  const question = (words.length > 0 || stdin.isTTY ? await text_of(words) : await read_input()).trim();
  if (!question) throw no_question();
  const system: ChatMessage[] = options.system === undefined ? [] : [{ role: "system", content: options.system }];
  const assistant = await load_assistant(options);
  try {
    const answer = assistant.chat([...system, { role: "user", content: question }], answers);
    if (options.json) return print_json({ question, answer: await collect(answer) });
    show_notice(question);
    await show(answer);
  } finally {
    await assistant.dispose();
  }
}

const no_question = () =>
  new BimedixError("bad_option", {
    given: "no question",
    expected: "one on the command line or piped in, or a terminal for a conversation",
    todo: "write the question after the verb",
  });
