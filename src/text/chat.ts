/** Conversations to prompts, as transformers renders them, with the origin of every character. */
import { BimedixError } from "../errors.js";
import {
  Dict,
  GENERATION,
  list_value,
  type Mark,
  render,
  strip,
  TemplateError,
  to_value,
  type Value,
} from "./jinja/index.js";

/** Fields beyond these (`tool_calls`, `name`, `reasoning_content` …) reach the template as they are. */
export interface ChatMessage {
  /** Usually system, user, assistant or tool: the template decides. */
  role: string;
  content?: string | readonly { type: "text"; text: string }[] | null;
  [field: string]: unknown;
}

/** Characters `start` up to `end` of a text, in UTF-16 units. */
export interface Span {
  start: number;
  end: number;
}

export interface RenderOptions {
  /** Whether to end where the assistant's answer begins. */
  add_generation_prompt: boolean;
  /** Leave the last message open: its `content`, or the field of that name. */
  continue_final_message?: boolean | string | undefined;
  /** JSON schemas; the template sees null where they are left out. */
  tools?: readonly object[] | null | undefined;
  /** For retrieval; likewise. */
  documents?: readonly object[] | null | undefined;
  /** `bos_token`, `eos_token` and the tokenizer's others, by name. */
  special_tokens: Readonly<Record<string, string>>;
  /** Further variables of the template; they win over the special tokens. */
  variables?: Readonly<Record<string, unknown>> | undefined;
  /** What `strftime_now` tells. Default: the clock. */
  now?: (() => Date) | undefined;
}

export interface RenderedChat {
  text: string;
  /** What came out of messages, tools and documents: in order, apart from each other. No control token begins or ends in it. */
  outside: Span[];
  /** What `{% generation %}` holds, in order. */
  generation: Span[];
  /** Where the fields of each message stand, roles apart: null for a message that the template leaves out. */
  messages: (Span | null)[];
}

/** The longest template: one comes with a model, from anywhere. */
const MAX_TEMPLATE = 200_000;
/** The source of marks on tools and documents. A message's is its index. */
const EXTRAS = -2;
const CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG ";

const bad_option = (given: string, expected: string, todo = "correct the messages"): never => {
  throw new BimedixError("bad_option", { given, expected, todo });
};

const bad_template = (given: string, cause?: unknown): never => {
  const todo = "change the messages, or use another template";
  throw new BimedixError("bad_template", { given: `a chat template that ${given}`, expected: "a prompt", todo }, cause);
};

/** @throws BimedixError bad_option for messages of the wrong shape */
function check_messages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages) || messages.length === 0) bad_option("no messages", "at least one");
  for (const [i, message] of messages.entries()) {
    if (typeof message !== "object" || message === null || Array.isArray(message))
      bad_option(`message ${i} that is not an object`, "role and content");
    const { role, content } = message as ChatMessage;
    if (typeof role !== "string" || role === "")
      bad_option(`role ${JSON.stringify(role)} of message ${i}`, "system, user, assistant or tool");
    const wrong = () =>
      bad_option(`content ${JSON.stringify(content)?.slice(0, 40)} of message ${i}`, "a text or a list of text parts");
    const others = Object.entries(message).some(
      ([field, value]) => field !== "role" && field !== "content" && value !== undefined && value !== null,
    );
    if (content === undefined || content === null || (Array.isArray(content) && content.length === 0)) {
      if (!others) wrong();
    } else if (Array.isArray(content)) {
      if (!content.every((part) => part?.type === "text" && typeof part.text === "string")) wrong();
    } else if (typeof content !== "string") wrong();
  }
}

/**
 * The messages in the form that every template reads: content as one text, and `system` for OpenAI's newer word `developer`.
 *
 * @throws BimedixError bad_option for what is neither a text nor a list of text parts
 */
export function plain_messages(messages: readonly ChatMessage[]): { role: string; content: string }[] {
  check_messages(messages);
  return messages.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : (content ?? []).map(({ text }) => text).join("\n"),
  }));
}

/** Everything of a message is marked as from outside but its role, which templates make control tokens of. */
const message_value = (message: ChatMessage, source: number): Value =>
  new Dict(
    Object.entries(message)
      .filter(([, value]) => value !== undefined)
      .map(([field, value]) => [to_value(field, null), to_value(value, field === "role" ? null : source)]),
  );

/**
 * Renders a conversation once, and says where each character came from.
 *
 * @throws BimedixError bad_option for messages of the wrong shape; bad_template for a template that is wrong, refuses the
 *   conversation, or takes too much time or memory
 */
export function render_with_spans(
  template: string,
  messages: readonly ChatMessage[],
  options: RenderOptions,
): RenderedChat {
  check_messages(messages);
  if (template.length > MAX_TEMPLATE) bad_template(`is ${template.length} characters long`);
  const { add_generation_prompt, continue_final_message = false, special_tokens, variables = {}, now } = options;
  const open = continue_final_message ? leave_open(template, messages, continue_final_message) : null;
  const shown = open ? [...messages.slice(0, -1), open.last] : messages;
  for (const name of ["tools", "documents"] as const)
    if (
      options[name] &&
      !(Array.isArray(options[name]) && options[name].every((one) => typeof one === "object" && one))
    )
      bad_option(name, "a list of objects", `correct ${name}`);
  const make = () =>
    new Map<string, Value>([
      ...Object.entries({ ...special_tokens, ...variables })
        .filter(([, value]) => value !== undefined)
        .map(([name, value]): [string, Value] => [name, to_value(value, null)]),
      ["messages", list_value(shown.map(message_value))],
      ["tools", to_value(options.tools, EXTRAS)],
      ["documents", to_value(options.documents, EXTRAS)],
      ["add_generation_prompt", add_generation_prompt],
    ]);
  try {
    const rendered = render(template, make, now);
    const text = open ? cut_open(rendered.text, open.text) : rendered.text;
    return { text, ...spans_of(rendered.marks, text.length, messages.length) };
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    return bad_template(error.raised ? `says: ${error.message}` : `fails: ${error.message}`, error);
  }
}

/** The text alone. @throws as render_with_spans */
export const render_chat = (template: string, messages: readonly ChatMessage[], options: RenderOptions): string =>
  render_with_spans(template, messages, options).text;

function spans_of(marks: readonly Mark[], length: number, count: number): Omit<RenderedChat, "text"> {
  const outside: Span[] = [];
  const generation: Span[] = [];
  const messages: (Span | null)[] = Array.from({ length: count }, () => null);
  for (const { start, end: marked_end, source } of [...marks].sort((a, b) => a.start - b.start)) {
    const end = Math.min(marked_end, length);
    if (start >= end) continue;
    if (source === GENERATION) {
      generation.push({ start, end });
      continue;
    }
    const last = outside.at(-1);
    if (last && start <= last.end) last.end = Math.max(last.end, end);
    else outside.push({ start, end });
    if (source >= 0)
      messages[source] = { start: messages[source]?.start ?? start, end: Math.max(messages[source]?.end ?? 0, end) };
  }
  return { outside, generation, messages };
}

/** The last message with a tag at its end, and its text: transformers finds the end of an open message by such a tag. */
function leave_open(
  template: string,
  messages: readonly ChatMessage[],
  continued: true | string,
): { last: ChatMessage; text: string } {
  const field = continued === true ? "content" : continued;
  const last = messages.at(-1)!;
  const content = last[field];
  if (!template.includes(field))
    bad_option(`continue_final_message "${field}"`, "a field that the chat template reads", "leave it out");
  if (typeof content === "string") return { last: { ...last, [field]: content + CONTINUED }, text: content };
  const parts: unknown[] = Array.isArray(content) ? [...content] : [];
  const at = parts.findLastIndex((part) => typeof (part as { text?: unknown } | null)?.text === "string");
  if (at < 0) bad_option(`continue_final_message with a last message without ${field}`, "a text to go on with");
  const part = parts[at] as { text: string };
  parts[at] = { ...part, text: part.text + CONTINUED };
  return { last: { ...last, [field]: parts }, text: part.text };
}

/** Where the template trimmed the message, its spaces at the end are unknown and go. */
function cut_open(rendered: string, content: string): string {
  const tag = CONTINUED.trimEnd();
  const at = rendered.lastIndexOf(tag);
  if (at < 0 || !rendered.includes(strip(content, 3)))
    bad_template("changes or leaves out the last message, which is to be continued");
  const before = rendered.slice(0, at);
  return rendered.startsWith(CONTINUED, at) ? before : strip(before, 2);
}

/**
 * What the assistant wrote in a rendered conversation, for training: `{% generation %}` where the template has it; otherwise each
 * assistant's message, from where the generation prompt ends (or where its own words begin, in a template that renders a turn
 * otherwise once others follow) to its end, with the control token that ends the turn.
 *
 * `message` is the index of the message, or -1 where `{% generation %}` holds nothing of any. Of another role's message that is
 * wanted, only its own words are an answer.
 *
 * @param ends_turn strings that can end a turn: control tokens and other added tokens, without that of the beginning
 * @param wanted whether a message is asked for
 * @throws as render_with_spans
 */
export function render_with_answers(
  template: string,
  messages: readonly ChatMessage[],
  options: RenderOptions,
  { ends_turn, wanted }: { ends_turn: readonly string[]; wanted: (message: number) => boolean },
): RenderedChat & { answers: (Span & { message: number })[] } {
  const rendered = render_with_spans(template, messages, options);
  const { text, generation } = rendered;
  const others = messages.flatMap(({ role }, message) => {
    const own = rendered.messages[message];
    return role !== "assistant" && own && wanted(message) ? [{ ...own, message }] : [];
  });
  if (generation.length > 0) {
    const holds = (span: Span) =>
      rendered.messages.findIndex((own) => own && own.start < span.end && own.end > span.start);
    return { ...rendered, answers: [...others, ...generation.map((span) => ({ ...span, message: holds(span) }))] };
  }
  const by_length = [...ends_turn].filter((string) => string !== "").sort((a, b) => b.length - a.length);
  const answers: (Span & { message: number })[] = [];
  for (const [message, { role }] of messages.entries()) {
    if (role !== "assistant" || !wanted(message)) continue;
    const own = rendered.messages[message] ?? null;
    const prompt = message === 0 ? null : prompt_of(template, messages.slice(0, message), options);
    const prompted = prompt !== null && text.startsWith(prompt) && prompt.length <= (own?.start ?? text.length);
    const start = prompted ? prompt.length : own?.start;
    if (start === undefined) continue;
    const content_end = own?.end ?? start;
    const spaces = text.length - content_end - strip(text.slice(content_end), 1).length;
    const stop = by_length.find((string) => text.startsWith(string, content_end + spaces));
    if (!own && stop === undefined) continue;
    answers.push({ message, start, end: stop === undefined ? content_end : content_end + spaces + stop.length });
  }
  return { ...rendered, answers: [...others, ...answers] };
}

/** The rendered beginning of a conversation with its generation prompt; null where the template refuses it. */
function prompt_of(template: string, messages: readonly ChatMessage[], options: RenderOptions): string | null {
  try {
    return render_chat(template, messages, { ...options, add_generation_prompt: true });
  } catch (error) {
    if (error instanceof BimedixError && error.code === "bad_template") return null;
    throw error;
  }
}
