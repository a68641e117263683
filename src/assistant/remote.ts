/**
 * The same capabilities over an OpenAI-compatible server (vLLM, llama-server, Ollama, this project's own): where one machine is
 * outgrown, the model runs there. Answers are the server's; probabilities of options are read from the log-probabilities of the letter
 * that it writes, or asked of `/v1/mcqa` where the server is one of ours.
 */

import { type Completion, completion, logged_completion, mcqa_answer, refused } from "../engine/answers.js";
import { check_generation_options } from "../engine/generation_options.js";
import { HttpError, type HttpOptions, request, request_events } from "../engine/http.js";
import { find_model, type RemoteModel } from "../engine/remote_model.js";
import { BimedixError } from "../errors.js";
import { type Language, language_of } from "../text/arabic.js";
import type { ChatMessage } from "../text/chat.js";
import { context_prompt, mcqa_prompt, option_letters_of, question_words } from "../text/questions.js";
import {
  type Answering,
  type AnswerOptions,
  type AskResult,
  ask_result,
  type CallOptions,
  type McqaResult,
  mcqa_result,
} from "./assistant.js";

/** What a model is told so that its answer begins with what is looked for. */
const only = {
  letter: { en: "Answer with the letter alone.", ar: "أجب بالحرف وحده." },
  word: { en: "Answer with one word: yes, no or maybe.", ar: "أجب بكلمة واحدة: نعم أو لا أو ربما." },
} as const;

/** Options that have the same name and meaning in the API of servers. */
const understood = [
  "top_p",
  "top_k",
  "min_p",
  "repetition_penalty",
  "frequency_penalty",
  "presence_penalty",
  "logit_bias",
  "seed",
];

export class RemoteAssistant implements Answering {
  /** Whether the server has /v1/mcqa; null before it was asked. */
  private has_mcqa: boolean | null = null;
  private readonly disposed = Promise.resolve();

  private constructor(
    readonly remote: RemoteModel,
    private readonly options: HttpOptions,
  ) {}

  /** @param url of the server's `/v1`; `#NAME` after it chooses among several models @throws BimedixError server_refused */
  static async connect(url: string, options: HttpOptions = {}): Promise<RemoteAssistant> {
    return new RemoteAssistant(await find_model(url, options), options);
  }

  get place(): string {
    return `${this.remote.base}#${this.remote.id}`;
  }

  async *chat(messages: readonly ChatMessage[], options: AnswerOptions = {}): AsyncGenerator<string> {
    const body = { ...this.body(options), messages, stream: true };
    for await (const event of request_events(this.remote.base, "/chat/completions", body, this.call(options)))
      yield piece_of(event, this.place, (choice) => choice.delta?.content);
  }

  async *generate(prompt: string, options: AnswerOptions = {}): AsyncGenerator<string> {
    const body = { ...this.body(options), prompt, stream: true };
    for await (const event of request_events(this.remote.base, "/completions", body, this.call(options)))
      yield piece_of(event, this.place, (choice) => choice.text);
  }

  /** By characters, of which a token has two at least, since only the server can count tokens. */
  overflow(messages: readonly ChatMessage[], room: number): number {
    const limit = 2 * ((this.remote.max_model_len ?? Number.POSITIVE_INFINITY) - room);
    const size = (from: number) =>
      messages.slice(from).reduce((sum, { content }) => sum + (typeof content === "string" ? content.length : 0), 0);
    let dropped = 0;
    while (messages.length - dropped > 1 && size(dropped) > limit) dropped += 2;
    return dropped;
  }

  async mcqa({
    question,
    options,
    language = language_of(question),
    ...call
  }: { question: string; options: readonly string[]; language?: Language } & CallOptions): Promise<McqaResult> {
    const letters = option_letters_of(options, language);
    const exact = await this.own_mcqa({ question, options, language }, call);
    if (exact) return exact;
    const prompt = `${mcqa_prompt(question, options, language)}\n${only.letter[language]}`;
    const probabilities = await this.choose(prompt, letters, call);
    return mcqa_result(language, options, letters, probabilities);
  }

  async ask({
    context,
    question,
    language = language_of(question),
    ...call
  }: { context: string; question: string; language?: Language } & CallOptions): Promise<AskResult> {
    const prompt = `${context_prompt(context, question, language)}\n${only.word[language]}`;
    return ask_result(language, await this.choose(prompt, question_words[language].verdicts, call));
  }

  async *ask_freely(
    { context, question, language = language_of(question) }: { context: string; question: string; language?: Language },
    options: AnswerOptions = {},
  ): AsyncGenerator<string> {
    yield* this.chat([{ role: "user", content: context_prompt(context, question, language) }], options);
  }

  /** A request of the API as it is, to another path: the events of its stream. Sent once: who asked decides whether to ask again. */
  forward_events(path: string, body: object, signal: AbortSignal): AsyncGenerator<Completion> {
    const own = { ...body, model: this.remote.id, stream: true };
    return request_events(this.remote.base, path, own, { ...this.call({ signal }), retry: "never" });
  }

  /** The same, for the whole answer. */
  forward(path: string, body: object, signal: AbortSignal): Promise<Completion> {
    const own = { ...body, model: this.remote.id, stream: false };
    return request(this.remote.base, path, own, completion, { ...this.call({ signal }), retry: "never" });
  }

  /** There is nothing to free here. */
  dispose(): Promise<void> {
    return this.disposed;
  }

  private call({ signal }: { signal?: AbortSignal }): HttpOptions {
    return { ...this.options, ...(signal ? { signal } : {}) };
  }

  private body(options: AnswerOptions): Record<string, unknown> {
    if (options.adapter) {
      throw new BimedixError("bad_option", {
        given: `adapter ${JSON.stringify(options.adapter)} for a model on a server`,
        expected: "none: a server gives each of its adapters a model name",
        todo: "choose it by #NAME in --model",
      });
    }
    const {
      signal: _,
      adapter: __,
      stop,
      stop_strings,
      ...checked
    } = check_generation_options(options) as AnswerOptions;
    const { max_new_tokens: max_tokens, do_sample, temperature, ...rest } = checked;
    const other = Object.keys(rest).find((name) => !understood.includes(name));
    if (other !== undefined) {
      throw new BimedixError("bad_option", {
        given: `${other} for a model on a server`,
        expected: `max_new_tokens, do_sample, temperature, stop, ${understood.join(", ")}`,
        todo: "leave it out",
      });
    }
    const given = {
      ...rest,
      max_tokens,
      temperature: do_sample === false ? 0 : temperature,
      stop: stop ?? stop_strings,
    };
    const set = Object.entries(given).filter(([, value]) => value !== undefined);
    return { model: this.remote.id, ...Object.fromEntries(set) };
  }

  /** The answer of a server of this project; null of any other. */
  private async own_mcqa(
    asked: { question: string; options: readonly string[]; language: Language },
    call: CallOptions,
  ): Promise<McqaResult | null> {
    if (this.has_mcqa === false) return null;
    const body = { ...this.body(call), ...asked };
    try {
      const result = await request(this.remote.base, "/mcqa", body, mcqa_answer, this.call(call));
      this.has_mcqa = true;
      if (result.options.length === asked.options.length) return result;
      throw refused(this.place, `answers ${asked.options.length} options with ${result.options.length}`, {
        expected: "each with its probability",
        todo: "check the server",
      });
    } catch (error) {
      if (!(error instanceof HttpError && [404, 405].includes(error.status))) throw error;
      this.has_mcqa = false;
      return null;
    }
  }

  /** The probabilities of `answers`, relative to each other, where the model begins to write one of them. */
  private async choose(prompt: string, answers: readonly string[], call: CallOptions): Promise<number[]> {
    const body = {
      ...this.body(call),
      messages: [{ role: "user", content: prompt }],
      max_tokens: 8,
      temperature: 0,
      logprobs: true,
      top_logprobs: 20,
    };
    const answer = await request(this.remote.base, "/chat/completions", body, logged_completion, this.call(call));
    const [choice] = answer.choices;
    const begins = (token: string) => {
      const text = token
        .trim()
        .replace(/[.):]$/, "")
        .toLowerCase();
      return text === "" ? -1 : answers.findIndex((one) => one.toLowerCase().startsWith(text));
    };
    const place = choice?.logprobs?.content?.find(({ token }) => begins(token) >= 0);
    const weights = answers.map(() => 0);
    for (const { token, logprob } of place?.top_logprobs ?? []) {
      const at = begins(token);
      if (at >= 0) weights[at]! += Math.exp(logprob);
    }
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    if (!(total > 0)) {
      throw refused(this.place, "answered without log-probabilities of an option", {
        expected: `${answers.join(", ")}, with logprobs`,
        todo: "use a server that gives log-probabilities, such as vLLM or llama-server",
      });
    }
    return weights.map((weight) => weight / total);
  }
}

type StreamChoice = NonNullable<Completion["choices"]>[number];
type Content = NonNullable<StreamChoice["delta"]>["content"];

/** The text that an event adds, which may be none: some hold usage, a role, or what a model thinks before it answers. */
function piece_of({ choices, error }: Completion, place: string, text: (choice: StreamChoice) => Content): string {
  if (error) {
    const said = typeof error === "string" ? error : (error as { message?: unknown }).message;
    const message = typeof said === "string" ? said : "without a reason";
    throw refused(place, `failed (${message})`, { expected: "a whole answer", todo: "ask again" });
  }
  const found = (choices?.[0] && text(choices[0])) ?? "";
  return typeof found === "string" ? found : found.map((part) => part.text ?? "").join("");
}
