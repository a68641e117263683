/** Streams that wait for their turn, what is counted of requests, and a model that is not ready before it has written. */
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, describe, test } from "node:test";
import type { GeneratedToken } from "../../src/engine/engine.js";
import { LocalEngine } from "../../src/engine/local.js";
import { BimedixError } from "../../src/errors.js";
import { Metrics } from "../../src/serve/metrics.js";
import { event_stream, HEARTBEAT } from "../../src/serve/stream.js";
import { nano, start, type TestServer } from "./server.js";

const chats = "/v1/chat/completions";
const chat = (extra: object = {}) => ({
  model: "nano",
  messages: [{ role: "user", content: "What are the signs of asthma?" }],
  temperature: 0,
  max_tokens: 8,
  ...extra,
});

describe("a stream", () => {
  const texts = async function* (stream: ReadableStream<Uint8Array>): AsyncGenerator<string> {
    for await (const part of stream as unknown as AsyncIterable<Uint8Array>) yield Buffer.from(part).toString();
  };

  test("says with a comment that it waits, as often as it has to, and then goes on", async () => {
    assert.ok(HEARTBEAT <= 15);
    let arrive = () => {};
    async function* events() {
      await new Promise<void>((resolve) => {
        arrive = resolve;
      });
      yield 1;
      yield 2;
    }
    const outcomes: string[] = [];
    const done = (outcome: string) => void outcomes.push(outcome);
    const parts: string[] = [];
    for await (const part of texts(event_stream(events(), null, { failed: String, done, heartbeat: 0.001 }))) {
      parts.push(part);
      if (parts.length === 3) arrive();
    }
    assert.deepEqual(parts.slice(0, 3), Array(3).fill(": waiting\n\n"));
    const said = parts.filter((part) => !part.startsWith(":"));
    assert.deepEqual(said, ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"]);
    assert.deepEqual(outcomes, ["completed"]);
  });

  test("sends its headers while it is queued, and its request's mistakes with their own status before that", async (t) => {
    const at = await start({ pretrained: { dtype: "q8", threads: 1, max_sequences: 1 } });
    t.after(() => at.server.stop(0));
    const leave = new AbortController();
    const busy = fetch(at.url + chats, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(chat({ max_tokens: 900, ignore_eos: true, stream: true })),
      signal: leave.signal,
    });
    const first = (await busy).body!.getReader();
    await first.read();
    const queued = await at.post(chats, chat({ stream: true }));
    const { running, waiting } = await at.server.service.engine_state();
    assert.deepEqual([queued.status, running, waiting], [200, 1, 1]);
    assert.equal(queued.headers.get("x-accel-buffering"), "no");
    const long = chat({ stream: true, messages: [{ role: "user", content: "asthma ".repeat(2000) }] });
    for (const [path, body] of [
      [chats, long],
      ["/v1/completions", { model: "nano", prompt: [6000], stream: true }],
      [chats, chat({ stream: true, logit_bias: { 9999: 1 } })],
    ] as const)
      assert.equal((await at.post(path, body)).status, 400);
    leave.abort();
    assert.ok((await queued.text()).endsWith("data: [DONE]\n\n"));
  });

  test("that fails after its headers says so in its last event", async () => {
    async function* events(): AsyncGenerator<unknown> {
      yield 1;
      throw new Error("refused");
    }
    const outcomes: string[] = [];
    const ends = {
      failed: (error: unknown) => (error as Error).message,
      done: (one: string) => void outcomes.push(one),
    };
    const parts: string[] = [];
    for await (const part of texts(event_stream(events(), null, ends))) parts.push(part);
    assert.deepEqual([parts, outcomes], [["data: 1\n\n", "data: refused\n\n"], ["failed"]]);
  });
});

describe("/metrics", () => {
  let at: TestServer;
  before(async () => {
    at = await start({ pretrained: { dtype: "q8", threads: 1, max_sequences: 1 }, max_queue: 0 });
  });
  after(() => at.server.stop(1));

  async function figures(): Promise<(name: string) => number> {
    const response = await fetch(`${at.url}/metrics`);
    assert.equal(response.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    const lines = (await response.text()).split("\n");
    return (name) =>
      Number(
        lines
          .find((line) => line.startsWith(`bimedix_${name} `))
          ?.split(" ")
          .at(-1) ?? 0,
      );
  }
  const until = async (holds: () => Promise<boolean>) => {
    for (let i = 0; i < 500 && !(await holds()); i++) await new Promise((resume) => setTimeout(resume, 20));
  };

  test("counts what was answered, refused, failed and left, and the tokens of all of them", async (t) => {
    const before = await figures();
    const answered = (await (await at.post(chats, chat())).json()) as { usage: Record<string, number> };
    const stream = await at.post(chats, chat({ stream: true }));
    await stream.text();
    await at.post(chats, chat({ messages: [{ role: "user", content: "asthma ".repeat(2000) }] }));
    await at.post(chats, chat({ temprature: 1 }));
    await at.post("/v1/mcqa", { question: "Which organ pumps blood?", options: ["heart", "skin"] });
    let now = await figures();
    const grown = (name: string) => now(name) - before(name);
    assert.equal(grown('answers_total{outcome="completed"}'), 3);
    assert.equal(grown('answers_total{outcome="refused"}'), 1);
    assert.equal(grown(`requests_total{route="${chats}",status="200"}`), 2);
    assert.equal(grown(`requests_total{route="${chats}",status="400"}`), 2);
    const { prompt_tokens, completion_tokens } = answered.usage;
    assert.equal(grown("prompt_tokens_total"), 2 * prompt_tokens!);
    assert.equal(grown("generated_tokens_total"), 2 * completion_tokens!);
    assert.equal(grown("time_to_first_token_seconds_count"), 2);
    assert.equal(grown("answer_seconds_count"), 4);
    // A client that leaves: what was written for it counts, and it is no success. Beside it there is no place.
    for (const stream of [true, false]) {
      const leave = new AbortController();
      const body = JSON.stringify(chat({ stream, max_tokens: 900, ignore_eos: true }));
      const headers = { "content-type": "application/json" };
      const left = fetch(at.url + chats, { method: "POST", headers, body, signal: leave.signal })
        .then((response) => response.text())
        .catch(() => "left");
      await until(async () => (await at.server.service.engine_state()).running === 1);
      assert.equal((await at.post(chats, chat())).status, 429);
      leave.abort();
      assert.equal(await left, "left");
      await until(async () => at.server.service.active === 0);
    }
    await until(async () => {
      now = await figures();
      return grown('answers_total{outcome="aborted"}') === 2;
    });
    assert.equal(grown('answers_total{outcome="aborted"}'), 2);
    assert.equal(grown('answers_total{outcome="refused"}'), 3);
    assert.equal(grown(`requests_total{route="${chats}",status="499"}`), 2);
    t.mock.method(
      at.server.service.find_local().assistant.model.engine,
      "generate",
      async function* (): AsyncGenerator<GeneratedToken> {
        yield { sequence: 0, token_id: 300 };
        throw new BimedixError("non_finite_logits", "a model that computed NaN");
      },
    );
    await (await at.post(chats, chat({ stream: true }))).text();
    assert.equal((await at.post(chats, chat())).status, 500);
    now = await figures();
    assert.equal(grown('answers_total{outcome="failed"}'), 2);
  });

  test("is in Prometheus' text format", () => {
    const metrics = new Metrics();
    metrics.count("requests_total", { route: "/health", status: 200 });
    metrics.observe("answer_seconds", 0.3);
    metrics.observe("answer_seconds", 1e4);
    const text = metrics.text([{ name: "requests_active", help: "Now.", value: 3 }]);
    assert.match(
      text,
      /^# HELP bimedix_requests_total [^\n]+\n# TYPE bimedix_requests_total counter\nbimedix_requests_total\{route="\/health",status="200"\} 1\n/,
    );
    const buckets = [...text.matchAll(/answer_seconds_bucket\{le="([^"]+)"\} (\d+)/g)].map(([, le, count]) => [
      le,
      Number(count),
    ]);
    assert.deepEqual(buckets.slice(2, 4).concat(buckets.slice(-1)), [
      ["0.25", 0],
      ["0.5", 1],
      ["+Inf", 2],
    ]);
    assert.match(text, /bimedix_answer_seconds_count 2\n/);
    for (const line of text.trimEnd().split("\n"))
      assert.match(line, /^(# (HELP|TYPE) )?bimedix_[a-z_]+(_total|_seconds|_bytes|_bucket|_sum|_count|_active)?[ {]/);
    assert.ok(text.endsWith("\n"));
  });
});

test("/health says ready when a token was written, and not of a model that cannot", async (t) => {
  // In this process and thread the engine can be made to fail as a runtime does.
  t.mock.method(LocalEngine.prototype, "generate", async function* (): AsyncGenerator<GeneratedToken> {
    yield* [];
    throw new BimedixError("engine_stopped", "not enough space: expected 65536, got 0");
  });
  const { Assistant } = await import("../../src/index.js");
  const { Service } = await import("../../src/serve/service.js");
  const { open_store } = await import("../../src/model/store.js");
  const { Log } = await import("../../src/serve/index.js");
  const engine = await LocalEngine.create(await open_store(nano, { dtype: "q8" }), { threads: 1 });
  const real = await Assistant.from_pretrained(nano, { threads: 1 });
  t.after(() => real.dispose());
  t.mock.method(
    Assistant,
    "from_pretrained",
    async () =>
      new Assistant(
        Object.assign(Object.create(real.model), { engine, dispose: () => engine.dispose() }),
        real.tokenizer,
      ),
  );
  const service = new Service({ model: nano, name: "nano", pretrained: {}, log: new Log(() => {}) });
  await assert.rejects(service.load(), /expected 65536, got 0/);
  assert.equal(service.state, "loading");
});

test("a server in front counts and passes on what another server says in a stream, and asks it once", async (t) => {
  let asked = 0;
  const upstream = createServer((request, response) => {
    if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "other" }] }));
    if (request.method === "POST") asked++;
    else return response.writeHead(404).end();
    request.resume();
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n`);
    return response.end(`data: {"error":{"message":"a secret broke me","code":"overloaded"}}\n\n`);
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const at = await start({ model: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}`, name: "nano" });
  t.after(async () => {
    await at.server.stop(0);
    upstream.close();
  });
  const metadata = { patient: "x" };
  const text = await (await at.post(chats, chat({ stream: true, metadata, store: true }))).text();
  assert.match(text, /"content":"Hi"[\s\S]*"message":"a secret broke me"[\s\S]*"code":"overloaded"/);
  assert.ok(!text.includes("[DONE]"));
  assert.equal(asked, 1);
  assert.ok(!JSON.stringify(at.lines).includes("secret"));
  assert.match(await (await fetch(`${at.url}/metrics`)).text(), /answers_total\{outcome="failed"\} 1/);
});
