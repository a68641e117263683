/** An answer that is being made: text and log-probabilities from the tokens that the engine gives, as they come. */

import type { Assistant } from "../assistant/assistant.js";
import type { RemoteAssistant } from "../assistant/remote.js";
import { Channel } from "../engine/channel.js";
import type { GenerateOptions } from "../engine/engine.js";
import { StopStrings } from "../text/stop.js";
import { StreamingDecoder } from "../text/tokenizer.js";
import { bytes_of, code_points, type LoggedToken, TokenBytes } from "./logprobs.js";
import type { Tokens } from "./tokens.js";

/** A model as requests name it. */
export interface Served {
  name: string;
  assistant: Assistant;
  tokens: Tokens;
  adapter: string | null;
}

/** The same of another server. */
export type Forwarded = Omit<Served, "assistant" | "tokens"> & { assistant: RemoteAssistant; tokens: null };

/** A piece of an answer: text that is complete, and the tokens that completed it. */
export interface Piece {
  text: string;
  tokens: LoggedToken[];
  /** How many tokens were written for it, the one that ends an answer among them; a prompt's own are not. */
  generated: number;
  finish_reason: "stop" | "length" | null;
}

export interface Choice {
  input_ids: readonly number[];
  options: GenerateOptions & { stop?: string | readonly string[] };
  /** The answer goes on in the prompt's own text, and does not begin a turn. */
  continues: boolean;
  /** Every token is told, also those that end an answer or that a stop text cuts off: a completion's. */
  every_token: boolean;
  /** The prompt again, where it is asked for. */
  echo: Promise<{ text: string; tokens: LoggedToken[] }> | null;
}

/** The pieces of one answer; the last has a finish_reason. */
export async function* pieces_of(choice: Choice, served: Served, signal: AbortSignal): AsyncGenerator<Piece> {
  const { input_ids, options, continues, every_token } = choice;
  const { tokenizer, model } = served.assistant;
  const { stop, ...rest } = options;
  const { max_new_tokens, eos_token_id = model.config.eos_token_id } = rest;
  const echo = await choice.echo;
  if (echo) yield { ...echo, generated: 0, finish_reason: max_new_tokens === 0 ? "length" : null };
  if (max_new_tokens === 0) return;
  const ends = new Set(eos_token_id === null ? [] : [eos_token_id].flat());
  const decoder = new StreamingDecoder(tokenizer, { skip_special_tokens: true });
  // What the prompt begins, a word or a character, the answer may end.
  if (continues) for (const id of input_ids) decoder.push(id);
  const stops = new StopStrings(stop);
  const tokens = new TokenBytes(echo ? code_points(echo.text) : 0);
  let [generated, shown] = [0, 0];
  const piece = (text: string, finish_reason: Piece["finish_reason"]): Piece => {
    shown += Buffer.byteLength(text);
    // A completion has all of its tokens, also those that a stop text cuts off.
    const whole = every_token || (finish_reason !== null && stops.found === null);
    const logged = whole ? tokens.end() : finish_reason === null ? tokens.take(shown) : tokens.cut(shown);
    const one = { text, tokens: logged, generated, finish_reason };
    generated = 0;
    return one;
  };
  let finish_reason: Piece["finish_reason"] = "length";
  for await (const { token_id, logprob, top } of model.engine.generate([input_ids], { ...rest, signal })) {
    generated++;
    const ended = ends.has(token_id);
    const has_text = !ended && token_id < tokenizer.vocab_size;
    const decoded = has_text ? decoder.push(token_id) : "";
    // lm-evaluation-harness takes all but the last for the prompt's: a text has every token, a message its words'.
    if (has_text || every_token) {
      const bytes = has_text && !tokenizer.is_special(token_id) ? bytes_of(token_id, tokenizer) : new Uint8Array();
      tokens.push({ token_id, logprob: logprob ?? null, top: top ?? [], offset: 0, bytes }, decoded);
    }
    if (ended) {
      finish_reason = "stop";
      break;
    }
    const text = stops.push(decoded);
    if (stops.found !== null) {
      yield piece(text, "stop");
      return;
    }
    // What is no character yet, or may begin a stop text, goes with the next.
    if (text !== "") yield piece(text, null);
  }
  const left = decoder.flush();
  tokens.place(left);
  const last = stops.push(left) + stops.flush();
  yield piece(last, stops.found === null ? finish_reason : "stop");
}

/**
 * What several generators give, as it comes; each is asked for its next once the last was taken. Leaving the loop ends all of them. One
 * queue, since a Promise.race over all that wait, once a piece, costs the square of their number.
 */
export async function* merged<T>(generators: readonly AsyncGenerator<T>[]): AsyncGenerator<{ from: number; value: T }> {
  if (generators.length === 1) {
    for await (const value of generators[0]!) yield { from: 0, value };
    return;
  }
  const ready = new Channel<{ from: number; value: T }>();
  let open = generators.length;
  const ask = (from: number) =>
    generators[from]!.next().then(({ done, value }) => {
      if (!done) ready.push({ from, value });
      else if (--open === 0) ready.end();
    }, ready.end.bind(ready));
  for (const from of generators.keys()) void ask(from);
  try {
    for await (const one of ready.read()) {
      void ask(one.from);
      yield one;
    }
  } finally {
    await Promise.all(generators.map((generator) => generator.return(undefined).catch(() => {})));
  }
}
