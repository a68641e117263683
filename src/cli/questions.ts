/** The verbs mcqa, ask and generate: one question, one answer. */
import { read_text } from "../files.js";
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

const percent = (probability: number) => `${(100 * probability).toFixed(1).padStart(5)} %`;

export async function mcqa(options: ModelOptions & { question: string; options: string[] }): Promise<void> {
  const assistant = await load_assistant(options);
  try {
    const result = await assistant.mcqa({ question: options.question, options: options.options });
    if (options.json) return print_json(result);
    show_notice(options.question);
    for (const { letter, text, probability } of result.options) {
      process.stdout.write(`${letter === result.answer ? "→" : " "} ${letter}. ${text}  ${percent(probability)}\n`);
    }
  } finally {
    await assistant.dispose();
  }
}

export async function ask(
  question: string,
  options: ModelOptions & GenerationOptions & { context: string; free?: boolean },
): Promise<void> {
  const context = await read_text(options.context, "a text file to ask about");
  const assistant = await load_assistant(options);
  try {
    if (options.free) {
      const answer = assistant.ask_freely({ context, question }, answer_options(options));
      if (options.json) return print_json({ answer: await collect(answer) });
      show_notice(question);
      await show(answer);
      return;
    }
    const result = await assistant.ask({ context, question });
    if (options.json) return print_json(result);
    show_notice(question);
    for (const { text, probability } of result.options) {
      process.stdout.write(`${text === result.answer ? "→" : " "} ${text}  ${percent(probability)}\n`);
    }
  } finally {
    await assistant.dispose();
  }
}

export async function generate(prompt: string, options: ModelOptions & GenerationOptions): Promise<void> {
  const assistant = await load_assistant(options);
  try {
    const text = assistant.generate(prompt, answer_options(options));
    if (!options.json) show_notice(prompt);
    if (options.json) print_json({ prompt, text: await collect(text) });
    else await show(text);
  } finally {
    await assistant.dispose();
  }
}
