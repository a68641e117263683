/** The routes, and what every request passes before it reaches one. */
import { randomUUID } from "node:crypto";
import type { HttpBindings } from "@hono/node-server";
import { type Context, Hono } from "hono";
import type { Assistant } from "../assistant/assistant.js";
import { plain_messages } from "../text/chat.js";
import { ApiError, to_api_error } from "./api_error.js";
import { Bodies } from "./bodies.js";
import { type Answer, chat_answer, completion_answer, forwarded_answer } from "./completions.js";
import type { Log } from "./log.js";
import type { Metrics } from "./metrics.js";
import { openapi } from "./openapi.js";
import type { PageFile } from "./page.js";
import { chat_schema, completion_schema, mcqa_schema, parse, routing_schema, tokenize_schema } from "./requests.js";
import { type Hosts, type Keys, security_headers } from "./security.js";
import { type Place, reason_of, type Service } from "./service.js";
import { event_stream, HEARTBEAT, within } from "./stream.js";

export interface AppOptions {
  service: Service;
  metrics: Metrics;
  log: Log;
  /** null asks for no key. */
  keys: Keys | null;
  /** Names, without port, under which the service may be addressed. */
  hosts: Hosts;
  /** Bytes of a body. */
  body_limit: number;
  /** Write what is asked and answered into the log. */
  log_prompts: boolean;
  version: string;
  /** Milliseconds in which a client takes nothing of its answer before its connection is ended. */
  send_timeout: number;
  /** The web page's files by their paths. */
  page: ReadonlyMap<string, PageFile>;
}

/** So many tokens does one answer list. */
const MAX_LISTED = 2 ** 18;

/** So many choices of experts, layers times tokens, does one answer tell. */
const MAX_ROUTED = 2 ** 17;

const context = ({ model }: Assistant) => model.config.max_position_embeddings;

/** What became of a request to the model. */
type Ended = (outcome: "completed" | "aborted" | "failed" | "refused") => void;

type Env = { Bindings: HttpBindings; Variables: { id: string; fields: Record<string, unknown> } };

export function create_app(options: AppOptions): Hono<Env> {
  const { service, metrics, log, keys, hosts } = options;
  const app = new Hono<Env>();

  app.use(async (c, next) => {
    const began = performance.now();
    const id = randomUUID();
    c.set("id", id);
    c.set("fields", {});
    // Of the request before it on this connection; this one may take long to be answered.
    c.env.incoming.socket.setTimeout(0);
    c.env.outgoing.once("close", () => {
      // As nginx says it: the client closed the request.
      const status = c.env.outgoing.writableFinished ? c.env.outgoing.statusCode : 499;
      const route = known(c.req.path);
      metrics.count("requests_total", { route, status });
      if (route === "/health" || route === "/metrics") return;
      const seconds = (performance.now() - began) / 1000;
      log.write("info", "request", { id, method: c.req.method, route, status, seconds, ...c.get("fields") });
    });
    await next();
    // What is left is to send it, with a word every few seconds.
    c.env.outgoing.setTimeout(options.send_timeout);
    c.header("x-request-id", id);
    for (const [name, value] of Object.entries(security_headers)) if (!c.res.headers.has(name)) c.header(name, value);
  });
  app.use(async (c, next) => {
    hosts.check(c.env.incoming);
    await next();
  });
  app.use(async (c, next) => {
    if (c.req.path !== "/health") keys?.check(c.env.incoming.headersDistinct.authorization ?? []);
    await next();
  });

  const api_error = (c: Context<Env>, error: unknown): ApiError =>
    to_api_error(error, (one) => {
      const { message, stack } = one as Error;
      log.write("error", "failed", { id: c.get("id"), error: message, stack });
    });
  const error_response = (c: Context<Env>, error: unknown): Response => {
    const { status, body, headers } = api_error(c, error);
    return c.json(body, status, headers);
  };
  app.onError((error, c) => error_response(c, error));
  app.notFound((c) => {
    const allow = app.routes.filter(({ path, method }) => path === c.req.path && method !== "ALL");
    if (allow.length === 0) {
      const there = "the API is under /v1, and /openapi.json lists it";
      return error_response(c, new ApiError(404, "not_found", `There is no path ${c.req.path} here; ${there}.`));
    }
    const methods = allow.map(({ method }) => method).join(", ");
    return error_response(
      c,
      new ApiError(405, "method_not_allowed", `${c.req.method} is not for this path; ${methods} is.`, null, {
        allow: methods,
      }),
    );
  });

  const bodies = new Bodies(options.body_limit);
  const body = (c: Context<Env>) => bodies.read(c.req.raw, (release) => void c.env.outgoing.once("close", release));
  const description = openapi(options.version);

  app.get("/health", (c) => {
    const { state } = service;
    return c.json({ status: state }, state === "ready" ? 200 : 503, state === "ready" ? {} : { "retry-after": "5" });
  });
  app.get("/metrics", async (c) => {
    const engine = await service.engine_state();
    const gauges = [
      { name: "sequences_running", help: "Answers that are written.", value: engine.running },
      { name: "sequences_waiting", help: "Answers that wait for their turn.", value: engine.waiting },
      { name: "cached_tokens", help: "Tokens whose keys and values are in memory.", value: engine.cached_tokens },
      { name: "requests_active", help: "Requests that are answered or wait.", value: service.active },
      { name: "resident_memory_bytes", help: "Memory of the process.", value: process.memoryUsage.rss() },
    ];
    return c.body(metrics.text(gauges), 200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
  });
  app.get("/openapi.json", (c) => c.json(description));
  app.get("/v1/models", (c) => {
    const data = service.names.map((id) => ({ id, object: "model", created: 0, owned_by: "bimedix" }));
    return c.json({ object: "list", data });
  });
  app.get("/v1/models/:id{.+}", (c) => {
    const id = c.req.param("id");
    if (!service.names.includes(id))
      throw new ApiError(404, "model_not_found", "There is no such model here.", "model");
    return c.json({ id, object: "model", created: 0, owned_by: "bimedix" });
  });

  /**
   * A request that the model answers: it has a place, which ends with it or with its client. What becomes of it is counted once, by
   * `ended` where the work goes on after its answer has begun.
   */
  async function placed<T>(c: Context<Env>, work: (place: Place, ended: Ended) => Promise<T>): Promise<T> {
    const began = performance.now();
    let open = true;
    const ended: Ended = (outcome) => {
      if (!open) return;
      open = false;
      metrics.count("answers_total", { outcome });
      metrics.observe("answer_seconds", (performance.now() - began) / 1000);
    };
    try {
      const { socket } = c.env.incoming;
      const place = service.enter(() => socket.destroy());
      // Whichever is first, the deadline with its drop among them. A client that left before this is not heard of again.
      c.env.outgoing.once("close", place.leave);
      socket.once("close", place.leave);
      c.env.outgoing.once("close", () => socket.off("close", place.leave));
      if (socket.destroyed) place.leave();
      try {
        return await work(place, ended);
      } catch (error) {
        const reason = reason_of(place.signal, error);
        if (place.signal.aborted && reason === error) ended("aborted");
        throw reason;
      }
    } catch (error) {
      ended(to_api_error(error, () => {}).status < 500 ? "refused" : "failed");
      throw error;
    }
  }

  async function answer(c: Context<Env>, stream: boolean, make: (signal: AbortSignal) => Answer | Promise<Answer>) {
    const began = performance.now();
    return placed(c, async ({ signal }, ended) => {
      const made = await make(signal);
      const count = () => {
        metrics.count("prompt_tokens_total", {}, made.usage.prompt_tokens);
        metrics.count("generated_tokens_total", {}, made.usage.completion_tokens);
        if (made.first !== null) metrics.observe("time_to_first_token_seconds", (made.first - began) / 1000);
        Object.assign(c.get("fields"), made.usage);
      };
      if (!stream) {
        const whole = await made.whole().finally(count);
        if (options.log_prompts) Object.assign(c.get("fields"), { answer: whole });
        ended("completed");
        return c.json(whole as object);
      }
      // Another server may refuse: for a while its answer is waited for, whose status is then this one's.
      const first = made.checked ? null : made.events.next();
      if (first) await within(first, HEARTBEAT);
      const events = event_stream(made.events, first, {
        failed: (error) => JSON.stringify(api_error(c, reason_of(signal, error)).body),
        done: (outcome) => {
          count();
          ended(outcome === "failed" && signal.aborted && !(signal.reason instanceof ApiError) ? "aborted" : outcome);
        },
      });
      return c.body(events, 200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        // nginx would collect a stream before it passes it on.
        "x-accel-buffering": "no",
      });
    });
  }

  app.post("/v1/chat/completions", async (c) => {
    const request = parse(chat_schema, await body(c));
    if (options.log_prompts) Object.assign(c.get("fields"), { messages: request.messages });
    const served = service.find(request.model);
    return answer(c, request.stream ?? false, (signal) =>
      served.tokens
        ? chat_answer(request, served, signal)
        : forwarded_answer("/chat/completions", request, served.assistant, signal),
    );
  });
  app.post("/v1/completions", async (c) => {
    const request = parse(completion_schema, await body(c));
    if (options.log_prompts) Object.assign(c.get("fields"), { prompt: request.prompt });
    const served = service.find(request.model);
    return answer(c, request.stream ?? false, (signal) =>
      served.tokens
        ? completion_answer(request, served, signal)
        : forwarded_answer("/completions", request, served.assistant, signal),
    );
  });
  app.post("/v1/mcqa", async (c) => {
    const { model, language, ...asked } = parse(mcqa_schema, await body(c));
    const served = service.find(model);
    const { assistant, adapter, name } = served;
    return placed(c, async ({ signal }, ended) => {
      const texts = [[asked.question, ...asked.options].join("\n")];
      await served.tokens?.of({ texts }, context(served.assistant), signal);
      const given = { ...asked, ...(language === undefined ? {} : { language }), adapter, signal };
      // Another server of this project names its own model.
      const result = await assistant.mcqa(given);
      ended("completed");
      return c.json({ ...result, model: name });
    });
  });
  app.post("/v1/routing", async (c) => {
    const { model, prompt } = parse(routing_schema, await body(c));
    const { assistant, adapter, tokens } = service.find_local(model);
    return placed(c, async ({ signal }, ended) => {
      const most = Math.min(context(assistant), Math.floor(MAX_ROUTED / assistant.model.config.num_hidden_layers));
      await tokens.of({ texts: [prompt] }, most, signal);
      const result = await assistant.routing(prompt, { adapter, signal });
      ended("completed");
      return c.json(result);
    });
  });
  app.post("/tokenize", async (c) => {
    const { model, prompt, messages, add_special_tokens } = parse(tokenize_schema, await body(c));
    const { assistant, tokens: tokenizer } = service.find_local(model);
    return placed(c, async ({ signal }, ended) => {
      const text = messages
        ? { messages: plain_messages(messages) }
        : { texts: [prompt!], ...(add_special_tokens === undefined ? {} : { add_special_tokens }) };
      const [tokens] = (await tokenizer.of(text, MAX_LISTED, signal)) as [number[]];
      ended("completed");
      return c.json({ tokens, count: tokens.length, max_model_len: context(assistant) });
    });
  });

  for (const [path, { body, headers }] of options.page) app.get(path, (c) => c.body(body, 200, headers));

  const routes = new Set(app.routes.map(({ path }) => path));
  const known = (path: string) => (routes.has(path) ? path : "other");
  return app;
}
