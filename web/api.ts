/** The server's API, as this page uses it. */
import type { Message, Settings } from "./store.js";

async function request(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(path, {
    ...(body
      ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) }
      : { method: "GET" }),
    ...(signal ? { signal } : {}),
  });
  if (response.ok) return response;
  const text = await response.text();
  throw new Error(message_of(text) ?? `${response.status} ${response.statusText}`);
}

function message_of(text: string): string | null {
  try {
    return (JSON.parse(text) as { error: { message: string } }).error.message;
  } catch {
    return null;
  }
}

export async function model_names(): Promise<string[]> {
  const { data } = (await (await request("/v1/models")).json()) as { data: { id: string }[] };
  return data.map(({ id }) => id);
}

/** An answer piece by piece; a stream that is cut short ends with an error. */
export async function* answer(
  messages: readonly Message[],
  { model, temperature, max_tokens, system }: Settings,
  signal: AbortSignal,
): AsyncGenerator<string> {
  const said = messages.map(({ role, content }) => ({ role, content }));
  const body = {
    model,
    temperature,
    max_tokens,
    stream: true,
    messages: [...(system.trim() ? [{ role: "system", content: system }] : []), ...said],
  };
  const response = await request("/v1/chat/completions", body, signal);
  let rest = "";
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection was cut");
    const events = (rest + value).split("\n\n");
    rest = events.pop()!;
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const { choices, error } = JSON.parse(data) as {
        choices?: { delta: { content?: string } }[];
        error?: { message: string };
      };
      if (error) throw new Error(error.message);
      yield choices?.[0]?.delta.content ?? "";
    }
  }
}

export interface Mcqa {
  answer: string;
  options: { letter: string; text: string; probability: number }[];
}

export const mcqa = async (model: string, question: string, options: string[]): Promise<Mcqa> =>
  (await request("/v1/mcqa", { model, question, options })).json();

export interface Routing {
  tokens: string[];
  experts: number;
  layers: { experts: number[]; probabilities: number[] }[][];
}

export const routing = async (model: string, prompt: string): Promise<Routing> =>
  (await request("/v1/routing", { model, prompt })).json();
