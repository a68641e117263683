/** The verbs mcqa, ask and generate: one question, one answer. */
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
  text_of_file,
} from "./common.js";

const percent = (probability: number) => `${(100 * probability).toFixed(1).padStart(5)} %`;

export async function mcqa(given: ModelOptions & { question: string; options: string[] }): Promise<void> {
  const question = await text_of([given.question]);
  const assistant = await load_assistant(given);
  try {
    const result = await assistant.mcqa({ question, options: given.options });
    if (given.json) return print_json(result);
    show_notice(question);
    for (const { letter, text, probability } of result.options) {
      process.stdout.write(`${letter === result.answer ? "→" : " "} ${letter}. ${text}  ${percent(probability)}\n`);
    }
  } finally {
    await assistant.dispose();
  }
}

export async function ask(
  words: readonly string[],
  options: ModelOptions & GenerationOptions & { context: string; free?: boolean },
): Promise<void> {
  const answers = answer_options(options);
  const context = await text_of_file(options.context, "a text file to ask about");
  const question = await text_of(words);
  const assistant = await load_assistant(options);
  try {
    if (options.free) {
      const answer = assistant.ask_freely({ context, question }, answers);
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

export async function generate(words: readonly string[], options: ModelOptions & GenerationOptions): Promise<void> {
  const answers = answer_options(options);
  // A prompt is taken as it is: the last line of a file ends with a newline that belongs to it.
  const prompt = words.length === 1 && words[0] === "-" ? await read_input() : await text_of(words);
  const assistant = await load_assistant(options);
  try {
    const text = assistant.generate(prompt, answers);
    if (!options.json) show_notice(prompt);
    if (options.json) print_json({ prompt, text: await collect(text) });
    else await show(text);
  } finally {
    await assistant.dispose();
  }
}
