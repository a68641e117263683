/** From data files to token ids with the answers marked, and from those to rows of one length. */
import { chat_turns, instruction_turns, type Lesson, prompt_completion } from "../data/conversations.js";
import { answer_rule, type Question, read_question, settled } from "../data/questions.js";
import { type DataEntry, DataProblem, data_entries } from "../data/records.js";
import { BimedixError } from "../errors.js";
import { option_letters } from "../text/arabic.js";
import { mcqa_prompt, question_words } from "../text/questions.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type Example, encode_lesson } from "./examples.js";
import type { Batch } from "./network.js";
import type { SourceRecipe } from "./recipe.js";

export { type Example, encode_messages } from "./examples.js";

/** What happened to the lines of a data set. */
export interface DataReport {
  path: string;
  examples: number;
  /** Lines that could not be read, with their numbers and reasons. */
  damaged: { line: number; reason: string }[];
  /** Longer than a row: their end was cut off. */
  truncated: number;
  /** Of those, the ones that had no answer left. */
  dropped: number;
  tokens: number;
  /** What a person should look at. */
  warnings: string[];
}

export interface DataOptions {
  sequence_len: number;
  train_on_inputs: boolean;
  on_damaged_line: "stop" | "skip";
}

/** @throws BimedixError file_not_found, bad_data with the line's number where the policy is to stop, or when nothing is left */
export async function read_dataset(
  { path, type }: SourceRecipe,
  tokenizer: Tokenizer,
  { sequence_len, train_on_inputs, on_damaged_line }: DataOptions,
): Promise<{ examples: Example[]; report: DataReport }> {
  const report: DataReport = { path, examples: 0, damaged: [], truncated: 0, dropped: 0, tokens: 0, warnings: [] };
  const examples: Example[] = [];
  const lesson = await reader(path, type);
  for await (const entry of data_entries(path)) {
    try {
      if ("problem" in entry) throw entry.problem;
      const whole = encode_lesson(lesson.read(entry.value), tokenizer, train_on_inputs);
      const example = {
        input_ids: whole.input_ids.slice(0, sequence_len),
        learnt: whole.learnt.slice(0, sequence_len),
      };
      if (whole.input_ids.length > sequence_len) report.truncated++;
      // The first token is never predicted.
      if (!example.learnt.subarray(1).includes(1)) {
        report.dropped++;
        continue;
      }
      examples.push(example);
      report.tokens += example.input_ids.length;
    } catch (error) {
      if (!(error instanceof BimedixError) && !(error instanceof DataProblem)) throw error;
      if (on_damaged_line === "stop") throw damaged(error, entry, type);
      report.damaged.push({ line: entry.line, reason: error instanceof DataProblem ? error.given : error.message });
    }
  }
  report.examples = examples.length;
  report.warnings = lesson.warnings;
  if (examples.length === 0) {
    throw new BimedixError("bad_data", {
      given: `${path} without an example that can be learnt (${report.damaged.length} damaged, ${report.dropped} without an answer in ${sequence_len} tokens)`,
      expected: `lines of type ${type}`,
      todo: "check the file and its type",
    });
  }
  return { examples, report };
}

function damaged(error: BimedixError | DataProblem, { where }: DataEntry, type: SourceRecipe["type"]): BimedixError {
  const given = error instanceof DataProblem ? error.given : error.message;
  return new BimedixError(
    "bad_data",
    {
      given: `${where}: ${given}`,
      expected: error instanceof DataProblem ? error.expected : `an example of type ${type}`,
      todo: "correct it, or set on_damaged_line: skip",
    },
    error,
  );
}

/** How a file of a type is read. Answers of questions mean what all of them together show, so those are read twice. */
async function reader(
  path: string,
  type: SourceRecipe["type"],
): Promise<{ read: (value: unknown) => Lesson; warnings: string[] }> {
  if (type === "chat") return { read: chat_turns, warnings: [] };
  if (type === "instruction") return { read: instruction_turns, warnings: [] };
  if (type === "prompt_completion") return { read: prompt_completion, warnings: [] };
  const rule = answer_rule(path);
  for await (const entry of data_entries(path)) {
    if ("problem" in entry) continue;
    try {
      rule.see(read_question(entry.value).answer, `line ${entry.line}`);
    } catch (error) {
      // The second reading says what is wrong.
      if (!(error instanceof DataProblem)) throw error;
    }
  }
  return { read: (value) => question_turns(settled(read_question(value), rule)), warnings: rule.warnings };
}

/** In the words in which the product asks. */
function question_turns({ question, options, answer, context, language }: Question): Lesson {
  const words = question_words[language];
  const given = context ? `${words.context}: ${context}\n` : "";
  return [
    { role: "user", content: given + mcqa_prompt(question, options, language), learn: false },
    { role: "assistant", content: `${words.answer} ${option_letters[language][answer]}.`, learn: true },
  ];
}

/** Rows that are open at once while examples are packed. */
const OPEN = 64;

/**
 * The rows of one pass over the data: lists of indices of examples whose lengths add up to at most `sequence_len`. The order
 * depends on the seed alone. Each example goes into the first open row that has room.
 */
export function pack(lengths: readonly number[], sequence_len: number, packing: boolean, seed: number): number[][] {
  const order = shuffled(lengths.length, seed);
  if (!packing) return order.map((index) => [index]);
  const rows: number[][] = [];
  const open: { row: number[]; room: number }[] = [];
  for (const index of order) {
    const length = lengths[index]!;
    let place = open.find(({ room }) => room >= length);
    if (!place) {
      place = { row: [], room: sequence_len };
      rows.push(place.row);
      // The fullest makes way.
      if (open.length === OPEN) open.splice(open.indexOf(open.reduce((a, b) => (b.room < a.room ? b : a))), 1);
      open.push(place);
    }
    place.row.push(index);
    place.room -= length;
  }
  return rows;
}

/** 0 to n-1 in an order that the seed decides. */
export function shuffled(n: number, seed: number): number[] {
  const random = generator(seed);
  const order = Array.from({ length: n }, (_, i) => i);
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** Numbers from 0 to 1 (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A micro-batch: `sequences` rows, the shorter and missing ones padded. */
export function to_batch(rows: readonly (readonly Example[])[], sequences: number): Batch {
  const width = Math.max(...rows.map((row) => row.reduce((sum, { input_ids }) => sum + input_ids.length, 0)));
  const empty = () => new Int32Array(sequences * width);
  const batch: Batch = {
    sequences,
    input_ids: empty(),
    position_ids: empty(),
    documents: empty(),
    labels: empty().fill(-100),
  };
  for (const [i, row] of rows.entries()) {
    let at = i * width;
    for (const [document, { input_ids, learnt }] of row.entries()) {
      batch.input_ids.set(input_ids, at);
      for (let token = 0; token < input_ids.length; token++) {
        batch.position_ids[at + token] = token;
        batch.documents[at + token] = document + 1;
        if (token + 1 < input_ids.length && learnt[token + 1]) batch.labels[at + token] = input_ids[token + 1]!;
      }
      at += input_ids.length;
    }
  }
  return batch;
}
