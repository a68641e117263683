/** From JSON lines to token ids with the answers marked, and from those to rows of one length. */
import { createReadStream } from "node:fs";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { type Language, language_of, option_letters } from "../text/arabic.js";
import type { ChatMessage } from "../text/chat.js";
import { mcqa_prompt, question_words } from "../text/questions.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { Batch } from "./network.js";
import type { SourceRecipe } from "./recipe.js";

/** One conversation: its tokens, and for each whether the model is to learn to write it. */
export interface Example {
  input_ids: Int32Array;
  learnt: Uint8Array;
}

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
  const report: DataReport = { path, examples: 0, damaged: [], truncated: 0, dropped: 0, tokens: 0 };
  const examples: Example[] = [];
  for await (const { line, text } of lines(path)) {
    if (text.trim() === "") continue;
    try {
      const whole = encode_messages(to_messages(text, type), tokenizer, train_on_inputs);
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
      if (!(error instanceof BimedixError) && !(error instanceof Problem)) throw error;
      if (on_damaged_line === "stop") {
        throw new BimedixError(
          "bad_data",
          {
            given: `line ${line} of ${path}: ${error.message}`,
            expected: `an example of type ${type}`,
            todo: "correct the line, or set on_damaged_line: skip",
          },
          error,
        );
      }
      report.damaged.push({ line, reason: error.message });
    }
  }
  report.examples = examples.length;
  if (examples.length === 0) {
    throw new BimedixError("bad_data", {
      given: `${path} without an example that can be learnt (${report.damaged.length} damaged, ${report.dropped} without an answer in ${sequence_len} tokens)`,
      expected: `lines of type ${type}`,
      todo: "check the file and its type",
    });
  }
  return { examples, report };
}

class Problem extends Error {}

/** The lines of a UTF-8 file, one in memory at a time; the last may be cut short and is read all the same. */
async function* lines(path: string): AsyncGenerator<{ line: number; text: string }> {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: false });
  let rest = "";
  let line = 0;
  try {
    for await (const chunk of createReadStream(path)) {
      const parts = (rest + decoder.decode(chunk as Uint8Array, { stream: true })).split("\n");
      rest = parts.pop()!;
      for (const text of parts) yield { line: ++line, text };
    }
  } catch (error) {
    throw file_error(error, path, "a file of JSON lines");
  }
  yield { line: ++line, text: rest + decoder.decode() };
}

type Json = Record<string, unknown>;

function to_messages(text: string, type: SourceRecipe["type"]): ChatMessage[] {
  let json: Json;
  try {
    json = JSON.parse(text) as Json;
  } catch {
    throw new Problem("not JSON");
  }
  if (typeof json !== "object" || json === null) throw new Problem("not a JSON object");
  if (text.includes("\ufffd")) throw new Problem("bytes that are not UTF-8, or U+FFFD");
  if (type === "chat") return chat_messages(json);
  return type === "instruction" ? instruction_messages(json) : mcqa_messages(json);
}

function words(json: Json, field: string): string {
  const value = json[field];
  if (typeof value !== "string" || value.trim() === "")
    throw new Problem(`${field} is ${value === undefined ? "missing" : "not a text"}`);
  return value;
}

function chat_messages(json: Json): ChatMessage[] {
  const { messages } = json;
  if (!Array.isArray(messages) || messages.length === 0) throw new Problem("messages is not a list");
  for (const [i, message] of messages.entries()) {
    if (!["system", "user", "assistant"].includes(message?.role))
      throw new Problem(`message ${i} has the role ${JSON.stringify(message?.role)}`);
    words(message, "content");
  }
  if (messages.at(-1).role !== "assistant") throw new Problem("the last message is not the assistant's");
  return messages as ChatMessage[];
}

function instruction_messages(json: Json): ChatMessage[] {
  const input = json.input === undefined || json.input === "" ? "" : `\n\n${words(json, "input")}`;
  return [
    { role: "user", content: words(json, "instruction") + input },
    { role: "assistant", content: words(json, "output") },
  ];
}

/** In the words in which the product asks: `answer` is an index from 0, a letter, or the text of an option. */
function mcqa_messages(json: Json): ChatMessage[] {
  const question = words(json, "question");
  const { options } = json;
  const language: Language = json.language === "en" || json.language === "ar" ? json.language : language_of(question);
  const letters = option_letters[language];
  if (
    !Array.isArray(options) ||
    options.length < 2 ||
    options.length > letters.length ||
    options.some((option) => typeof option !== "string" || option.trim() === "")
  )
    throw new Problem(`options is not a list of 2 to ${letters.length} texts`);
  const answer =
    typeof json.answer === "string"
      ? [letters.indexOf(json.answer), option_letters.en.indexOf(json.answer), options.indexOf(json.answer)].find(
          (i) => i >= 0,
        )
      : json.answer;
  if (!Number.isInteger(answer) || (answer as number) < 0 || (answer as number) >= options.length)
    throw new Problem(`answer ${JSON.stringify(json.answer)} is not one of ${options.length} options`);
  const asked = mcqa_prompt(question, options as string[], language);
  const given = json.context === undefined ? "" : `${question_words[language].context}: ${words(json, "context")}\n`;
  return [
    { role: "user", content: given + asked },
    { role: "assistant", content: `${question_words[language].answer} ${letters[answer as number]}.` },
  ];
}

/**
 * The tokens of a conversation in the model's chat format. The answers, and the token that ends each, are found by rendering
 * the conversation up to each turn: so they are what the model is asked for when it chats.
 */
export function encode_messages(
  messages: readonly ChatMessage[],
  tokenizer: Tokenizer,
  train_on_inputs: boolean,
): Example {
  const render = (count: number, add_generation_prompt: boolean) =>
    tokenizer.apply_chat_template(messages.slice(0, count), { add_generation_prompt });
  const ids = render(messages.length, false);
  const learnt = new Uint8Array(ids.length).fill(train_on_inputs ? 1 : 0);
  for (const [i, { role }] of messages.entries()) {
    if (role !== "assistant" || train_on_inputs) continue;
    const before = i === 0 ? [] : render(i, true);
    const after = i === messages.length - 1 ? ids : render(i + 1, false);
    if (!starts_with(ids, before) || !starts_with(ids, after))
      throw new Problem(
        `the chat template renders message ${i} otherwise at the end than in the middle of a conversation`,
      );
    learnt.fill(1, before.length, after.length);
  }
  return { input_ids: Int32Array.from(ids), learnt };
}

const starts_with = (ids: readonly number[], start: readonly number[]) => start.every((id, i) => ids[i] === id);

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
