/** `tokenizer.apply_chat_template`, with the options of transformers. */
import { BimedixError } from "../errors.js";
import { warn } from "../warnings.js";
import type { Encoded, TokenizerCallOptions } from "./batch.js";
import { type ChatMessage, type RenderedChat, render_with_answers, render_with_spans, type Span } from "./chat.js";
import type { ChatTemplates } from "./template_files.js";

export interface ApplyOptions {
  /** Return ids (default true) or the rendered text. */
  tokenize?: boolean;
  /** Whether to end where the assistant's answer begins. Default true, false with `continue_final_message`. */
  add_generation_prompt?: boolean;
  /** Leave the last message open, for the model to go on with: its `content`, or the field of that name. Default false. */
  continue_final_message?: boolean | string;
  /**
   * A Jinja template instead of the model's own, or the name of one of the model's. Only from a trusted place: templates decide
   * what the model is told.
   */
  chat_template?: string | null;
  /** JSON schemas of functions, for templates that know them. */
  tools?: readonly object[] | null;
  /** `{ title, text }` each, for templates that know them. */
  documents?: readonly object[] | null;
  /** Further variables of the template, such as `enable_thinking`. */
  chat_template_kwargs?: Readonly<Record<string, unknown>>;
  /** Return `input_ids` and `attention_mask` instead of ids. Default false. */
  return_dict?: boolean;
  /** With `return_dict`: add `assistant_masks`, 1 for the tokens that `{% generation %}` of the template holds. Default false. */
  return_assistant_tokens_mask?: boolean;
  /** `true` or "longest" pads a batch to its longest, "max_length" to `max_length`. Default false. */
  padding?: TokenizerCallOptions["padding"];
  /** Cut to `max_length` tokens. Default false. */
  truncation?: TokenizerCallOptions["truncation"];
  /** Default: the tokenizer's `model_max_length`. */
  max_length?: number;
}

/** Of a conversation for training. */
export interface ConversationOptions
  extends Pick<ApplyOptions, "chat_template" | "tools" | "documents" | "chat_template_kwargs"> {
  /** The messages whose tokens are asked for. Default: the assistant's. */
  answers?: readonly boolean[];
}

/** One conversation's. */
export interface ChatEncoding {
  input_ids: number[];
  attention_mask: number[];
  assistant_masks?: number[];
}

/** Several conversations'. */
export interface ChatBatch {
  input_ids: number[][];
  attention_mask: number[][];
  assistant_masks?: number[][];
}

/** Tokens, and the characters that each stands for. */
export interface TokenSpans {
  ids: number[];
  spans: Span[];
}

/** What a tokenizer has for this. */
export interface ChatTokenizer {
  readonly chat_template: ChatTemplates;
  readonly special_tokens_map: Readonly<Record<string, string>>;
  readonly pad_token_id: number | null;
  readonly control_strings: readonly string[];
  encode_with_spans(text: string, outside: readonly Span[]): TokenSpans;
  fit_rows(rows: number[][], fill: number | null, options: TokenizerCallOptions): Encoded;
}

const OPTIONS = new Set([
  "tokenize", "add_generation_prompt", "continue_final_message", "chat_template", "tools", "documents", "chat_template_kwargs",
  "return_dict", "return_assistant_tokens_mask", "padding", "truncation", "max_length",
]); // biome-ignore format: a list

const bad = (given: string, expected: string, todo: string): never => {
  throw new BimedixError("bad_option", { given, expected, todo });
};

/** @throws BimedixError bad_option, bad_template */
export function apply_chat_template(
  tokenizer: ChatTokenizer,
  conversation: readonly ChatMessage[] | readonly ChatMessage[][],
  options: ApplyOptions,
): number[] | number[][] | string | string[] | ChatEncoding | ChatBatch {
  check_options(options);
  const { tokenize = true, return_dict = false } = options;
  const batched = Array.isArray(conversation) && Array.isArray(conversation[0]);
  const chats = (batched ? conversation : [conversation]) as readonly ChatMessage[][];
  const template = choose_template(tokenizer.chat_template, options);
  const rendered = chats.map((messages) =>
    render_with_spans(template, messages, {
      add_generation_prompt: options.add_generation_prompt ?? !options.continue_final_message,
      continue_final_message: options.continue_final_message,
      ...render_options(tokenizer, options),
    }),
  );
  const one = <T>(list: readonly T[]): T | readonly T[] => (batched ? list : list[0]!);
  if (!tokenize) return one(rendered.map(({ text }) => text)) as string | string[];
  const batch = finish(tokenizer, template, rendered, options);
  if (!return_dict) return one(batch.input_ids) as number[] | number[][];
  const rows = Object.entries(batch).map(([name, list]: [string, number[][]]) => [name, one(list)]);
  return Object.fromEntries(rows) as ChatEncoding | ChatBatch;
}

function check_options(options: ApplyOptions): void {
  for (const [name, value] of Object.entries(options)) {
    if (!OPTIONS.has(name) && value !== undefined)
      bad(
        `option ${name} of apply_chat_template`,
        [...OPTIONS].join(", "),
        "leave it out; variables of the template go into chat_template_kwargs",
      );
  }
  const { tokenize = true, return_dict = false, return_assistant_tokens_mask, continue_final_message } = options;
  if (return_assistant_tokens_mask && !(return_dict && tokenize))
    bad("return_assistant_tokens_mask", "return_dict: true with it, and tokenize", "add return_dict: true");
  if (continue_final_message && options.add_generation_prompt)
    bad(
      "continue_final_message with add_generation_prompt",
      "one of them",
      "leave one out: the first goes on with the last message, the second begins a new one",
    );
  if (continue_final_message && return_assistant_tokens_mask)
    bad("continue_final_message with return_assistant_tokens_mask", "one of them", "leave one out");
}

/** By name, else as given, else the model's: `tool_use` where there are tools, or `default`. */
export function choose_template(
  own: ChatTemplates,
  { chat_template, tools }: Pick<ApplyOptions, "chat_template" | "tools">,
): string {
  const none = (given: string, expected: string): never => {
    throw new BimedixError("bad_template", { given, expected, todo: "pass chat_template, or use a raw prompt" });
  };
  if (typeof own === "object" && own !== null) {
    const named = (name: string) => (Object.hasOwn(own, name) ? own[name] : undefined);
    if (typeof chat_template === "string") return named(chat_template) ?? chat_template;
    const with_tools = tools === undefined || tools === null ? undefined : named("tool_use");
    const names = Object.keys(own).sort().join(", ");
    return with_tools ?? named("default") ?? none(`a model with the chat templates ${names}`, "one of their names");
  }
  return chat_template ?? own ?? none("a model without a chat template", "chat_template.jinja");
}

/** Rows of tokens: cut and padded, and where they are asked for with masks. */
function finish(
  tokenizer: ChatTokenizer,
  template: string,
  rendered: readonly RenderedChat[],
  options: ApplyOptions,
): ChatBatch {
  const encoded = rendered.map(({ text, outside }) => tokenizer.encode_with_spans(text, outside));
  const { padding = false, truncation = false, max_length } = options;
  const fit = { padding, truncation, ...(max_length === undefined ? {} : { max_length }) };
  const { input_ids, attention_mask } = tokenizer.fit_rows(
    encoded.map(({ ids }) => ids),
    tokenizer.pad_token_id,
    fit,
  );
  if (!options.return_assistant_tokens_mask) return { input_ids, attention_mask };
  if (!/\{%-?\s*generation\s*-?%\}/.test(template))
    warn(
      "the chat template has no {% generation %}: every assistant_masks is 0. For training, encode_conversation knows the answers.",
    );
  const masks = encoded.map(({ spans }, i) => token_mask(spans, rendered[i]!.generation));
  return { input_ids, attention_mask, assistant_masks: tokenizer.fit_rows(masks, 0, fit).input_ids };
}

/** @throws BimedixError bad_option, bad_template */
export function encode_conversation(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  { answers: wanted, ...options }: ConversationOptions,
): { input_ids: number[]; answer_of: number[] } {
  const { special_tokens_map } = tokenizer;
  const ends_turn = tokenizer.control_strings.filter((token) => token !== special_tokens_map.bos_token);
  const { text, outside, answers } = render_with_answers(
    choose_template(tokenizer.chat_template, options),
    messages,
    { ...render_options(tokenizer, options), add_generation_prompt: false },
    { ends_turn, wanted: (i) => wanted?.[i] ?? messages[i]!.role === "assistant" },
  );
  const { ids, spans } = tokenizer.encode_with_spans(text, outside);
  const answer_of = spans.map(
    (token) => answers.find(({ start, end }) => token.start < end && token.end > start)?.message ?? -1,
  );
  return { input_ids: ids, answer_of };
}

const render_options = (tokenizer: ChatTokenizer, options: ApplyOptions) => ({
  tools: options.tools,
  documents: options.documents,
  special_tokens: tokenizer.special_tokens_map,
  variables: options.chat_template_kwargs,
});

/** 1 for every token that has a character in one of the stretches. */
export function token_mask(tokens: readonly Span[], stretches: readonly Span[]): number[] {
  return tokens.map((token) => Number(stretches.some(({ start, end }) => token.start < end && token.end > start)));
}
