/**
 * Requests to an OpenAI-compatible server: JSON both ways, streams of events, and the models that it has.
 *
 * Node's own HTTP client and not fetch: fetch gives up after 300 seconds without a header or a piece of the body, and a large model takes longer
 * to read a prompt. Here a request lasts until its signal ends it, or the server has been silent for long. Each has a connection of its own, so none is sent into one that
 * the server is just closing, where nobody could tell whether it was heard.
 */
import { type IncomingMessage, request as request_http } from "node:http";
import { request as request_https } from "node:https";
import { Readable } from "node:stream";
import type { ReadableStream } from "node:stream/web";
import { setTimeout as wait_for } from "node:timers/promises";
import type { z } from "zod";
import { aborted, BimedixError } from "../errors.js";
import { http_fetch, network_failure, proxy_for } from "../net.js";
import { type Completion, completion, completion_event, read_answer, refused } from "./answers.js";
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
/** Milliseconds without a byte before a request is given up: one that computes, which may wait for others, and one that does not. */
const SILENCE = { computing: 1_800_000, asking: 60_000 };
/** Bytes of a whole answer, and of all events of a stream: log-probabilities of long texts take most. */
const MAX_ANSWER = 64 * 2 ** 20;
const MAX_STREAM = 2 ** 30;
/** Bytes that are read of a refusal. */
const MAX_REFUSAL = 64 * 2 ** 10;

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
    const after = headers["retry-after"] ?? "";
    // A number or a date, which is passed on in a header of our own.
    this.retry_after = /^[\w ,:-]{1,40}$/.test(after) ? after : null;
  }
}

/** A path below a URL, before what it asks (`?api-version=…`). */
export function join_url(base: string, path: string): string {
  const url = new URL(base);
  url.pathname = url.pathname.replace(/\/+$/, "") + path;
  return url.href;
}

/** GET without a body, POST with one; JSON both ways. @throws BimedixError server_refused, aborted */
export async function request<T extends z.ZodType>(
  base: string,
  path: string,
  body: unknown,
  schema: T,
  options: HttpOptions,
): Promise<z.output<T>> {
  const url = join_url(base, path);
  const call = new Call(url, body, options);
  try {
    return read_answer(url, await call.text(await call.respond()), schema);
  } finally {
    call.end();
  }
}

/** The events of a stream. @throws BimedixError server_refused, also where the stream is cut short; aborted */
export async function* request_events(
  base: string,
  path: string,
  body: unknown,
  options: HttpOptions,
): AsyncGenerator<Completion> {
  const url = join_url(base, path);
  const call = new Call(url, body, options);
  try {
    const response = await call.respond();
    if (/^application\/json/i.test(response.headers["content-type"] ?? ""))
      return yield as_event(read_answer(url, await call.text(response), completion));
    const progress = new Map<number, boolean>();
    for await (const data of event_data(call.bytes(response, MAX_STREAM))) {
      if (data.trim() === "[DONE]") return;
      // Some servers send null to keep a connection open.
      if (data === "" || data.trim() === "null") continue;
      const event = read_answer(url, data, completion_event, "sends an event");
      yield event;
      if (event.error) return;
      for (const { index, finish_reason } of event.choices ?? [])
        progress.set(index ?? 0, (progress.get(index ?? 0) ?? false) || typeof finish_reason === "string");
    }
    // Several servers end without [DONE]: what every choice has ended is whole.
    if (progress.size > 0 && [...progress.values()].every(Boolean)) return;
  } catch (error) {
    throw call.broken(error);
  } finally {
    call.end();
  }
  throw refused(url, "ended a stream without [DONE]", { expected: "a whole stream", todo: "ask again" });
}

/** The answer of a server that does not stream, as the one event of a stream. */
function as_event(answer: Completion): Completion {
  const choices = answer.choices?.map(({ message, ...choice }) => (message ? { ...choice, delta: message } : choice));
  return choices ? { ...answer, choices } : answer;
}

/** One request with its tries, and the answer's bytes, until the caller, the server's silence or the answer's end ends it. */
class Call {
  private readonly stop = new AbortController();
  private readonly silence: number;
  private timer: NodeJS.Timeout | undefined;
  private silent = false;
  private response: IncomingMessage | undefined;
  private readonly on_abort = () => this.stop.abort();

  constructor(
    private readonly url: string,
    private readonly body: unknown,
    private readonly options: HttpOptions,
  ) {
    this.silence = body === null ? SILENCE.asking : SILENCE.computing;
    options.signal?.addEventListener("abort", this.on_abort);
    if (options.signal?.aborted) this.stop.abort();
  }

  /** The head of a good answer. */
  async respond(): Promise<IncomingMessage> {
    const { url, body, options } = this;
    const { retry = body === null ? "always" : "not taken" } = options;
    for (let attempt = 1; ; attempt++) {
      let failure: BimedixError;
      let taken = true;
      let wait = 250 * 2 ** attempt;
      this.heard();
      try {
        const response = await send(url, body, options.api_key, this.stop.signal);
        this.response = response;
        const { statusCode: status = 0, headers } = response;
        if (status >= 200 && status < 300) return response;
        const error = new HttpError(url, status, headers, await this.refusal(response));
        if (status !== 429 && status < 500) throw error;
        taken = status !== 429 && status !== 503;
        const asked = 1000 * Number(error.retry_after ?? 0);
        if (asked > MAX_WAIT) throw error;
        if (asked > 0) wait = asked;
        failure = error;
      } catch (error) {
        if (error instanceof BimedixError || this.stop.signal.aborted) throw this.broken(error);
        const { message, code = "" } = error as NodeJS.ErrnoException;
        taken = !UNREACHED.has(code);
        // The several addresses of a name fail as one error without a message.
        failure = refused(url, `cannot be reached (${message || code})`, {
          expected: "a running server",
          todo: "start it or check the URL",
        });
      }
      if (attempt === TRIES || retry === "never" || (taken && retry !== "always")) throw failure;
      clearTimeout(this.timer);
      await wait_for(wait, null, { signal: this.stop.signal }).catch((error: unknown) => {
        throw this.broken(error);
      });
    }
  }

  /** @throws BimedixError server_refused past `limit` bytes */
  async *bytes(response: IncomingMessage, limit: number): AsyncGenerator<Uint8Array> {
    let size = 0;
    for await (const part of response as AsyncIterable<Uint8Array>) {
      this.heard();
      size += part.length;
      if (size > limit)
        throw refused(this.url, `answers more than ${limit / 2 ** 20} MiB`, {
          expected: "an answer",
          todo: "check the server",
        });
      yield part;
    }
  }

  async text(response: IncomingMessage): Promise<string> {
    try {
      const parts: Uint8Array[] = [];
      for await (const part of this.bytes(response, MAX_ANSWER)) parts.push(part);
      return Buffer.concat(parts).toString();
    } catch (error) {
      throw this.broken(error);
    }
  }

  /** The beginning of what a server says beside its status; it may be cut short. */
  private async refusal(response: IncomingMessage): Promise<string> {
    const parts: Uint8Array[] = [];
    try {
      for await (const part of this.bytes(response, MAX_REFUSAL)) parts.push(part);
    } catch (error) {
      if (this.stop.signal.aborted) throw error;
    }
    response.destroy();
    return Buffer.concat(parts).toString();
  }

  /** What an error means that ended the work. */
  broken(error: unknown): BimedixError {
    if (this.options.signal?.aborted) return aborted();
    if (this.silent)
      return refused(this.url, `said nothing for ${this.silence / 1000} s`, {
        expected: "an answer",
        todo: "check the server",
      });
    if (error instanceof BimedixError) return error;
    const { message, code } = error as NodeJS.ErrnoException;
    return refused(this.url, `broke off (${message || code})`, { expected: "a whole answer", todo: "ask again" });
  }

  end(): void {
    clearTimeout(this.timer);
    this.options.signal?.removeEventListener("abort", this.on_abort);
    this.response?.destroy();
  }

  private heard(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.silent = true;
      this.stop.abort();
    }, this.silence);
  }
}

/** Nothing was sent where a connection could not be made. */
const UNREACHED = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"]);

function send(url: string, body: unknown, api_key: string | undefined, signal: AbortSignal): Promise<IncomingMessage> {
  const key = api_key ?? process.env.OPENAI_API_KEY;
  const payload = body === null ? null : Buffer.from(JSON.stringify(body));
  const headers = {
    accept: "application/json, text/event-stream",
    ...(payload ? { "content-type": "application/json", "content-length": payload.length } : {}),
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
  if (proxy_for(url)) return send_by_proxy(url, payload, headers, signal);
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(aborted());
    const make = url.startsWith("https:") ? request_https : request_http;
    const sent = make(url, { method: payload ? "POST" : "GET", headers, agent: false });
    const abort = () => sent.destroy(aborted());
    signal.addEventListener("abort", abort, { once: true });
    sent.once("close", () => signal.removeEventListener("abort", abort));
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
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const { "content-length": _, ...others } = headers;
  const init = {
    headers: others as Record<string, string>,
    redirect: "manual" as const,
    signal,
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
