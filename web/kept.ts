/** What the browser keeps, and what is made of it when it is read again: other versions, people and faults wrote there too. */
import type { Kind, Problem } from "./problems.js";
import { type Digits, type Language, texts } from "./texts.js";

export interface Message {
  /** An answer's, by which it is found while it is being written. */
  id?: string;
  role: "user" | "assistant";
  content: string;
  /** Why an answer has no end. */
  problem?: Problem;
  /** The model was not sent the conversation's beginning, for want of room. */
  left_out?: true;
}

export interface Conversation {
  id: string;
  messages: Message[];
}

export interface Settings {
  language: Language;
  theme: "auto" | "light" | "dark";
  digits: Digits;
  model: string;
  temperature: number;
  max_tokens: number;
  system: string;
}

/** What the numbers among the settings may be; `whole` takes no fraction. */
export const ranges = {
  temperature: { min: 0, max: 2, whole: false },
  max_tokens: { min: 1, max: 100_000, whole: true },
} as const;

export const in_range = (key: keyof typeof ranges, value: unknown): value is number => {
  const { min, max, whole } = ranges[key];
  return typeof value === "number" && value >= min && value <= max && (!whole || Number.isInteger(value));
};

type Fields = Record<string, unknown>;

const is_record = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Every setting that can be one, and the default for all others. */
export function settings_in(value: unknown): Settings {
  const given = is_record(value) ? value : {};
  const one_of = <T extends string>(key: string, first: T, ...others: T[]): T =>
    [first, ...others].find((one) => one === given[key]) ?? first;
  const text = (key: string) => (typeof given[key] === "string" ? given[key] : "");
  const [own, other] = navigator.language.startsWith("ar") ? (["ar", "en"] as const) : (["en", "ar"] as const);
  return {
    language: one_of("language", own, other),
    theme: one_of("theme", "auto", "light", "dark"),
    digits: one_of("digits", "written", "arabic", "latin"),
    model: text("model"),
    temperature: in_range("temperature", given.temperature) ? given.temperature : 0.4,
    max_tokens: in_range("max_tokens", given.max_tokens) ? given.max_tokens : 256,
    system: text("system"),
  };
}

/** null where it is no conversation. */
export function conversation_in(value: unknown, id: string): Conversation | null {
  if (!is_record(value) || !Array.isArray(value.messages)) return null;
  const messages = value.messages.filter(is_message).map(message_in);
  return messages.length > 0 ? { id, messages } : null;
}

const is_message = (value: unknown): value is Fields & Pick<Message, "role" | "content"> =>
  is_record(value) && (value.role === "user" || value.role === "assistant") && typeof value.content === "string";

function message_in({ id, role, content, problem, left_out }: Fields & Pick<Message, "role" | "content">): Message {
  return {
    ...(typeof id === "string" ? { id } : {}),
    role,
    content,
    ...(problem ? { problem: problem_in(problem) } : {}),
    ...(left_out === true ? { left_out } : {}),
  };
}

/** A text alone was kept before. */
function problem_in(value: unknown): Problem {
  const { kind, detail } = is_record(value) ? value : { kind: "other", detail: value };
  return {
    kind: typeof kind === "string" && Object.hasOwn(texts.en.problems, kind) ? (kind as Kind) : "other",
    ...(typeof detail === "string" ? { detail } : {}),
  };
}
