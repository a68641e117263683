/**
 * Requests to an OpenAI-compatible server: JSON both ways, streams of events, and the models that it has.
 *
 * Node's own HTTP client and not fetch: fetch gives up after 300 seconds without a header or a piece of the body, and a large model takes longer
 * to read a prompt. Here a request lasts until its signal ends it. Each has a connection of its own, so none is sent into one that
 * the server is just closing, where nobody could tell whether it was heard.
 */
import { type IncomingMessage, request as request_http } from "node:http";
import { request as request_https } from "node:https";
import { Readable } from "node:stream";
import type { ReadableStream } from "node:stream/web";
import { aborted, BimedixError } from "../errors.js";
import { http_fetch, network_failure, proxy_for } from "../net.js";
import { event_data } from "./sse.js";

export interface HttpOptions {
  /** Sent as a bearer token; default: OPENAI_API_KEY. Never to another address than the server's own. */
  api_key?: string;
  /**
   * When a request that failed is sent again: never; where the server did not take it (429, 503, or it could not be reached); or
   * after every failure of the moment, which may compute it twice. Default: always without a body, else where it was not taken.
   */
  retry?: "never" | "not taken" | "always";
  signal?: AbortSignal;
}

/** Tries of one request before its failure is reported; the waits between them double, from half a second. */
const TRIES = 4;
/** The longest wait that a server may ask for between two of them. */
const MAX_WAIT = 30_000;

export interface RemoteModel {
  /** The server's `/v1`, without a slash at the end. */
  base: string;
  id: string;
  /** Tokens of prompt and answer that the server allows, where it says so. */
  max_model_len?: number;
}

/** A server's answer that is none: its status, and its own words, which may repeat what it was asked. */
export class HttpError extends BimedixError {
  readonly retry_after: string | null;

  constructor(
    readonly url: string,
    readonly status: number,
    headers: IncomingMessage["headers"],
    readonly body: string,
  ) {
    const { location } = headers;
    super("server_refused", {
      given: `${url} answered ${status} (${location ? `to ${location}` : body.slice(0, 200)})`,
      expected: "an answer",
      todo: status === 401 ? "set OPENAI_API_KEY" : "check the URL and the server",
    });
    this.retry_after = headers["retry-after"] ?? null;
  }
}

/** @param url of the server, or of its `/v1`; `#NAME` after it chooses among several models @throws BimedixError server_refused */
export async function find_model(url: string, options: HttpOptions): Promise<RemoteModel> {
  const { base, name } = split_url(url);
  const found = await list_models(base, options).catch(async (error: unknown) => {
    if (!is_elsewhere(error) || /\/v1$/.test(new URL(base).pathname)) throw error;
    return list_models(join(base, "/v1"), options).catch((second: unknown) => {
      throw is_elsewhere(second) ? error : second;
    });
  });
  const { models } = found;
  // Ollama lists a model under its name and tag.
  const named = models.find(({ id }) => id === name) ?? models.find(({ id }) => id === `${name}:latest`);
  const model = name ? named : models.length === 1 ? models[0] : undefined;
  if (model) return { ...model, base: found.base };
  const ids = models.map(({ id }) => id).join(", ");
  throw refused(base, name ? `does not serve ${name}` : `serves ${models.length} models`, {
    expected: ids ? `one of: ${ids}` : "a server with a model",
    todo: name || !ids ? "check the name and the server" : "append #NAME to the URL",
  });
}

type Listed = Omit<RemoteModel, "base">;
async function list_models(base: string, options: HttpOptions): Promise<{ base: string; models: Listed[] }> {
  const { data } = ((await request(base, "/models", null, options)) ?? {}) as { data?: Listed[] };
  if (Array.isArray(data)) return { base, models: data };
  throw refused(base, "lists no models", { expected: "an OpenAI-compatible server's /v1", todo: "check the URL" });
}

/** Whether an answer came from something else than the API that was looked for. */
const is_elsewhere = (error: unknown) =>
  error instanceof BimedixError &&
  error.code === "server_refused" &&
  (error instanceof HttpError ? [404, 405].includes(error.status) : /in JSON|lists no models/.test(error.message));

function split_url(url: string): { base: string; name: string } {
  try {
    const parsed = new URL(url);
    const name = decodeURIComponent(parsed.hash.slice(1));
    parsed.hash = "";
    // People paste the whole address that a client library shows.
    parsed.pathname = parsed.pathname.replace(/\/+$/, "").replace(/\/(chat\/completions|completions|models)$/, "");
    return { base: parsed.href.replace(/\/$/, ""), name };
  } catch {
    throw refused(url, "is not a URL", { expected: "https://HOST/v1", todo: "check it" });
  }
}

/** A path below a URL, before what it asks (`?api-version=…`). */
function join(base: string, path: string): string {
  const url = new URL(base);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}

/** GET without a body, POST with one; JSON both ways. @throws BimedixError server_refused, aborted */
export async function request(base: string, path: string, body: unknown, options: HttpOptions): Promise<unknown> {
  const url = join(base, path);
  const text = await text_of(url, await respond(url, body, options), options);
  try {
    return JSON.parse(text);
  } catch {
    throw refused(url, "does not answer in JSON", { expected: "an OpenAI-compatible server", todo: "check the URL" });
  }
}

/** The events of a stream, as objects. @throws BimedixError server_refused, also where the stream is cut short; aborted */
export async function* request_events(
  base: string,
  path: string,
  body: unknown,
  options: HttpOptions,
): AsyncGenerator<unknown> {
  const url = join(base, path);
  const response = await respond(url, body, options);
  try {
    if (/^application\/json/i.test(response.headers["content-type"] ?? ""))
      return yield as_event(JSON.parse(await text_of(url, response, options)));
    const progress = new Map<number, boolean>();
    for await (const data of event_data(response)) {
      if (data.trim() === "[DONE]") return;
      if (data === "") continue;
      const event = JSON.parse(data) as Event;
      yield event;
      if (event.error) return;
      for (const { index = 0, finish_reason } of event.choices ?? [])
        progress.set(index, (progress.get(index) ?? false) || typeof finish_reason === "string");
    }
    // Several servers end without [DONE]: what every choice has ended is whole.
    if (progress.size > 0 && [...progress.values()].every(Boolean)) return;
  } catch (error) {
    if (error instanceof BimedixError) throw error;
    throw broken(url, error, options);
  } finally {
    response.destroy();
  }
  throw refused(url, "ended a stream without [DONE]", { expected: "a whole stream", todo: "ask again" });
}

interface Event {
  error?: unknown;
  choices?: { index?: number; finish_reason?: string | null; message?: object; delta?: object }[];
}

/** The answer of a server that does not stream, as the one event of a stream. */
function as_event(answer: Event): Event {
  const choices = answer.choices?.map(({ message, ...choice }) => (message ? { ...choice, delta: message } : choice));
  return choices ? { ...answer, choices } : answer;
}

async function text_of(url: string, response: IncomingMessage, options: HttpOptions): Promise<string> {
  try {
    const parts: Uint8Array[] = [];
    for await (const part of response) parts.push(part as Uint8Array);
    return Buffer.concat(parts).toString();
  } catch (error) {
    throw broken(url, error, options);
  }
}

function broken(url: string, error: unknown, { signal }: HttpOptions): BimedixError {
  if (signal?.aborted) return aborted();
  // What is wrong with JSON is said with a piece of it, and that is the answer's text.
  const why = error instanceof SyntaxError ? "an event is not JSON" : (error as Error).message;
  return refused(url, `broke off (${why})`, { expected: "a whole answer", todo: "ask again" });
}

/** The head of a good answer. */
async function respond(url: string, body: unknown, options: HttpOptions): Promise<IncomingMessage> {
  const { retry = body === null ? "always" : "not taken", signal } = options;
  for (let attempt = 1; ; attempt++) {
    let failure: BimedixError;
    let taken = true;
    let wait = 250 * 2 ** attempt;
    try {
      const response = await send(url, body, options);
      const { statusCode: status = 0, headers } = response;
      if (status >= 200 && status < 300) return response;
      const error = new HttpError(url, status, headers, await text_of(url, response, options));
      if (status !== 429 && status < 500) throw error;
      taken = status !== 429 && status !== 503;
      const asked = 1000 * Number(error.retry_after ?? 0);
      if (asked > MAX_WAIT) throw error;
      if (asked > 0) wait = asked;
      failure = error;
    } catch (error) {
      if (signal?.aborted) throw aborted();
      if (error instanceof BimedixError) throw error;
      const { message, code = "" } = error as NodeJS.ErrnoException;
      taken = !UNREACHED.has(code);
      // The several addresses of a name fail as one error without a message.
      failure = refused(url, `cannot be reached (${message || code})`, {
        expected: "a running server",
        todo: "start it or check the URL",
      });
    }
    if (attempt === TRIES || retry === "never" || (taken && retry !== "always")) throw failure;
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Nothing was sent where a connection could not be made. */
const UNREACHED = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"]);

function send(url: string, body: unknown, { api_key, signal }: HttpOptions): Promise<IncomingMessage> {
  const key = api_key ?? process.env.OPENAI_API_KEY;
  const payload = body === null ? null : Buffer.from(JSON.stringify(body));
  const headers = {
    accept: "application/json, text/event-stream",
    ...(payload ? { "content-type": "application/json", "content-length": payload.length } : {}),
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
  if (proxy_for(url)) return send_by_proxy(url, payload, headers, signal);
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted());
    const make = url.startsWith("https:") ? request_https : request_http;
    const sent = make(url, { method: payload ? "POST" : "GET", headers, agent: false });
    const abort = () => sent.destroy(aborted());
    signal?.addEventListener("abort", abort, { once: true });
    sent.once("close", () => signal?.removeEventListener("abort", abort));
    // A silent connection is kept open through firewalls that forget idle ones.
    sent.once("socket", (socket) => socket.setKeepAlive(true, 30_000));
    sent.once("response", resolve);
    sent.on("error", reject);
    sent.end(payload ?? undefined);
  });
}

/** The same through the environment's proxy, which `fetch` in src/net.ts knows; it has no limits of time either. */
async function send_by_proxy(
  url: string,
  body: Buffer<ArrayBuffer> | null,
  headers: Record<string, string | number>,
  signal: AbortSignal | undefined,
): Promise<IncomingMessage> {
  const { "content-length": _, ...others } = headers;
  const init = {
    headers: others as Record<string, string>,
    redirect: "manual" as const,
    ...(signal ? { signal } : {}),
  };
  const response = await http_fetch(url, body ? { ...init, method: "POST", body } : init).catch((error: unknown) => {
    const { why, lasts } = network_failure(error, url);
    if (!lasts) throw new Error(why, { cause: error });
    throw refused(url, `cannot be reached (${why})`, { expected: "a running server", todo: "correct the set-up" });
  });
  const stream = response.body ? Readable.fromWeb(response.body as ReadableStream) : Readable.from([]);
  const head = { statusCode: response.status, headers: Object.fromEntries(response.headers) };
  return Object.assign(stream, head) as Readable as IncomingMessage;
}

export const refused = (where: string, what: string, parts: { expected: string; todo: string }) =>
  new BimedixError("server_refused", { given: `${where} ${what}`, ...parts });
