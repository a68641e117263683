/**
 * A row of a data set as what a model is to learn, in the forms that trainers share: messages as OpenAI, TRL and Axolotl have them,
 * ShareGPT, Alpaca, and prompt with completion. A field that would change what is learnt and is not known here is refused by name.
 */
import type { ChatMessage } from "../text/chat.js";
import { is_blank, strip } from "../text/python.js";
import { type Columns, is_absent } from "./options.js";
import { columns_of, text_of } from "./questions.js";
import { DataProblem } from "./record.js";

export interface Turn extends ChatMessage {
  content: string;
  /** Whether the model is to learn to write it. */
  learn: boolean;
}

/** A conversation, which the chat template renders; or plain text, which nothing is added to but the token that ends it. */
export type Lesson = Turn[] | { prompt: string; completion: string };

const ROLES: Readonly<Record<string, ChatMessage["role"]>> = {
  system: "system",
  developer: "system",
  user: "user",
  human: "user",
  assistant: "assistant",
  gpt: "assistant",
  chatgpt: "assistant",
  bing: "assistant",
  bard: "assistant",
  model: "assistant",
};

/** `{messages}`, `{conversations}`, or `{prompt, completion}` of messages. @throws DataProblem */
export function chat_turns(value: unknown): Turn[] {
  const row = columns_of(value);
  refuse(row, ["tools", "functions", "chosen", "rejected", "images"]);
  const turns =
    row.has("prompt") && row.has("completion")
      ? [...turns_of(row, "prompt").map((turn) => ({ ...turn, learn: false })), ...turns_of(row, "completion")]
      : turns_of(row, row.has("messages") || !row.has("conversations") ? "messages" : "conversations");
  const system = is_absent(row.get("system"))
    ? []
    : [{ role: "system" as const, content: text_of(row, "system"), learn: false }];
  const all = turns[0]?.role === "system" ? turns : [...system, ...turns];
  const last = all.findLastIndex(({ learn }) => learn);
  if (last >= 0) return all.slice(0, last + 1);
  throw all.some(({ role }) => role === "assistant")
    ? new DataProblem("no message to learn (weight 0 or train false in all)", "at least one")
    : new DataProblem("no message that is the assistant's", "at least one");
}

/** Fields of a row that mean something which is not done here. */
function refuse(row: Columns, names: readonly string[]): void {
  for (const name of names) {
    const value = row.get(name);
    if (is_absent(value) || (Array.isArray(value) && value.length === 0)) continue;
    throw new DataProblem(`${name}, which is not trained on here`, `a row without ${name}`);
  }
}

function turns_of(row: Columns, column: string): Turn[] {
  const given = row.get(column);
  // Where a column must be a text, lists are written as JSON.
  const list = typeof given === "string" && /^\s*\[/.test(given) ? from_json(given) : given;
  if (!Array.isArray(list) || list.length === 0)
    throw new DataProblem(`${column} is not a list of messages`, described(row));
  return list.flatMap((message, i) => turn_of(message as Record<string, unknown> | null, i));
}

function from_json(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** What a row without messages seems to be. */
function described(row: Columns): string {
  const is = (...names: string[]) => names.every((name) => row.has(name));
  const type = is("instruction")
    ? "instruction"
    : is("question")
      ? "mcqa"
      : is("prompt", "completion")
        ? "prompt_completion"
        : null;
  return type
    ? `messages; a row with ${[...row.keys()].slice(0, 6).join(", ")} is of type ${type}`
    : "messages or conversations";
}

function turn_of(message: Record<string, unknown> | null, i: number): Turn[] {
  const what = `message ${i}`;
  if (typeof message !== "object" || message === null)
    throw new DataProblem(`${what} is no object`, "role and content");
  const name = message.role ?? message.from;
  const role = typeof name === "string" ? ROLES[strip(name).toLowerCase()] : undefined;
  if (role === undefined)
    throw new DataProblem(`${what} has the role ${JSON.stringify(name)}`, "system, user or assistant");
  for (const key of ["tool_calls", "function_call", "training_detail", "reasoning_content", "thinking"])
    if (!is_absent(message[key]) && String(message[key]) !== "")
      throw new DataProblem(`${what} with ${key}, which is not trained on here`, "content alone");
  for (const key of ["trainable", "loss_mask", "loss"])
    if (!is_absent(message[key]))
      throw new DataProblem(`${what} with ${key}`, "weight (0 or 1) or train (true or false)");
  const content = content_of(message.content ?? message.value, what);
  const learn = learns(message, role, what);
  // ShareGPT's conversations often begin with an empty system message.
  if (role === "system" && is_blank(content)) return [];
  if (is_blank(content) && (learn || role !== "assistant")) throw new DataProblem(`${what} is empty`, "some text");
  return [{ role, content, learn }];
}

function content_of(content: unknown, what: string): string {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? (content as { type?: unknown; text?: unknown }[]) : [];
  if (parts.length > 0 && parts.every((part) => typeof part?.text === "string" && (part.type ?? "text") === "text")) {
    if (parts.some((part) => "train" in part || "weight" in part))
      throw new DataProblem(`${what} with parts that have their own weight or train`, "one for the whole message");
    return parts.map(({ text }) => text as string).join("\n");
  }
  throw new DataProblem(
    `content is ${content === undefined || content === null ? "missing" : "not a text"} in ${what}`,
    "a text, or parts of text",
  );
}

/** OpenAI's `weight` (0 or 1, of the assistant's messages) and Axolotl's `train` (true or false, of any). */
function learns({ weight, train }: Record<string, unknown>, role: Turn["role"], what: string): boolean {
  const given = [
    ...(is_absent(weight) ? [] : [flag(weight, `weight of ${what}`, "0 or 1")]),
    ...(is_absent(train) ? [] : [flag(train, `train of ${what}`, "true or false")]),
  ];
  if (new Set(given).size > 1) throw new DataProblem(`weight and train of ${what} that disagree`, "one of them");
  if (!is_absent(weight) && role !== "assistant" && given[0])
    throw new DataProblem(`weight of ${what}, which is the ${role}'s`, "weight in the assistant's messages alone");
  return given[0] ?? role === "assistant";
}

function flag(value: unknown, what: string, expected: string): boolean {
  if (value === true || value === 1) return true;
  if (value === false || value === 0) return false;
  throw new DataProblem(`${what}: ${JSON.stringify(value)}`, expected);
}

/** `{instruction, input?, output}` as Alpaca has it; also with `context` and `response`, as Dolly, and with `system`. @throws DataProblem */
export function instruction_turns(value: unknown): Turn[] {
  const row = columns_of(value);
  refuse(row, ["history", "chosen", "rejected"]);
  const [output, input] = [row.has("output") ? "output" : "response", row.has("input") ? "input" : "context"];
  const more = is_absent(row.get(input)) ? "" : `\n\n${text_of(row, input)}`;
  if (!row.has("instruction")) throw new DataProblem("instruction is missing", "instruction and output");
  if (!row.has(output)) throw new DataProblem("output is missing", "instruction and output");
  return [
    ...(is_absent(row.get("system"))
      ? []
      : [{ role: "system" as const, content: text_of(row, "system"), learn: false }]),
    { role: "user", content: text_of(row, "instruction") + more, learn: false },
    { role: "assistant", content: text_of(row, output), learn: true },
  ];
}

/** `{prompt, completion}`, as texts or as messages. @throws DataProblem */
export function prompt_completion(value: unknown): Lesson {
  const row = columns_of(value);
  refuse(row, ["label", "chosen", "rejected"]);
  if (typeof row.get("prompt") !== "string") return chat_turns(value);
  const completion = row.get("completion");
  if (typeof completion !== "string" || completion === "")
    throw new DataProblem("completion is missing or no text", "a text");
  return { prompt: row.get("prompt") as string, completion };
}
