/** Requests to an OpenAI-compatible server: JSON both ways, streams of events, and the models that it has. */
import { aborted, BimedixError } from "../errors.js";
import { http_fetch } from "../net.js";

export interface HttpOptions {
  /** Sent as a bearer token; default: OPENAI_API_KEY. Never to another address than the server's own. */
  api_key?: string;
  signal?: AbortSignal;
}

/** Tries of one request before its failure is reported; the waits between them double, from half a second. */
const TRIES = 4;

export interface RemoteModel {
  /** The server's `/v1`, without a slash at the end. */
  base: string;
  id: string;
  /** Tokens of prompt and answer that the server allows, where it says so. */
  max_model_len?: number;
}

/** A server's answer that is none: its status, and its own words, which may repeat what it was asked. */
export class HttpError extends BimedixError {
  readonly status: number;
  readonly retry_after: string | null;

  constructor(
    readonly url: string,
    { status, headers }: Response,
    readonly body: string,
  ) {
    super("server_refused", {
      given: `${url} answered ${status} (${body.slice(0, 200)})`,
      expected: "an answer",
      todo: status === 401 ? "set OPENAI_API_KEY" : "check the URL and the server",
    });
    this.status = status;
    this.retry_after = headers.get("retry-after");
  }
}

/** @param url of the server's `/v1`; `#NAME` after it chooses among several models @throws BimedixError server_refused */
export async function find_model(url: string, options: HttpOptions): Promise<RemoteModel> {
  const { base, name } = split_url(url);
  const { data } = (await request(`${base}/models`, null, options)) as {
    data?: { id: string; max_model_len?: number }[];
  };
  const models = Array.isArray(data) ? data : [];
  const found = name ? models.find(({ id }) => id === name) : models.length === 1 ? models[0] : undefined;
  if (found) return { base, ...found };
  const ids = models.map(({ id }) => id).join(", ");
  throw refused(base, name ? `does not serve ${name}` : `serves ${models.length} models`, {
    expected: ids ? `one of: ${ids}` : "a server with a model",
    todo: name || !ids ? "check the name and the server" : "append #NAME to the URL",
  });
}

function split_url(url: string): { base: string; name: string } {
  try {
    const parsed = new URL(url);
    const name = decodeURIComponent(parsed.hash.slice(1));
    parsed.hash = "";
    return { base: parsed.href.replace(/\/+$/, ""), name };
  } catch {
    throw refused(url, "is not a URL", { expected: "https://HOST/v1", todo: "check it" });
  }
}

/** GET without a body, POST with one; JSON both ways. Failures of the moment are tried again. @throws BimedixError server_refused, aborted */
export async function request(url: string, body: unknown, options: HttpOptions): Promise<unknown> {
  const text = await (await respond(url, body, options)).text();
  try {
    return JSON.parse(text);
  } catch {
    throw refused(url, "does not answer in JSON", { expected: "an OpenAI-compatible server", todo: "check the URL" });
  }
}

/** The events of a stream, as objects. @throws BimedixError server_refused, also where the stream is cut short; aborted */
export async function* request_events(url: string, body: unknown, options: HttpOptions): AsyncGenerator<unknown> {
  const response = await respond(url, body, options);
  let rest = "";
  try {
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      const events = (rest + part).split(/\r?\n\r?\n/);
      rest = events.pop()!;
      for (const event of events) {
        const data = event
          .split(/\r?\n/)
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (data === "[DONE]") return;
        if (data !== "") yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (options.signal?.aborted) throw aborted();
    // What is wrong with JSON is said with a piece of it, and that is the answer's text.
    const why = error instanceof SyntaxError ? "an event is not JSON" : (error as Error).message;
    throw refused(url, `broke off (${why})`, { expected: "a whole stream", todo: "ask again" });
  }
  throw refused(url, "ended a stream without [DONE]", { expected: "a whole stream", todo: "ask again" });
}

async function respond(url: string, body: unknown, { api_key, signal }: HttpOptions): Promise<Response> {
  const key = api_key ?? process.env.OPENAI_API_KEY;
  for (let attempt = 1; ; attempt++) {
    let failure: BimedixError;
    try {
      const response = await http_fetch(url, {
        method: body === null ? "GET" : "POST",
        headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
        ...(body === null ? {} : { body: JSON.stringify(body) }),
        redirect: "error",
        ...(signal ? { signal } : {}),
      });
      if (response.ok) return response;
      failure = new HttpError(url, response, await response.text());
      if (response.status !== 429 && response.status < 500) throw failure;
    } catch (error) {
      if (error instanceof BimedixError) throw error;
      if (signal?.aborted) throw aborted();
      const { message, cause } = error as Error & { cause?: Error };
      failure = refused(url, `cannot be reached (${cause?.message || message})`, {
        expected: "a running server",
        todo: "start it or check the URL",
      });
    }
    if (attempt === TRIES) throw failure;
    await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
  }
}

export const refused = (where: string, what: string, parts: { expected: string; todo: string }) =>
  new BimedixError("server_refused", { given: `${where} ${what}`, ...parts });
