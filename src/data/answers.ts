/**
 * What the answer to a question means, in one place for evaluation and training.
 *
 * A position is a whole number, counted from 0, or a letter of the options (A, b, "(C)", "د", "B) its text"), or the name that the data
 * set gives to an option. Else an answer is the text of an option. A position counts before a text; but where some answer of a file can
 * be no position and every one can be a text, all of the file are texts. An answer that the two readings understand differently is
 * warned about. Columns that public data sets define otherwise are read as those do (`cop`, `ra`).
 */
import { option_letters, without_marks } from "../text/arabic.js";
import { digits_value, strip } from "../text/python.js";
import { type Columns, is_absent, type Options } from "./options.js";
import { DataProblem } from "./record.js";

/** An answer in its readings, before it is known what the rest of its file is like. */
export interface Answer {
  column: string;
  given: unknown;
  options: Options;
  /** The option by its place, or by its text; null where it cannot be read so. */
  position: number | null;
  text: number | null;
  /** The number given, of a column that counts from 0 in some files and from 1 in others. */
  number: number | null;
}

/** Columns that hold an answer, those that say more about their meaning first. */
const COLUMNS = [
  "answer_idx",
  "answer_index",
  "correct_index",
  "correct_idx",
  "cop",
  "ra",
  "answerkey",
  "answer_key",
  "answer",
  "correct_answer",
  "correct_option",
  "correct_choice",
  "correct",
  "gold",
  "label",
  "target",
];

/** @throws DataProblem for a row without an answer, or with one that is none of its options */
export function read_answer(row: Columns, options: Options): Answer {
  const column = COLUMNS.find((name) => !is_absent(row.get(name)));
  if (column === undefined) {
    const empty = COLUMNS.find((name) => row.has(name));
    const there = [...row.keys()].slice(0, 12).join(", ");
    throw empty === undefined
      ? new DataProblem(`no column answer (there are: ${there || "none"})`, "a column answer")
      : new DataProblem(`an empty ${empty}`, "the right option");
  }
  const answer = readings(column, row.get(column), options);
  // MedQA and MMLU-Pro give both; where they disagree, no reading of one can be trusted.
  const words = row.get("answer");
  if (!/^answer_(idx|index)$/.test(column) || is_absent(words)) return answer;
  const { position, text } = readings("answer", words, options);
  if (answer.position === null || [position, text].includes(answer.position)) return answer;
  throw new DataProblem(`${column} ${show(row.get(column))} and answer ${show(words)}`, "the same option in both");
}

/** The option that a benchmark's answer means by its place alone. @throws DataProblem */
export function position_of(given: unknown, count: number): number {
  const texts = Array<string>(count).fill("\0");
  const { position } = readings("answer", given, { texts, labels: null });
  return position ?? outside(given, count);
}

function outside(given: unknown, count: number, column = "answer"): never {
  const named = column === "answer" ? "" : `, in ${column}`;
  throw new DataProblem(
    `answer ${show(given)}, which is outside the options`,
    `0 to ${count - 1} or A to ${option_letters.en[count - 1]}${named} (numbers count from 0)`,
  );
}

const show = (value: unknown): string => JSON.stringify(value) ?? String(value);

function readings(column: string, value: unknown, options: Options): Answer {
  const given = Array.isArray(value) && value.length === 1 ? (value[0] as unknown) : value;
  if (typeof given === "object" || typeof given === "undefined")
    throw new DataProblem(`${column} ${show(value)?.slice(0, 60)}`, "one right option");
  const { texts, labels } = options;
  const words = strip(without_marks(String(given)));
  const number = digits_value(words.replace(/\.0$/, ""));
  const found = (index: number) => (index >= 0 ? index : null);
  const text = typeof given === "boolean" ? null : text_of(words, texts);
  const answer: Answer = { column, given, options, position: null, text, number: null };
  if (column === "cop") return { ...answer, number, text: null };
  const named = labels ? found(labels.findIndex((label) => plain(label) === plain(words))) : null;
  if (named !== null) return { ...answer, position: named };
  const numbered = labels?.every((label) => digits_value(label) !== null) ?? false;
  if (number !== null && !numbered && typeof given !== "boolean") {
    const index = column === "ra" ? number - 1 : number;
    return check({ ...answer, position: index >= 0 && index < texts.length ? index : null });
  }
  return check({ ...answer, position: by_letter(words, options) });
}

const check = (answer: Answer): Answer =>
  answer.position === null && answer.text === null
    ? outside(answer.given, answer.options.texts.length, answer.column)
    : answer;

const plain = (text: string) => strip(without_marks(text)).normalize("NFC").toLowerCase();

/** The option of this text, by its characters, else without regard to case. @throws DataProblem where two have it */
function text_of(words: string, texts: readonly string[]): number | null {
  for (const same of [
    (one: string) => strip(without_marks(one)) === words,
    (one: string) => plain(one) === plain(words),
  ]) {
    const found = texts.flatMap((one, i) => (same(one) ? [i] : []));
    if (found.length === 1) return found[0]!;
    if (found.length > 1 && by_letter(words, { texts: [...texts], labels: null }) === null && !/^\p{Nd}+$/u.test(words))
      throw new DataProblem(`answer ${show(words)}, the text of ${found.length} options`, "a letter");
  }
  return null;
}

/** Other spellings of the letters of `option_letters.ar`: without hamza, with a tatweel, and spelled out. */
const arabic_names: readonly string[][] = [
  ["أ", "ا", "إ", "آ", "ألف", "الف"],
  ["ب", "باء"],
  ["ج", "جيم"],
  ["د", "دال"],
  ["ه", "هـ", "هاء"],
  ["و", "واو"],
  ["ز", "زاي", "زين"],
  ["ح", "حاء"],
  ["ط", "طاء"],
  ["ي", "ى", "ياء"],
];

const WRAPPED = /^[([{<"'*_\s]*([\p{L}\u0640]{1,4})[)\]}>"'*_\s]*[.):\-،]?[)\]}>"'*_\s]*(?:(?<=\P{L})(\S.*))?$/su;

const letter_index = (letter: string): number => {
  const latin = option_letters.en.indexOf(letter.toUpperCase());
  return latin >= 0 ? latin : arabic_names.findIndex((names) => names.includes(letter.replaceAll("\u0640", "")));
};

/** The place of a letter, which brackets, a point or the option's own text may surround. */
function by_letter(words: string, { texts, labels }: Options): number | null {
  const [, letter, rest] = (words.length < 2000 && WRAPPED.exec(words)) || [];
  if (letter === undefined) return null;
  const named = labels?.findIndex((label) => plain(label) === plain(letter)) ?? -1;
  const index = named >= 0 ? named : letter_index(letter);
  if (index < 0 || index >= texts.length) return null;
  // Where the data set's own letters stand in another order, a letter of the other language says nothing.
  if (named < 0 && labels && ![index, -1].includes(letter_index(labels[index]!))) return null;
  return rest === undefined || plain(rest) === plain(texts[index]!) ? index : null;
}

/** A few of many places. */
export const some = (places: readonly string[]): string =>
  `${places.slice(0, 5).join(", ")}${places.length > 5 ? ` and ${places.length - 5} more` : ""}`;

/** So many answers that are numbers, and none of them 0, are worth a warning. */
const MANY = 20;

/** What all answers of a file say together about how each is to be read. */
export class AnswerRule {
  private readonly differing: string[] = [];
  private readonly cops: number[] = [];
  private readonly numbers = { all: true, zero: false };
  private count = 0;
  private all_positions = true;
  private all_texts = true;
  private widest = 0;

  /** @param counts_from where `cop` counts from in this file, unless a value shows otherwise */
  constructor(private readonly counts_from: 0 | 1) {}

  /** Tells it of one answer. All must have been seen before the first is decided. */
  see({ column, position, text, number, given, options }: Answer, place: string): void {
    this.count++;
    this.widest = Math.max(this.widest, options.texts.length);
    if (column === "cop" && number !== null) this.cops.push(number);
    const value = digits_value(String(given));
    if (value === null) this.numbers.all = false;
    if (value === 0) this.numbers.zero = true;
    if (position === null) this.all_positions = false;
    if (text === null) this.all_texts = false;
    if (position !== null && text !== null && position !== text) this.differing.push(place);
  }

  /** The right option's place. @throws DataProblem */
  decide({ column, position, text, number, given, options }: Answer): number {
    if (column !== "cop") return (this.texts ? text : (position ?? text))!;
    const first = this.cop_from.first;
    const index = (number ?? -1) - first;
    if (index >= 0 && index < options.texts.length) return index;
    throw new DataProblem(`cop ${show(given)}`, `${first} to ${first + options.texts.length - 1}`);
  }

  /** What a person should look at. */
  get warnings(): string[] {
    const warnings: string[] = [];
    if (this.differing.length > 0)
      warnings.push(
        `answers that are a position and also the text of another option are read as ${
          this.texts ? "texts, since every answer of the file is one" : "positions (numbers count from 0)"
        }: ${some(this.differing)}`,
      );
    const { first, shown } = this.cop_from;
    if (this.cops.length > 0 && !shown)
      warnings.push(
        `cop is taken to count from ${first}, which no value of it shows (MedMCQA's files count from 1, the hub's from 0)`,
      );
    if (this.cops.length === 0 && this.numbers.all && !this.numbers.zero && !this.texts && this.count >= MANY)
      warnings.push(
        `none of ${this.count} answers is 0: they are read as counting from 0; where they count from 1, write letters`,
      );
    return warnings;
  }

  private get texts(): boolean {
    return this.all_texts && !this.all_positions;
  }

  /** MedMCQA's own files count from 1, the hub's from 0. */
  private get cop_from(): { first: 0 | 1; shown: boolean } {
    if (this.cops.includes(0)) return { first: 0, shown: true };
    if (this.cops.includes(this.widest)) return { first: 1, shown: true };
    return { first: this.counts_from, shown: false };
  }
}
