/** A row of a data set as a question with options: the one reading that evaluation and training share. */
import { type Language, language_of } from "../text/arabic.js";
import { type Answer, AnswerRule, read_answer } from "./answers.js";
import { type Columns, column_name, is_absent, read_options } from "./options.js";
import { DataProblem } from "./record.js";

export interface Question {
  question: string;
  options: string[];
  /** The place of the right option, from 0. */
  answer: number;
  /** A text that the question is about; empty where there is none. */
  context: string;
  language: Language;
  id: string | null;
}

/** A question whose answer is still in its readings. */
export interface Draft extends Omit<Question, "answer"> {
  answer: Answer;
}

const QUESTION = ["question", "sent1", "qtext", "question_stem", "stem", "query", "prompt"];

/** @throws DataProblem */
export function read_question(value: unknown): Draft {
  const row = columns_of(value);
  const name = QUESTION.find((one) => row.has(one)) ?? "question";
  const question = text_of(row, name);
  const options = read_options(row);
  const context = is_absent(row.get("context")) ? "" : text_of(row, "context");
  const asked = row.get("language");
  const language = asked === "ar" || asked === "en" ? asked : language_of(question);
  const id = row.get("id");
  return {
    question,
    options: options.texts,
    answer: read_answer(row, options),
    context,
    language,
    id: is_absent(id) ? null : String(id),
  };
}

/** How the answers of a file are to be read, from all of its questions. */
export const answer_rule = (file: string): AnswerRule => new AnswerRule(/\.parquet(\.gz)?$/i.test(file) ? 0 : 1);

export const settled = ({ answer, ...draft }: Draft, rule: AnswerRule): Question => ({
  ...draft,
  answer: rule.decide(answer),
});

/** @throws DataProblem for what is no row with named columns */
export function columns_of(value: unknown): Columns {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new DataProblem("no object", "an object with named columns");
  return new Map(Object.entries(value).map(([name, one]) => [column_name(name), one]));
}

/** The text of a column. @throws DataProblem */
export function text_of(row: Columns, column: string): string {
  const value = row.get(column);
  if (typeof value === "string" && !is_absent(value)) return value;
  if (value === undefined || value === null) {
    const there = [...row.keys()].slice(0, 12).join(", ");
    throw new DataProblem(`no column ${column} (there are: ${there || "none"})`, `a column ${column}`);
  }
  throw new DataProblem(
    typeof value === "string" ? `an empty ${column}` : `${column}, which is no text`,
    `some text in ${column}`,
  );
}
