/** This project as a client of other servers: their streams in every form, what is sent how often, and their addresses. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { after, before, describe, test } from "node:test";
import { completion_event } from "../../src/engine/answers.js";
import { request, request_events } from "../../src/engine/http.js";
import { find_model } from "../../src/engine/remote_model.js";
import { event_data } from "../../src/engine/sse.js";
import { RemoteAssistant } from "../../src/index.js";
import { rejects } from "../fixtures.js";

async function all_of<T>(values: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const value of values) all.push(value);
  return all;
}

const delta = (content: unknown, extra: object = {}) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content }, finish_reason: null, ...extra }] })}\n\n`;
const ended = `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n`;
const DONE = "data: [DONE]\n\n";

/** What the server does with a request that is no list of models. */
let handle: (request: IncomingMessage, response: ServerResponse, body: string) => void;
let server: Server;
let root: string;
let seen: { path: string; body: Record<string, unknown>; headers: IncomingMessage["headers"] }[] = [];
before(async () => {
  server = createServer(async (request, response) => {
    let body = "";
    for await (const part of request) body += part;
    if (request.method === "POST")
      seen.push({ path: request.url!, body: JSON.parse(body) as Record<string, unknown>, headers: request.headers });
    if (request.url!.split("?")[0] === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "m" }] }));
    return handle(request, response, body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  root = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const pieces = (parts: readonly (string | Uint8Array)[], type = "text/event-stream") => {
  seen = [];
  handle = async (_, response) => {
    response.writeHead(200, { "content-type": type });
    for (const part of parts) {
      response.write(part);
      await new Promise((resume) => setImmediate(resume));
    }
    response.end();
  };
};
async function chat(): Promise<string> {
  const remote = await RemoteAssistant.connect(`${root}/v1`);
  let text = "";
  for await (const piece of remote.chat([{ role: "user", content: "x" }])) text += piece;
  return text;
}

describe("streams", () => {
  const bytes = Buffer.from(delta("سعال 👩‍⚕️"));
  const whole: Record<string, [readonly (string | Uint8Array)[], string]> = {
    plain: [[delta("Hel"), delta("lo"), DONE], "Hello"],
    "[DONE] without its empty line": [[delta("Hel"), delta("lo"), "data: [DONE]\n"], "Hello"],
    "[DONE] without an end of line": [[delta("Hi"), "data: [DONE]"], "Hi"],
    "no [DONE], but a finish_reason": [[delta("Hi"), ended], "Hi"],
    "no [DONE], and usage after the finish_reason": [[delta("Hi"), ended, `data: {"choices":[],"usage":{}}\n\n`], "Hi"],
    "a finish_reason with the last text": [[delta("Hi", { finish_reason: "length" })], "Hi"],
    "empty choices first": [[`data: {"choices":[],"prompt_filter_results":[]}\n\n`, delta("Hi"), DONE], "Hi"],
    "a choice without a delta": [[delta("Hi"), `data: {"choices":[{"index":0,"finish_reason":null}]}\n\n`, DONE], "Hi"],
    "a role alone, null content": [
      [`data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n`, delta("Hi"), DONE],
      "Hi",
    ],
    "null between events": [[delta("Hel"), "data: null\n\n", delta("lo"), DONE], "Hello"],
    "comments and pings": [[":\n\n", ": ping\n\n", delta("Hi"), ": OPENROUTER PROCESSING\n\n", DONE], "Hi"],
    "event, id and retry lines": [
      [`retry: 10\nevent: message\nid: 1\n${delta("Hi")}`, "event: done\ndata: [DONE]\n\n"],
      "Hi",
    ],
    CRLF: [[delta("Hi").replaceAll("\n", "\r\n"), "data: [DONE]\r\n\r\n"], "Hi"],
    "CR alone": [[delta("Hi").replaceAll("\n", "\r"), "data: [DONE]\r\r"], "Hi"],
    "CRLF cut in two": [['data: {"choices":[{"delta":{"content":"Hi"}}]}\r', "\n\r", "\ndata: [DONE]\r\n\r\n"], "Hi"],
    "data over several lines": [[`data: {"choices":\ndata: [{"delta":{"content":"Hi"}}]}\n\n`, DONE], "Hi"],
    "bytes one by one": [[...Array.from(bytes, (_, i) => bytes.subarray(i, i + 1)), DONE], "سعال 👩‍⚕️"],
    "no space after the colon, and a byte order mark": [
      [`\ufeff${delta("Hi").replace("data: ", "data:")}`, "data:[DONE]\n\n"],
      "Hi",
    ],
    "thoughts before the text": [
      [`data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n`, delta("Hi"), DONE],
      "Hi",
    ],
    "content in parts": [
      [
        delta([
          { type: "text", text: "H" },
          { type: "text", text: "i" },
        ]),
        DONE,
      ],
      "Hi",
    ],
  };
  for (const [name, [parts, text]] of Object.entries(whole))
    test(`${name}: whole`, async () => {
      pieces(parts);
      assert.equal(await chat(), text);
      assert.equal(seen.length, 1);
    });

  test("a server that does not stream", async () => {
    pieces([JSON.stringify({ choices: [{ message: { content: "Hi" }, finish_reason: "stop" }] })], "application/json");
    assert.equal(await chat(), "Hi");
  });

  test("what is cut short, is no JSON, or says that it failed is an error, and the text before it is kept", async () => {
    const half = `data: {"choices":[{"delta":`;
    const failed = `data: {"error":{"message":"out of memory","code":500}}\n\n`;
    for (const [parts, mentions] of [
      [[delta("Hi")], /without \[DONE\]/],
      [[delta("Hi"), half], /an event that is not JSON/],
      [[delta("Hi"), failed], /failed \(out of memory\)/],
      [[delta("Hi"), `event: error\ndata: {"error":"no memory"}\n\n`], /failed \(no memory\)/],
      [[], /without \[DONE\]/],
    ] as const) {
      pieces(parts);
      await rejects(chat(), "server_refused", mentions);
      assert.equal(seen.length, 1);
    }
    // Two answers, of which one has not ended.
    pieces([delta("a", { index: 0, finish_reason: "stop" }), delta("b", { index: 1 })]);
    const events = request_events(`${root}/v1`, "/chat/completions", {}, {});
    await rejects(all_of(events), "server_refused", /without \[DONE\]/);
  });

  test("event_data gives what the standard says, and the event that the end cuts off", async () => {
    const read = (text: string) => all_of(event_data(Readable.from([Buffer.from(text)])));
    assert.deepEqual(await read("data: a\n\ndata:  b\ndata\ndata:c\n\n: no\n\nid: 1\n\ndata: d"), [
      "a",
      " b\n\nc",
      "d",
    ]);
    assert.deepEqual(await read(""), []);
    assert.deepEqual(await read("data\n\ndatas: x\n\n"), [""]);
  });
});

describe("what is sent", () => {
  /** The first so many requests fail in this way. */
  const failing = (times: number, how: (response: ServerResponse) => void) => {
    seen = [];
    handle = (_, response) => (seen.length <= times ? how(response) : response.end(`${delta("Hi")}${DONE}`));
  };
  const status =
    (code: number, headers: Record<string, string> = {}) =>
    (response: ServerResponse) =>
      void response.writeHead(code, headers).end("{}");

  test("once, where the server may have taken it: a chat, and whatever is forwarded", async () => {
    const remote = await RemoteAssistant.connect(`${root}/v1`);
    const { signal } = new AbortController();
    for (const how of [status(500), status(502), status(504), (response: ServerResponse) => response.destroy()]) {
      failing(9, how);
      await rejects(chat(), "server_refused", /answered 50\d|cannot be reached/);
      await rejects(remote.forward("/chat/completions", {}, signal), "server_refused", /./);
      await rejects(remote.forward_events("/chat/completions", {}, signal).next(), "server_refused", /./);
      assert.equal(seen.length, 3);
    }
    failing(9, status(429, { "retry-after": "0" }));
    await rejects(remote.forward("/chat/completions", {}, signal), "server_refused", /answered 429/);
    assert.equal(seen.length, 1);
  });

  test("again, where it was not taken; scores, that are the same the second time, after every failure", async () => {
    for (const code of [429, 503]) {
      failing(1, status(code));
      assert.equal(await chat(), "Hi");
      assert.equal(seen.length, 2);
    }
    failing(1, status(500));
    handle = (
      (before) => (a: IncomingMessage, b: ServerResponse, c: string) =>
        seen.length > 1 ? b.end("{}") : before(a, b, c)
    )(handle);
    await request(`${root}/v1`, "/completions", {}, completion_event, { retry: "always" });
    assert.equal(seen.length, 2);
    // A wait that nobody would wait for is an answer.
    failing(1, status(429, { "retry-after": "3600" }));
    await rejects(chat(), "server_refused", /answered 429/);
    assert.equal(seen.length, 1);
  });

  test("with its length, its key and no other address; an abort is one", async () => {
    pieces([delta("Hi"), DONE]);
    await all_of(request_events(`${root}/v1`, "/chat/completions", { a: "س" }, { api_key: "secret" }));
    const [{ headers }] = seen as [(typeof seen)[0]];
    assert.deepEqual([headers.authorization, headers["content-length"]], ["Bearer secret", "10"]);
    handle = (_, response) => void response.writeHead(301, { location: `${root}/elsewhere` }).end();
    seen = [];
    await rejects(chat(), "server_refused", /answered 301 \(to http:.*elsewhere\)/);
    assert.equal(seen.length, 1);
    const controller = new AbortController();
    handle = (_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" }).write(delta("Hi"));
      controller.abort();
    };
    const stopped = request_events(`${root}/v1`, "/chat/completions", {}, { signal: controller.signal });
    await rejects(all_of(stopped), "aborted", /stopped/);
  });

  test("options by the names of the API; what it has no name for is refused by name", async () => {
    const remote = await RemoteAssistant.connect(`${root}/v1`);
    const ask = (options: object) => all_of(remote.chat([{ role: "user", content: "x" }], options));
    pieces([delta("Hi"), DONE]);
    await ask({
      max_new_tokens: 5,
      do_sample: false,
      temperature: 0.7,
      stop_strings: "x",
      presence_penalty: 1,
      seed: 2,
    });
    const { messages: _, ...body } = seen[0]!.body;
    const sent = { model: "m", max_tokens: 5, temperature: 0, stop: "x", presence_penalty: 1, seed: 2, stream: true };
    assert.deepEqual(body, sent);
    await rejects(ask({ no_repeat_ngram_size: 2 }), "bad_option", /no_repeat_ngram_size for a model on a server/);
    await rejects(ask({ temprature: 2 }), "bad_option", /did you mean temperature/);
  });
});

describe("addresses", () => {
  test("a server's root, its /v1, with a slash or without, or a whole path that was copied", async () => {
    handle = (_, response) => void response.writeHead(404).end("404 page not found");
    for (const path of ["", "/", "/v1", "/v1/", "/v1#m", "/v1/chat/completions", "/v1/models", "#m"]) {
      const { base, id } = await find_model(root + path, {});
      assert.deepEqual([base, id], [`${root}/v1`, "m"], path);
    }
    // LM Studio answers unknown paths with 200; others with a page.
    for (const answer of ['{"error":"Unexpected endpoint"}', "<html></html>"]) {
      handle = (_, response) => void response.end(answer);
      assert.equal((await find_model(root, {})).base, `${root}/v1`);
    }
    handle = (_, response) => void response.writeHead(404).end("{}");
    await rejects(find_model(`${root}/other`, {}), "server_refused", /other\/models answered 404/);
    await rejects(find_model(`${root}/v1#x`, {}), "server_refused", /does not serve x.*one of: m/);
    await rejects(find_model("nonsense", {}), "server_refused", /is not a URL/);
  });

  test("what an address asks stays behind the path; a name without its tag is Ollama's latest", async () => {
    const asked: string[] = [];
    handle = (request, response) => {
      asked.push(request.url!);
      response.end(JSON.stringify({ data: [{ id: "llama3:latest" }, { id: "other:7b" }] }));
    };
    const { base, id } = await find_model(`${root}/openai/v1?api-version=2026-01#llama3`, {});
    await request(base, "/chat/completions", {}, completion_event, {});
    assert.equal(id, "llama3:latest");
    assert.deepEqual(asked, [
      "/openai/v1/models?api-version=2026-01",
      "/openai/v1/chat/completions?api-version=2026-01",
    ]);
  });
});
