/** A file of a person's own questions as documents of a task. */
import { some } from "../data/answers.js";
import { answer_rule, type Draft, read_question, settled } from "../data/questions.js";
import { bad_data, DataProblem, type DataRecord } from "../data/records.js";
import { language_of } from "../text/arabic.js";
import type { Doc } from "./tasks.js";

/** A document, and where it was read. */
export interface Parsed {
  where: string;
  doc: Doc;
  /** Where the file gives one. */
  id?: string;
}

/** A person's own questions. Their answers are read once all are known. */
export function own_questions(file: string, records: DataRecord[], warnings: string[]): Parsed[] {
  const rule = answer_rule(file);
  const drafts = records.map(({ where, line, value }) =>
    located(where, (): Draft => {
      const draft = read_question(value);
      rule.see(draft.answer, `line ${line}`);
      return draft;
    }),
  );
  const first = new Map<string, number>();
  const repeated: string[] = [];
  const parsed = drafts.map((draft, i) => {
    const { where, line } = records[i]!;
    const { question, options, answer, context, language, id } = located(where, () => settled(draft, rule));
    const key = JSON.stringify([question, context, [...options].sort()]);
    const before = first.get(key);
    if (before === undefined) first.set(key, line);
    else repeated.push(`line ${line} repeats line ${before}`);
    // A language that the file names is kept; else it is the question's.
    const named = language === language_of(question) ? {} : { language };
    const doc = {
      ...(id === null ? {} : { id }),
      question,
      ...(context ? { context } : {}),
      choices: options,
      answer,
      ...named,
    };
    return { where, doc, ...(id === null ? {} : { id }) };
  });
  const all = [
    ...rule.warnings,
    ...(repeated.length > 0 ? [`questions that stand there twice: ${some(repeated)}`] : []),
  ];
  warnings.push(...all.map((warning) => `${file}: ${warning}`));
  return parsed;
}

/** What goes wrong with a record, with its place. */
export function located<T>(where: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof DataProblem) return bad_data(where, error.given, error.expected);
    throw error;
  }
}
