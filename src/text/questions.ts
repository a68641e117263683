/** Questions with options, and about a text, as prompts: the words are those of the figures in the BiMediX repository. */
import { BimedixError } from "../errors.js";
import { type Language, option_letters } from "./arabic.js";

export const question_words = {
  en: {
    question: "Question",
    options: "Options",
    context: "Context",
    answer: "The correct answer is",
    verdicts: ["yes", "no", "maybe"],
  },
  ar: {
    question: "السؤال",
    options: "الخيارات",
    context: "السياق",
    answer: "الجواب الصحيح هو",
    verdicts: ["نعم", "لا", "ربما"],
  },
} as const;

/** The letters of 2 to 10 options. @throws BimedixError bad_option for other numbers, or an option without text */
export function option_letters_of(options: readonly string[], language: Language): readonly string[] {
  const letters = option_letters[language];
  const empty = options?.some?.((option) => typeof option !== "string" || !option.trim());
  if (Array.isArray(options) && options.length >= 2 && options.length <= letters.length && !empty)
    return letters.slice(0, options.length);
  const count = options?.length ?? 0;
  throw new BimedixError("bad_option", {
    given: `${count} ${count === 1 ? "option" : "options"}${empty ? ", one of them empty or no text" : ""}`,
    expected: `2 to ${letters.length} texts`,
    todo: count === 1 ? "give each option as a text of its own" : "give every option a text",
  });
}

/** The user's turn of a question with options. The assistant's begins with `question_words[language].answer`, then the letter. */
export function mcqa_prompt(question: string, options: readonly string[], language: Language): string {
  const { question: asked, options: offered } = question_words[language];
  const letters = option_letters[language];
  return `${asked}: ${question}\n${offered}:\n${options.map((option, i) => `${letters[i]}. ${option}`).join("\n")}`;
}

/** The user's turn of a question about a text. */
export function context_prompt(context: string, question: string, language: Language): string {
  const { context: given, question: asked } = question_words[language];
  return `${given}: ${context}\n${asked}: ${question}`;
}
