/** Requests that leave, come too many at once or too late, and a model or a server that ends under them. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { open } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { GenerateOptions } from "../../src/engine/engine.js";
import { chat_answer } from "../../src/serve/completions.js";
import { Log, start_server } from "../../src/serve/index.js";
import { chat_schema } from "../../src/serve/requests.js";
import { root } from "../fixtures.js";
import { nano, raw, start, type TestServer } from "./server.js";

const chats = "/v1/chat/completions";
const long = (content = "What are the signs of asthma?", extra: object = {}) => ({
  model: "nano",
  messages: [{ role: "user", content }],
  temperature: 0,
  max_tokens: 120,
  ...extra,
});
const sleep = (milliseconds: number) => new Promise((resume) => setTimeout(resume, milliseconds));

async function events_of(response: Response): Promise<Record<string, unknown>[]> {
  const events = (await response.text()).split("\n\n").filter(Boolean);
  for (const event of events) assert.match(event, /^data: /);
  return events
    .map((event) => event.slice(6))
    .filter((data) => data !== "[DONE]")
    .map((data) => JSON.parse(data));
}

async function text_of(at: TestServer, body: object): Promise<string> {
  const response = await at.post(chats, body);
  const json = (await response.json()) as { choices: { message: { content: string } }[] };
  return json.choices[0]!.message.content;
}

async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let waited = 0; waited < 10_000; waited += 20) {
    if (await holds()) return;
    await sleep(20);
  }
  throw new Error(`${what} did not happen in 10 s`);
}

describe("requests", () => {
  let at: TestServer;
  before(async () => {
    at = await start({
      pretrained: { dtype: "q8", threads: 1, max_sequences: 2, chunk_tokens: 16 },
      max_queue: 2,
      deadline: 20,
    });
  });
  after(() => at.server.stop(1));

  test("a stream is the whole answer in pieces, Arabic too, and ends with usage and [DONE]", async () => {
    for (const question of ["What are the signs of asthma?", "ما هي أعراض الربو؟"]) {
      const whole = await text_of(at, long(question));
      const response = await at.post(chats, long(question, { stream: true, stream_options: { include_usage: true } }));
      assert.equal(response.headers.get("content-type"), "text/event-stream; charset=utf-8");
      const body = await response.clone().text();
      assert.ok(body.endsWith("data: [DONE]\n\n"));
      const events = (await events_of(response)) as {
        choices: { delta: { role?: string; content: string }; finish_reason: string | null }[];
        usage: { completion_tokens: number } | null;
      }[];
      assert.equal(
        events
          .flatMap(({ choices }) => choices)
          .map(({ delta }) => delta.content)
          .join(""),
        whole,
      );
      assert.equal(events[0]!.choices[0]!.delta.role, "assistant");
      assert.deepEqual(events.at(-1)!.choices, []);
      assert.ok(events.at(-1)!.usage!.completion_tokens > 1);
      assert.match(String(events.at(-2)!.choices[0]!.finish_reason), /^(stop|length)$/);
    }
  });

  test("stop texts end an answer wherever they fall, and are not shown", async () => {
    const whole = await text_of(at, long());
    for (const stop of [whole.slice(10, 13), whole.slice(7, 30)]) {
      const expected = whole.slice(0, whole.indexOf(stop));
      assert.equal(await text_of(at, long(undefined, { stop })), expected);
      const events = (await events_of(await at.post(chats, long(undefined, { stop: [stop], stream: true })))) as {
        choices: { delta: { content: string }; finish_reason: string | null }[];
      }[];
      assert.equal(events.map(({ choices }) => choices[0]!.delta.content).join(""), expected);
      assert.equal(events.at(-1)!.choices[0]!.finish_reason, "stop");
    }
  });

  test("with ignore_eos an answer is as long as it may be", async () => {
    const response = await at.post(chats, long("What is gout?", { ignore_eos: true, max_tokens: 300 }));
    const json = (await response.json()) as {
      choices: { finish_reason: string }[];
      usage: { completion_tokens: number };
    };
    assert.deepEqual([json.choices[0]!.finish_reason, json.usage.completion_tokens], ["length", 300]);
  });

  test("n and seed", async () => {
    const body = long(undefined, { n: 3, seed: 5, temperature: 1.5, max_tokens: 12 });
    const texts = async () => {
      const json = (await (await at.post(chats, body)).json()) as {
        choices: { index: number; message: { content: string } }[];
        usage: { prompt_tokens: number; completion_tokens: number };
      };
      assert.deepEqual(
        json.choices.map(({ index }) => index),
        [0, 1, 2],
      );
      assert.ok(json.usage.completion_tokens <= 36);
      return json.choices.map(({ message }) => message.content);
    };
    const first = await texts();
    assert.deepEqual(await texts(), first);
    assert.equal(new Set(first).size, 3);
  });

  test("a request that says how to sample is sampled, whatever the model's files say", async (t) => {
    const { generation_config, engine } = at.server.service.find_local().assistant.model;
    const { do_sample } = generation_config;
    t.after(() => Object.assign(generation_config, { do_sample }));
    delete generation_config.do_sample;
    let seen: GenerateOptions = {};
    t.mock.method(engine, "generate", async function* (_: unknown, options: GenerateOptions) {
      seen = options;
      yield { sequence: 0, token_id: 5 };
    });
    const files = generation_config.temperature;
    for (const [fields, sampled, temperature] of [
      [{}, undefined, files],
      [{ n: 1 }, undefined, files],
      [{ n: 2 }, true, files],
      [{ seed: 1 }, true, files],
      [{ top_p: 0.9 }, true, files],
      [{ top_k: 0 }, true, files],
      [{ min_p: 0.1 }, true, files],
      [{ temperature: 1.5 }, true, 1.5],
      [{ temperature: 0, seed: 1, n: 2 }, false, files],
    ] as const) {
      const response = await at.post(chats, long(undefined, { temperature: undefined, ...fields }));
      assert.equal(response.status, 200);
      assert.deepEqual([seen.do_sample, seen.temperature], [sampled, temperature], JSON.stringify(fields));
    }
  });

  test("34, 35 clients that leave while queued, in prefill and mid-stream free their places; neighbours see nothing", async () => {
    const solo = await text_of(at, long());
    const controllers = Array.from({ length: 3 }, () => new AbortController());
    const leaving = (i: number, content: string) =>
      fetch(at.url + chats, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(long(content, { stream: true, max_tokens: 800, stop: "never" })),
        signal: controllers[i]!.signal,
      }).then(async (response) => {
        const reader = response.body!.getReader();
        await reader.read();
        controllers[i]!.abort();
        // What had already arrived may still be read.
        while (!(await reader.read()).done);
        return "finished";
      });
    const mid_stream = leaving(0, "What is asthma?").catch(() => "left");
    const neighbour = text_of(at, long());
    const prefill = leaving(1, "many words ".repeat(150)).catch(() => "left");
    const queued = leaving(2, "What is gout?").catch(() => "left");
    await sleep(5);
    controllers[1]!.abort();
    controllers[2]!.abort();
    assert.deepEqual(await Promise.all([mid_stream, prefill, queued]), ["left", "left", "left"]);
    assert.equal(await neighbour, solo);
    await until(() => at.server.service.active === 0, "an empty house");
    await until(async () => {
      const { running, waiting } = await at.server.service.engine_state();
      return running === 0 && waiting === 0;
    }, "an idle engine");
    assert.equal(await text_of(at, long()), solo);
  });

  test("35 a client that leaves while it does not read ends nothing but its own answer", async () => {
    const served = at.server.service.find_local();
    const { signal, leave } = at.server.service.enter(() => {});
    const answer = await chat_answer(
      chat_schema.parse(long("What is gout?", { max_tokens: 800, n: 2 })),
      served,
      signal,
    );
    await answer.events.next();
    leave();
    // An answer that failed with nobody waiting for it would be an unhandled rejection here, the process's end elsewhere.
    await sleep(50);
    await answer.events.return(undefined);
    assert.equal((await at.post(chats, long("What is asthma?", { max_tokens: 3 }))).status, 200);
    assert.deepEqual(
      at.lines.filter(({ level }) => level === "error"),
      [],
    );
  });

  test("36 too many at once: 429 with Retry-After, and all others are answered", async () => {
    const responses = await Promise.all(Array.from({ length: 12 }, () => at.post(chats, long())));
    const statuses = responses.map(({ status }) => status);
    assert.ok(statuses.includes(200) && statuses.includes(429), String(statuses));
    for (const response of responses.filter(({ status }) => status === 429)) {
      assert.match(response.headers.get("retry-after")!, /^[1-9]\d*$/);
      assert.equal(((await response.json()) as { error: { code: string } }).error.code, "queue_full");
    }
    const answers = await Promise.all(responses.filter(({ status }) => status === 200).map((one) => one.text()));
    for (const answer of answers) assert.ok(answer.includes('"finish_reason"'));
  });
});

test("2 a request whose headers or body never end is given up, and the next is answered", async (t) => {
  const at = await start({ request_timeout: 1 });
  t.after(() => at.server.stop(1));
  const head = `POST ${chats} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  for (const begun of [`${head}x-slow: `, `${head}content-length: 100\r\n\r\n{"model":`]) {
    const answer = await raw(at.url, begun, { wait: 30_000 });
    assert.match(answer, /^HTTP\/1.1 408 [\s\S]*"code":"request_timeout"/);
  }
  assert.equal((await at.post(chats, long("What is gout?", { max_tokens: 3 }))).status, 200);
  await until(() => at.server.service.active === 0, "an empty house");
});

test("37 while the model is loading, requests get 503 with Retry-After, and /health says so", async (t) => {
  const server = await start_server({
    model: nano,
    name: "nano",
    pretrained: { dtype: "q8" },
    port: 0,
    version: "test",
    log: new Log(() => {}),
  });
  t.after(() => server.stop(1));
  const health = await fetch(`${server.url}/health`);
  assert.deepEqual([health.status, await health.json()], [503, { status: "loading" }]);
  const ask = () =>
    fetch(server.url + chats, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(long("What is gout?", { max_tokens: 3 })),
    });
  const early = await ask();
  assert.equal(early.status, 503);
  assert.ok(early.headers.get("retry-after"));
  assert.equal(((await early.json()) as { error: { code: string } }).error.code, "loading");
  await server.ready;
  assert.equal((await ask()).status, 200);
});

test("a request that takes longer than the deadline ends with 504, or as an event of its stream", async (t) => {
  const at = await start({ deadline: 0.3 });
  t.after(() => at.server.stop(1));
  // Sixteen long answers, which no machine writes in that time.
  const endless = long(undefined, { max_tokens: 900, n: 16, ignore_eos: true });
  const response = await at.post(chats, endless);
  assert.equal(response.status, 504);
  assert.equal(((await response.json()) as { error: { code: string } }).error.code, "deadline_exceeded");
  const events = await events_of(await at.post(chats, { ...endless, stream: true }));
  assert.equal((events.at(-1) as { error: { code: string } }).error.code, "deadline_exceeded");
  await until(() => at.server.service.active === 0, "an empty house");
});

test("a client that reads nothing keeps its place until shortly after the deadline", async (t) => {
  // A model that writes faster than any socket's buffers are emptied.
  const upstream = createServer((request, response) => {
    if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "endless" }] }));
    const event = `data: ${JSON.stringify({ choices: [{ delta: { content: "x".repeat(2 ** 16) } }] })}\n\n`;
    const write = () => {
      while (!response.destroyed && response.write(event));
    };
    response.on("drain", write);
    return write();
  });
  await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
  const at = await start({ model: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/v1`, deadline: 2 });
  const { hostname, port } = new URL(at.url);
  const socket = connect(Number(port), hostname);
  t.after(async () => {
    socket.destroy();
    await at.server.stop(0);
    upstream.closeAllConnections();
    upstream.close();
  });
  const body = JSON.stringify(long(undefined, { stream: true }));
  const head = `POST ${chats} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  socket.write(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  await until(() => at.server.service.active === 1, "a request");
  await until(() => at.server.service.active === 0, "an empty house");
});

test("39 a model that ends under its requests fails them by name and comes back", async (t) => {
  const at = await start();
  t.after(() => at.server.stop(1));
  const stream = await at.post(chats, long(undefined, { stream: true, max_tokens: 900, ignore_eos: true }));
  process.kill(at.server.service.find_local().assistant.model.engine.pid!, "SIGKILL");
  const events = await events_of(stream);
  assert.equal((events.at(-1) as { error: { code: string } }).error.code, "engine_stopped");
  const while_loading = await at.post(chats, long());
  assert.equal(while_loading.status, 503);
  assert.ok(while_loading.headers.get("retry-after"));
  assert.equal((await fetch(`${at.url}/health`)).status, 503);
  await until(() => at.server.service.state === "ready", "a return");
  assert.ok((await text_of(at, long())).length > 0);
});

describe("the process", () => {
  const cli = join(root, "dist/src/cli/main.js");
  async function serve(
    args: readonly string[] = [],
    stderr: "pipe" | number = "pipe",
  ): Promise<{ child: ChildProcess; url: string }> {
    const child = spawn(process.execPath, [cli, "serve", "--port", "0", "--name", "nano", ...args], {
      stdio: ["ignore", "pipe", stderr],
    });
    child.stderr?.resume();
    const [line] = (await Promise.race([once(child.stdout!, "data"), once(child, "exit")])) as [unknown];
    const url = /^(http:\S+)\/v1 serves nano/.exec(String(line))?.[1] ?? "";
    return { child, url };
  }
  const ask = (url: string) =>
    fetch(url + chats, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(long(undefined, { stream: true, max_tokens: 900, ignore_eos: true })),
    });

  test("38 SIGTERM lets answers end", async () => {
    const { child, url } = await serve(["--grace", "600"]);
    const response = await ask(url);
    child.kill("SIGTERM");
    await sleep(20);
    const text = await response.text();
    assert.ok(text.endsWith("data: [DONE]\n\n"), text.slice(-200));
    assert.deepEqual(await once(child, "exit"), [0, null]);
  });

  test("38 after the grace time they get an error event; a second signal ends at once", async () => {
    const short = await serve(["--grace", "0.01"]);
    const response = await ask(short.url);
    short.child.kill("SIGTERM");
    const text = await response.text();
    assert.match(text, /"code":"stopping"|\[DONE\]/);
    assert.deepEqual(await once(short.child, "exit"), [0, null]);

    const twice = await serve(["--grace", "20"]);
    const cut = ask(twice.url)
      .then((one) => one.text())
      .catch(() => "cut");
    await sleep(50);
    twice.child.kill("SIGTERM");
    await sleep(20);
    twice.child.kill("SIGTERM");
    const [code, signal] = (await once(twice.child, "exit")) as [number | null, string | null];
    assert.ok(signal === "SIGTERM" || code === 0);
    await cut;
  });

  const full = "/dev/full";
  const skip = existsSync(full) ? false : `there is no ${full} here`;
  test("a log on a full disk is lost, and the server goes on", { skip }, async () => {
    const disk = await open(full, "w");
    const { child, url } = await serve([], disk.fd);
    await goes_on(child, url);
    await disk.close();
  });

  test("a terminal that was closed ends no server", async () => {
    const { child, url } = await serve();
    child.stderr!.destroy();
    child.stdout!.destroy();
    await goes_on(child, url);
  });

  async function goes_on(child: ChildProcess, url: string): Promise<void> {
    for (let i = 0; i < 3; i++) {
      // Each is a line of the log, of which the failure is heard a moment later.
      assert.equal((await fetch(`${url}/v1/models`)).status, 200);
      await sleep(50);
    }
    child.kill("SIGTERM");
    assert.deepEqual(await once(child, "exit"), [0, null]);
  }

  test("40 a port that is taken, and an address that others reach without a key, are one line each", async () => {
    const first = await serve();
    const run = async (...args: string[]) => {
      const child = spawn(process.execPath, [cli, "serve", ...args]);
      let stderr = "";
      child.stderr.on("data", (data) => {
        stderr += data;
      });
      const [code] = (await once(child, "exit")) as [number];
      return { code, stderr };
    };
    const taken = await run("--port", new URL(first.url).port);
    assert.deepEqual(
      [taken.code, /^bimedix: 127.0.0.1:\d+, where another program listens;/.test(taken.stderr)],
      [2, true],
    );
    const keyless = await run("--host", "0.0.0.0", "--port", "0");
    assert.deepEqual([keyless.code, /without an API key/.test(keyless.stderr)], [2, true]);
    const missing = await run("--model", "/nothing", "--port", "0");
    assert.equal(missing.code, 1);
    first.child.kill("SIGTERM");
    await once(first.child, "exit");
  });
});
