/**
 * The three capabilities of BiMediX over any model: chats, multiple-choice questions and closed questions about a text,
 * in English and Arabic. For research: none of it is medical advice, and `notice` says so in the user's language.
 */
import { AutoModelForCausalLM, AutoTokenizer, type PretrainedOptions } from "../engine/auto.js";
import type { AdapterOption } from "../engine/engine.js";
import { answer_length, type ModelGenerateOptions } from "../engine/generate.js";
import { check_generation_options } from "../engine/generation_options.js";
import { shown } from "../engine/options.js";
import { BimedixError } from "../errors.js";
import { type Language, language_of } from "../text/arabic.js";
import { type ChatMessage, plain_messages } from "../text/chat.js";
import { context_prompt, mcqa_prompt, option_letters_of, question_words } from "../text/questions.js";
import { StopStrings } from "../text/stop.js";
import { StreamingDecoder, type Tokenizer } from "../text/tokenizer.js";

/** What a person reads before the first answer. */
export const notice: Record<Language, string> = {
  en: "Research demonstration, not medical advice: answers may be wrong. In an emergency call your local emergency number.",
  ar: "عرض بحثي وليس نصيحة طبية: قد تكون الإجابات خاطئة. في حالة الطوارئ اتصل برقم الطوارئ المحلي.",
};

export interface McqaResult {
  language: Language;
  /** The letter of the likeliest option: A, B, C, … or أ، ب، ج، … */
  answer: string;
  /** Every option in order; the probabilities sum to 1. */
  options: { letter: string; text: string; probability: number }[];
}

export interface AskResult {
  language: Language;
  /** yes, no or maybe, in the question's language. */
  answer: string;
  options: { text: string; probability: number }[];
}

/** Which weights a call computes with, and what ends it early. */
export interface CallOptions extends AdapterOption {
  signal?: AbortSignal;
}

export interface RoutingResult {
  /** The tokens' texts; where one is a part of a character, its name in the vocabulary. */
  tokens: string[];
  /** How many experts a layer has. */
  experts: number;
  /** By layer and token: the chosen experts, likeliest first, and their shares. */
  layers: { experts: number[]; probabilities: number[] }[][];
}

/** Those of `generate` that one answer in pieces can have; it ends before its stop string. */
export type AnswerOptions = Omit<
  ModelGenerateOptions,
  "input_ids" | "attention_mask" | "streamer" | "num_return_sequences" | "top_logprobs"
>;

/** What answers questions, here or on a server. */
export interface Answering {
  /** Where the model is: a directory, or a server. */
  readonly place: string;
  chat(messages: readonly ChatMessage[], options?: AnswerOptions): AsyncGenerator<string>;
  generate(prompt: string, options?: AnswerOptions): AsyncGenerator<string>;
  overflow(messages: readonly ChatMessage[], room: number): number;
  mcqa(asked: { question: string; options: readonly string[]; language?: Language } & CallOptions): Promise<McqaResult>;
  ask(asked: { context: string; question: string; language?: Language } & CallOptions): Promise<AskResult>;
  ask_freely(
    asked: { context: string; question: string; language?: Language },
    options?: AnswerOptions,
  ): AsyncGenerator<string>;
  dispose(): Promise<void>;
}

export class Assistant implements Answering {
  constructor(
    readonly model: AutoModelForCausalLM,
    readonly tokenizer: Tokenizer,
  ) {}

  /** @throws BimedixError as `AutoModelForCausalLM.from_pretrained` does */
  static async from_pretrained(id_or_dir: string, options: PretrainedOptions = {}): Promise<Assistant> {
    const model = await AutoModelForCausalLM.from_pretrained(id_or_dir, options);
    try {
      const tokenizer = await AutoTokenizer.from_pretrained(model.dir);
      // A padding token may stand beyond the vocabulary (PMC-LLaMA's does): no text and no answer holds it.
      const { vocab_size } = model.config;
      let beyond = vocab_size;
      while (beyond < tokenizer.vocab_size && tokenizer.is_special(beyond)) beyond++;
      if (beyond >= tokenizer.vocab_size) return new Assistant(model, tokenizer);
      throw new BimedixError("bad_tokenizer", {
        given: `a tokenizer with ${tokenizer.vocab_size} tokens for a model with ${vocab_size}`,
        expected: "the model's own tokenizer",
        todo: "correct the model's directory",
      });
    } catch (error) {
      await model.dispose();
      throw error;
    }
  }

  get place(): string {
    return this.model.dir;
  }

  /** The answer to a conversation, piece by piece; where nothing limits its length, the context does. */
  async *chat(messages: readonly ChatMessage[], options: AnswerOptions = {}): AsyncGenerator<string> {
    const input_ids = this.tokenizer.apply_chat_template(plain_messages(messages));
    const given = options.max_new_tokens ?? options.max_length;
    const whole =
      given === undefined ? { ...options, max_new_tokens: answer_length(this.model, input_ids.length) } : options;
    yield* this.continue(input_ids, whole);
  }

  /** The continuation of a raw prompt, piece by piece; `<s>` is added in front. */
  async *generate(prompt: string, options: AnswerOptions = {}): AsyncGenerator<string> {
    yield* this.continue(this.tokenizer.encode(required(prompt, "prompt")), options);
  }

  /** How many of the first messages must go so that the conversation leaves `room` tokens of the context for an answer. */
  overflow(messages: readonly ChatMessage[], room: number): number {
    const limit = this.model.config.max_position_embeddings - room;
    let dropped = 0;
    const plain = plain_messages(messages);
    while (plain.length - dropped > 1 && this.tokenizer.apply_chat_template(plain.slice(dropped)).length > limit)
      dropped += 2;
    return dropped;
  }

  /** Which option is right, by the probability of its letter. 2 to 10 options. */
  async mcqa({
    question,
    options,
    language = language_of(required(question, "question")),
    ...call
  }: {
    question: string;
    options: readonly string[];
    language?: Language;
  } & CallOptions): Promise<McqaResult> {
    check_language(language);
    const letters = option_letters_of(options, language);
    const prompt = mcqa_prompt(required(question, "question"), options, language);
    const probabilities = await this.choose(prompt, question_words[language].answer, letters, call);
    return mcqa_result(language, options, letters, probabilities);
  }

  /** Whether a text answers a question with yes, no or maybe. */
  async ask({
    context,
    question,
    language = language_of(required(question, "question")),
    ...call
  }: {
    context: string;
    question: string;
    language?: Language;
  } & CallOptions): Promise<AskResult> {
    check_language(language);
    const { verdicts } = question_words[language];
    const probabilities = await this.choose(closed_prompt(context, question, language), "", verdicts, call);
    return ask_result(language, probabilities);
  }

  /** The same question answered in free text, piece by piece. */
  async *ask_freely(
    {
      context,
      question,
      language = language_of(required(question, "question")),
    }: { context: string; question: string; language?: Language },
    options: AnswerOptions = {},
  ): AsyncGenerator<string> {
    yield* this.chat([{ role: "user", content: closed_prompt(context, question, language) }], options);
  }

  /** Which experts a text's tokens are sent to. @throws BimedixError bad_option for a model without experts */
  async routing(text: string, call: CallOptions = {}): Promise<RoutingResult> {
    const { config } = this.model;
    if (config.num_local_experts === 0) {
      throw new BimedixError("bad_option", {
        given: "a model without experts",
        expected: "a mixture of experts",
        todo: "choose another model",
      });
    }
    const input_ids = this.tokenizer.encode(required(text, "text"));
    const wanted = { output_logits: false, output_router_logits: true };
    const { router } = await this.model.forward({ input_ids: [input_ids], ...wanted, ...call });
    return {
      tokens: input_ids.map((id) => this.tokenizer.id_to_text(id)),
      experts: config.num_local_experts,
      layers: router![0]!,
    };
  }

  dispose(): Promise<void> {
    return this.model.dispose();
  }

  private async *continue(input_ids: number[], given: AnswerOptions): AsyncGenerator<string> {
    const { stop, stop_strings, ...options } = check_generation_options(given) as AnswerOptions;
    for (const name of ["streamer", "num_return_sequences"] as const)
      if (name in options)
        throw new BimedixError("bad_option", {
          given: `${name} for an answer in pieces`,
          expected: "one answer",
          todo: "leave it out, or call model.generate",
        });
    const decoder = new StreamingDecoder(this.tokenizer, { skip_special_tokens: true });
    const stops = new StopStrings([stop ?? [], stop_strings ?? []].flat());
    for await (const { token_id } of this.model.stream({ ...options, input_ids: [input_ids] })) {
      // Rows that round a vocabulary up to an even number stand for no text.
      const text = stops.push(token_id < this.tokenizer.vocab_size ? decoder.push(token_id) : "");
      if (text) yield text;
      if (stops.found !== null) return;
    }
    const rest = stops.push(decoder.flush()) + stops.flush();
    if (rest) yield rest;
  }

  /** The probabilities of `answers` after `lead` in the assistant's turn, relative to each other. */
  private async choose(prompt: string, lead: string, answers: readonly string[], call: CallOptions): Promise<number[]> {
    const turn = this.tokenizer.apply_chat_template([{ role: "user", content: prompt }]);
    const plain = { add_special_tokens: false };
    const leading = lead ? this.tokenizer.encode(lead, plain) : [];
    const requests = answers.map((answer) => {
      const whole = this.tokenizer.encode(lead ? `${lead} ${answer}` : answer, plain);
      return { context: [...turn, ...leading], continuation: whole.slice(leading.length) };
    });
    const scores = await this.model.engine.score(requests, call);
    const best = Math.max(...scores.map(({ logprob }) => logprob));
    const weights = scores.map(({ logprob }) => Math.exp(logprob - best));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return weights.map((weight) => weight / total);
  }
}

const closed_prompt = (context: string, question: string, language: Language) =>
  context_prompt(required(context, "context"), required(question, "question"), language);

function required(text: string, what: string): string {
  if (typeof text === "string" && text.trim() !== "") return text;
  throw new BimedixError("empty_prompt", {
    given: `an empty ${what}`,
    expected: "some text",
    todo: `write the ${what}`,
  });
}

function check_language(language: Language): void {
  if (Object.hasOwn(question_words, language)) return;
  throw new BimedixError("bad_option", {
    given: `language ${shown(language)}`,
    expected: Object.keys(question_words).join(" or "),
    todo: "change it or leave it out",
  });
}

const likeliest = (probabilities: readonly number[]) => probabilities.indexOf(Math.max(...probabilities));

export function mcqa_result(
  language: Language,
  options: readonly string[],
  letters: readonly string[],
  probabilities: readonly number[],
): McqaResult {
  const all = options.map((text, i) => ({ letter: letters[i]!, text, probability: probabilities[i]! }));
  return { language, answer: letters[likeliest(probabilities)]!, options: all };
}

export function ask_result(language: Language, probabilities: readonly number[]): AskResult {
  const { verdicts } = question_words[language];
  const all = verdicts.map((text, i) => ({ text, probability: probabilities[i]! }));
  return { language, answer: verdicts[likeliest(probabilities)]!, options: all };
}
