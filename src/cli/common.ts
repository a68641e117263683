/** What the verbs share: loading with a progress bar, what is read and written, and the options of generation. */
import { createInterface } from "node:readline/promises";
import { type Answering, type AnswerOptions, Assistant, notice } from "../assistant/assistant.js";
import { RemoteAssistant } from "../assistant/remote.js";
import { EMBEDDED_MODEL } from "../embedded.js";
import { asked_sampling, check_sampling } from "../engine/sampler.js";
import { aborted, BimedixError } from "../errors.js";
import { read_text } from "../files.js";
import { parse_dtype } from "../model/convert.js";
import { language_of } from "../text/arabic.js";
import { end_by, reader_left } from "./ending.js";
import { bar, dim, fold, type Output, printable, show_state, WordWrap } from "./terminal.js";

export interface ModelOptions {
  model?: string;
  adapter?: string;
  dtype: string;
  json?: boolean;
}

export interface GenerationOptions {
  maxNewTokens?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  repetitionPenalty?: number;
  seed?: number;
  stop?: string[];
}

/** One line on the terminal that is written over; nothing where the output is not a terminal, but whom this process waits for. */
export function progress_bar(
  label: string,
): (progress: { file?: string; done: number; total: number; waiting?: string }) => void {
  let told = false;
  return ({ file, done, total, waiting }) => {
    if (waiting !== undefined) {
      if (!told) process.stderr.write(`waiting for ${waiting}, ten seconds at most if it has died\n`);
      told = true;
      return;
    }
    const part = total > 0 ? Math.min(1, done / total) : 1;
    const numbers = `${Math.round(part * 100)} % of ${(total / 1e6).toFixed(0)} MB${file ? ` ${file}` : ""}`;
    show_state(done >= total ? "" : `${label} ${bar(part)} ${numbers}`);
  };
}

/** Whether a model is on a server. @throws BimedixError bad_option for half a URL */
export function is_url(model: string): boolean {
  if (!/^https?:\/\//.test(model)) return false;
  if (URL.canParse(model)) return true;
  throw new BimedixError("bad_option", {
    given: `--model ${model}`,
    expected: "the URL of a server's /v1, such as http://127.0.0.1:8000/v1",
    todo: "correct it",
  });
}

/** A model of this machine or, by the URL of a server's `/v1`, of another. */
export function load_assistant({ model = EMBEDDED_MODEL, adapter, dtype }: ModelOptions): Promise<Answering> {
  if (is_url(model)) {
    if (adapter !== undefined) throw no_adapter();
    return RemoteAssistant.connect(model);
  }
  return Assistant.from_pretrained(model, {
    dtype: parse_dtype(dtype),
    on_progress: progress_bar("loading"),
    ...(adapter === undefined ? {} : { adapter }),
  });
}

export const no_adapter = () =>
  new BimedixError("bad_option", {
    given: "--adapter with a model on a server",
    expected: "none: a server gives each of its adapters a model name",
    todo: "choose it by #NAME in --model",
  });

/** @throws BimedixError bad_option for a value out of range, before anything is loaded */
export function answer_options(options: GenerationOptions): AnswerOptions {
  const { temperature, maxNewTokens, topK, topP, repetitionPenalty, seed, stop } = options;
  const given = {
    max_new_tokens: maxNewTokens,
    top_k: topK,
    top_p: topP,
    repetition_penalty: repetitionPenalty,
    seed,
    stop,
    ...asked_sampling({ temperature, top_k: topK, top_p: topP, seed }),
  };
  const set = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  check_sampling(set);
  return set;
}

let input_was_read = false;

/** All that is piped in. @throws BimedixError file_unreadable when it is not UTF-8, bad_option when it is asked for twice */
export async function read_input(): Promise<string> {
  if (input_was_read) {
    throw new BimedixError("bad_option", {
      given: "- for more than one text",
      expected: "it once, as there is one input",
      todo: "put the other text into a file or on the command line",
    });
  }
  input_was_read = true;
  const chunks: Uint8Array[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Uint8Array);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks));
  } catch {
    throw new BimedixError("file_unreadable", {
      given: "an input that is not UTF-8 text",
      expected: "text",
      todo: "save it as UTF-8",
    });
  }
}

/** The words of a question or prompt, where `-` stands for what is piped in. */
export async function text_of(args: readonly string[]): Promise<string> {
  const parts = await Promise.all(args.map(async (word) => (word === "-" ? (await read_input()).trim() : word)));
  // A text that was piped in stands in a paragraph of its own.
  return parts
    .map((part, i) => (i === 0 ? part : `${[args[i], args[i - 1]].includes("-") ? "\n\n" : " "}${part}`))
    .join("");
}

export const text_of_file = (file: string, expected: string) =>
  file === "-" ? read_input() : read_text(file, expected);

/** Whether to write over what is there: `--force` says so, a person at a terminal is asked. @throws BimedixError bad_option */
export async function may_replace(what: string, force = false): Promise<void> {
  if (force) return;
  if (process.stdin.isTTY && process.stderr.isTTY) {
    const terminal = createInterface({ input: process.stdin, output: process.stderr });
    const stop = new AbortController();
    terminal.once("close", () => stop.abort());
    terminal.once("SIGINT", () => {
      terminal.close();
      end_by("SIGINT");
    });
    const answer = await terminal.question(`${what}. Write over it? [y/N] `, { signal: stop.signal }).catch(() => "");
    terminal.close();
    if (/^(y|yes|نعم)$/i.test(answer.trim())) return;
  }
  throw new BimedixError("bad_option", {
    given: what,
    expected: "a place where nothing is written over",
    todo: "choose another --output, or add --force",
  });
}

/** Says what the answers are, in the language of the question, beside the answer and not in it. */
export function show_notice(text: string, output: Output = process.stderr): void {
  output.write(`${dim(fold(notice[language_of(text)], output), output)}\n`);
}

/** Writes pieces as they come, on a terminal with lines that break between words, and returns the whole. */
export async function show(pieces: AsyncIterable<string>, output: Output = process.stdout): Promise<string> {
  let text = "";
  const wrap = output.isTTY ? new WordWrap(() => output.columns ?? 0) : null;
  const end = () => output.write(`${wrap?.flush() ?? ""}\n`);
  try {
    for await (const piece of pieces) {
      text += piece;
      output.write(wrap?.push(printable(piece)) ?? piece);
      if (reader_left.aborted) throw aborted();
    }
  } catch (error) {
    if (text) end();
    throw error;
  }
  end();
  return text;
}

export async function collect(pieces: AsyncIterable<string>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}

export const print_json = (value: unknown): void => {
  process.stdout.write(`${JSON.stringify(value)}\n`);
};
