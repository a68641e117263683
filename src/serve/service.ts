/** The model behind the service: loading, its names, a bounded number of requests, and its return after a crash. */
import { setTimeout as sleep } from "node:timers/promises";
import { Assistant } from "../assistant/assistant.js";
import { RemoteAssistant } from "../assistant/remote.js";
import type { PretrainedOptions } from "../engine/auto.js";
import type { EngineState } from "../engine/engine.js";
import { BimedixError } from "../errors.js";
import { ApiError } from "./api_error.js";
import type { Log } from "./log.js";
import type { Forwarded, Served } from "./pieces.js";
import { Pulse } from "./pulse.js";
import { within } from "./stream.js";
import { Tokens } from "./tokens.js";

export interface ServiceOptions {
  /** Directory, hub id, or the URL of another server's `/v1`, to which requests are forwarded. */
  model: string;
  /** The name that requests give the model; adapters are `NAME:ADAPTER`. */
  name: string;
  pretrained: PretrainedOptions & { adapter?: Readonly<Record<string, string>> };
  /** Requests that may wait beside those that are computed. Default 64. */
  max_queue?: number;
  /** Seconds that a request may take, waiting included. Default 600. */
  deadline?: number;
  log: Log;
}

/** A request's place among the others. */
export interface Place {
  /** Aborts when the client leaves, the deadline passes or the service stops. */
  signal: AbortSignal;
  leave: () => void;
}

/** Seconds in which a client may still read why its answer was ended. */
const LAST_WORDS = 5;

/** Seconds before a model that ended is loaded again; doubled each time that fails, up to a minute. */
const RETRY = 1;

export class Service {
  private assistant: Assistant | RemoteAssistant | null = null;
  /** Of a model of this machine. */
  private tokens: Tokens | null = null;
  private pulse: Pulse | null = null;
  private stopping = new AbortController();
  private readonly places = new Set<{ controller: AbortController; began: number }>();
  private loading: Promise<void> | null = null;
  private draining = false;
  /** Seconds that requests took of late, for Retry-After. */
  private usual = 1;

  constructor(readonly options: ServiceOptions) {}

  get state(): "loading" | "ready" | "not responding" | "stopping" {
    if (this.draining) return "stopping";
    if (!this.assistant) return "loading";
    return this.pulse?.is_still ? "not responding" : "ready";
  }

  /** Requests that are being answered or wait. */
  get active(): number {
    return this.places.size;
  }

  /** What the model has to do, as it says within a second or said last; nothing while there is none. */
  async engine_state(): Promise<EngineState> {
    if (this.pulse) await within(this.pulse.ask(), 1);
    return this.pulse?.state ?? { running: 0, waiting: 0, cached_tokens: 0 };
  }

  get names(): string[] {
    const { name, pretrained } = this.options;
    return [name, ...Object.keys(pretrained.adapter ?? {}).map((adapter) => `${name}:${adapter}`)];
  }

  /** Loads the model; every later crash loads it again. @throws BimedixError as `Assistant.from_pretrained` does */
  async load(): Promise<void> {
    const { model, pretrained, log } = this.options;
    const began = performance.now();
    const { signal } = this.stopping;
    const assistant = /^https?:\/\//.test(model)
      ? await RemoteAssistant.connect(model, { signal })
      : await warmed(await Assistant.from_pretrained(model, { isolation: "process", ...pretrained, signal }), signal);
    this.assistant = assistant;
    if (assistant instanceof Assistant) {
      this.tokens ??= new Tokens(assistant.tokenizer, assistant.model.dir);
      this.pulse = new Pulse(assistant.model.engine);
    }
    log.write("info", "ready", { model: this.options.name, seconds: (performance.now() - began) / 1000 });
    if (assistant instanceof RemoteAssistant) return;
    void assistant.model.engine.ended?.then((error) => {
      if (this.draining || this.assistant !== assistant) return;
      this.assistant = null;
      this.pulse?.stop();
      this.pulse = null;
      log.write("error", "the model ended", { error: String((error as Error)?.message ?? error) });
      this.loading = this.load_again().finally(() => {
        this.loading = null;
      });
    });
  }

  private async load_again(): Promise<void> {
    for (let wait = RETRY; !this.draining && !this.assistant; wait = Math.min(60, wait * 2)) {
      await sleep(wait * 1000, undefined, { signal: this.stopping.signal }).catch(() => {});
      if (this.draining) return;
      await this.load().catch((error: unknown) =>
        this.options.log.write("error", "loading failed", { error: (error as Error).message }),
      );
    }
  }

  /** The model of a request. @throws ApiError 404, 503 */
  find(name: string = this.options.name): Served | Forwarded {
    const at = this.names.indexOf(name);
    if (at < 0) {
      throw new ApiError(
        404,
        "model_not_found",
        `There is no model ${JSON.stringify(name)} here; there is ${this.names.join(", ")}.`,
        "model",
      );
    }
    const { assistant, tokens } = this;
    const adapter = at === 0 ? null : name.slice(this.options.name.length + 1);
    if (assistant instanceof Assistant && tokens) return { name, assistant, tokens, adapter };
    if (assistant instanceof RemoteAssistant) return { name, assistant, tokens: null, adapter };
    throw not_ready(this.state);
  }

  /** The model of a request that only a model of this machine can answer. @throws ApiError 400 for another server's, 404, 503 */
  find_local(name?: string): Served {
    const served = this.find(name);
    if (served.tokens) return served;
    throw new ApiError(400, "not_supported", "The model is on another server, which is not asked for this.");
  }

  /**
   * Takes a request in.
   * @param drop ends the connection of a client that does not read its answer's end: it would keep its place for ever
   * @throws ApiError 429 when too many are here, 503 when the service stops
   */
  enter(drop: () => void): Place {
    if (this.draining) throw not_ready(this.state);
    const { max_queue = 64, deadline = 600, pretrained } = this.options;
    if (this.places.size >= (pretrained.max_sequences ?? 16) + max_queue) {
      const seconds = Math.max(1, Math.min(60, Math.ceil(this.usual)));
      throw new ApiError(429, "queue_full", `${this.places.size} requests are here already; try again later.`, null, {
        "retry-after": String(seconds),
      });
    }
    const place = { controller: new AbortController(), began: performance.now() };
    this.places.add(place);
    const leave = () => {
      clearTimeout(timer);
      if (!this.places.delete(place)) return;
      this.usual += ((performance.now() - place.began) / 1000 - this.usual) / 8;
      place.controller.abort();
    };
    const late = () => {
      drop();
      leave();
    };
    let timer = setTimeout(() => {
      place.controller.abort(
        new ApiError(504, "deadline_exceeded", `The answer took longer than ${deadline} seconds.`),
      );
      timer = setTimeout(late, LAST_WORDS * 1000);
    }, deadline * 1000);
    return { signal: place.controller.signal, leave };
  }

  /** Takes no more requests, waits for those that are here, and ends the rest after `grace` seconds. */
  async stop(grace: number): Promise<void> {
    this.draining = true;
    const end = performance.now() + grace * 1000;
    while (this.places.size > 0 && performance.now() < end) await sleep(20);
    for (const { controller } of this.places)
      controller.abort(new ApiError(503, "stopping", "The server stops.", null, { "retry-after": "5" }));
    this.stopping.abort();
    await this.loading;
    this.pulse?.stop();
    const { assistant } = this;
    const ended = Promise.all([this.tokens?.dispose(), assistant?.dispose().catch(() => {})]);
    // A process that was stopped hears nothing, and cannot refuse this.
    const pid = assistant instanceof Assistant ? assistant.model.engine.pid : undefined;
    if ((await within(ended, LAST_WORDS)) === null && pid !== undefined) process.kill(pid, "SIGKILL");
    this.assistant = null;
  }
}

/** A model that has written a token: what only a run of it shows is seen before anybody is told that it is ready. */
async function warmed(assistant: Assistant, signal: AbortSignal): Promise<Assistant> {
  const { engine, config } = assistant.model;
  try {
    for await (const _ of engine.generate([[config.bos_token_id ?? 0]], { max_new_tokens: 1, signal }));
    return assistant;
  } catch (error) {
    await assistant.dispose().catch(() => {});
    throw error;
  }
}

const not_ready = (state: string) =>
  new ApiError(503, state, state === "stopping" ? "The server stops." : "The model is being loaded.", null, {
    "retry-after": "5",
  });

/** Why a request's signal was aborted, as the error that its client gets. */
export function reason_of(signal: AbortSignal, error: unknown): unknown {
  const is_abort = error instanceof BimedixError && error.code === "aborted";
  return is_abort && signal.reason instanceof ApiError ? signal.reason : error;
}
