/** The server's API, as this page uses it. Every failure is a PageError, or the caller's own abort. */
import { PageError, server_error } from "./problems.js";
import type { Message, Settings } from "./store.js";

async function request(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
  const asked = body
    ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }
    : { method: "GET" };
  const response = await fetch(path, { ...asked, ...(signal ? { signal } : {}) }).catch((error: unknown) => {
    throw signal?.aborted ? error : new PageError("network", String((error as Error).message));
  });
  if (response.ok) return response;
  throw server_error(await response.json().catch(() => null), response.status);
}

async function json<T>(path: string, body?: object, signal?: AbortSignal): Promise<T> {
  const response = await request(path, body, signal);
  return response.json().catch((error: unknown) => {
    // A page to log in on, or a line that was cut.
    throw signal?.aborted ? error : new PageError("network", response.headers.get("content-type") ?? "");
  });
}

export async function model_names(): Promise<string[]> {
  const { data } = await json<{ data: { id: string }[] }>("/v1/models");
  return data.map(({ id }) => id);
}

type Turns = readonly Pick<Message, "role" | "content">[];

/** A conversation as requests hold it, behind the instruction where there is one. */
const messages_of = (turns: Turns, system: string): object[] => [
  ...(system.trim() ? [{ role: "system", content: system }] : []),
  ...turns.map(({ role, content }) => ({ role, content })),
];

/** @returns the tokens of a conversation, and how many the model reads at once */
export async function count_tokens(
  turns: Turns,
  { model, system }: Settings,
  signal: AbortSignal,
): Promise<{ count: number; max_model_len: number }> {
  return json("/tokenize", { model, messages: messages_of(turns, system) }, signal);
}

interface Piece {
  content: string;
  /** Why the answer ends with this piece. */
  finish_reason: string | null;
}

interface Event {
  choices?: { delta: { content?: string | null }; finish_reason?: string | null }[];
  error?: unknown;
}

/** An answer piece by piece; a stream that is cut short ends with an error. */
export async function* answer(
  turns: Turns,
  { model, temperature, max_tokens, system }: Settings,
  signal: AbortSignal,
): AsyncGenerator<Piece> {
  const body = { model, temperature, max_tokens, stream: true, messages: messages_of(turns, system) };
  const response = await request("/v1/chat/completions", body, signal);
  let finished = false;
  for await (const data of event_data(response, signal)) {
    if (data === "[DONE]") return;
    const { choices, error } = JSON.parse(data) as Event;
    if (error) throw server_error({ error }, 500);
    const { delta, finish_reason = null } = choices?.[0] ?? { delta: {} };
    finished ||= finish_reason !== null;
    yield { content: delta.content ?? "", finish_reason };
  }
  if (!finished) throw new PageError("cut");
}

/** The data of server-sent events, a line each; comments, which keep a connection open, and all other fields are passed over. */
async function* event_data(response: Response, signal: AbortSignal): AsyncGenerator<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      throw signal.aborted ? error : new PageError("cut", String((error as Error).message));
    });
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop()!;
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

export interface Mcqa {
  answer: string;
  options: { letter: string; text: string; probability: number }[];
}

export const mcqa = (model: string, question: string, options: string[]): Promise<Mcqa> =>
  json("/v1/mcqa", { model, question, options });

export interface Routing {
  tokens: string[];
  experts: number;
  layers: { experts: number[]; probabilities: number[] }[][];
}

export const routing = (model: string, prompt: string): Promise<Routing> => json("/v1/routing", { model, prompt });
