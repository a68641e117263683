/** What the verbs share: loading with a progress bar, and the options of generation. */
import { type Answering, type AnswerOptions, Assistant, notice } from "../assistant/assistant.js";
import { RemoteAssistant } from "../assistant/remote.js";
import { EMBEDDED_MODEL } from "../embedded.js";
import { asked_sampling } from "../engine/sampler.js";
import { BimedixError } from "../errors.js";
import { parse_dtype } from "../model/convert.js";
import { language_of } from "../text/arabic.js";

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

/** The model inside the package; this file runs as dist/src/cli/common.js. */

/** One line on the terminal that is written over; nothing where the output is not a terminal. */
export function progress_bar(label: string): (progress: { file?: string; done: number; total: number }) => void {
  return ({ file, done, total }) => {
    if (!process.stderr.isTTY) return;
    const part = total > 0 ? Math.min(1, done / total) : 1;
    const bar = "█".repeat(Math.round(part * 24)).padEnd(24, "░");
    const end = done >= total ? "\r\x1b[K" : "";
    process.stderr.write(
      `\r\x1b[K${label} ${bar} ${Math.round(part * 100)} % of ${(total / 1e6).toFixed(0)} MB${file ? ` ${file}` : ""}${end}`,
    );
  };
}

export const is_url = (model: string) => /^https?:\/\//.test(model);

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
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
}

/** Says what the answers are, in the language of the question, beside the answer and not in it. */
export function show_notice(text: string): void {
  const line = notice[language_of(text)];
  process.stderr.write(process.stderr.isTTY ? `\x1b[2m${line}\x1b[0m\n` : `${line}\n`);
}

/** Writes pieces as they come and returns the whole. */
export async function show(pieces: AsyncIterable<string>): Promise<string> {
  let text = "";
  for await (const piece of pieces) {
    text += piece;
    process.stdout.write(piece);
  }
  process.stdout.write("\n");
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
