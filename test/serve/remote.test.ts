/** A model on another server behind the same capabilities, the command line, and a server of one's own. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Assistant, RemoteAssistant } from "../../src/index.js";
import { rejects, root } from "../fixtures.js";
import { nano, start, type TestServer } from "./server.js";

const greedy = { do_sample: false, max_new_tokens: 16 } as const;
const question = "What are the signs of asthma?";
const asked = { question: "Which organ pumps blood?", options: ["heart", "liver", "skin"] };

async function text_of(pieces: AsyncIterable<string>): Promise<string> {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
}

describe("a model on a server of this project", () => {
  let at: TestServer;
  let front: TestServer;
  let local: Assistant;
  let remote: RemoteAssistant;
  before(async () => {
    at = await start({ pretrained: { dtype: "q8", threads: 1 } });
    front = await start({ model: `${at.url}/v1#nano`, name: "far" });
    local = await Assistant.from_pretrained(nano, { dtype: "q8", threads: 1 });
    remote = await RemoteAssistant.connect(`${at.url}/v1`);
  });
  after(async () => {
    await local.dispose();
    await front.server.stop(1);
    await at.server.stop(1);
  });

  test("answers, options and closed questions are those of the model here", async () => {
    for (const content of [question, "ما هي أعراض الربو؟"]) {
      const messages = [{ role: "user" as const, content }];
      assert.equal(await text_of(remote.chat(messages, greedy)), await text_of(local.chat(messages, greedy)));
    }
    assert.ok((await text_of(remote.generate("Asthma is", greedy))).length > 0);
    const [there, here] = [await remote.mcqa(asked), await local.mcqa(asked)];
    assert.equal(there.answer, here.answer);
    for (const [i, { probability }] of here.options.entries())
      assert.ok(Math.abs(there.options[i]!.probability - probability) < 1e-3);
  });

  test("an abort is heard there, and an unknown name or a dead server is one line", async () => {
    const controller = new AbortController();
    const pieces = remote.chat([{ role: "user", content: question }], {
      max_new_tokens: 900,
      signal: controller.signal,
    });
    await pieces.next();
    controller.abort();
    await rejects(text_of(pieces), "aborted", /stopped/);
    for (let waited = 0; at.server.service.active > 0 && waited < 5000; waited += 20)
      await new Promise((resume) => setTimeout(resume, 20));
    assert.equal(at.server.service.active, 0);
    await rejects(RemoteAssistant.connect(`${at.url}/v1#other`), "server_refused", /does not serve other/);
    await rejects(RemoteAssistant.connect("http://127.0.0.1:1/v1"), "server_refused", /cannot be reached/);
  });

  test("a server in front of it forwards chats, streams and options, and says what it cannot", async () => {
    const body = { messages: [{ role: "user", content: question }], temperature: 0, max_tokens: 16 };
    const content = async (server: TestServer, model: string) => {
      const response = await server.post("/v1/chat/completions", { model, ...body });
      const json = (await response.json()) as { model: string; choices: { message: { content: string } }[] };
      assert.equal(json.model, model);
      return json.choices[0]!.message.content;
    };
    assert.equal(await content(front, "far"), await content(at, "nano"));
    const stream = await (await front.post("/v1/chat/completions", { model: "far", ...body, stream: true })).text();
    assert.ok(stream.includes('"model":"far"') && stream.endsWith("data: [DONE]\n\n"));
    const choice = (await (await front.post("/v1/mcqa", asked)).json()) as { model: string; answer: string };
    assert.deepEqual([choice.model, choice.answer], ["far", (await local.mcqa(asked)).answer]);
    assert.equal((await front.post("/v1/routing", { prompt: "x" })).status, 400);
  });

  test("the verbs take its URL", () => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [join(root, "dist/src/cli/main.js"), ...args, "--model", `${at.url}/v1`], {
        encoding: "utf8",
      });
    const wrong = run("mcqa", "--question", "x", "--options", "a", "b", "--adapter", "x");
    assert.deepEqual([wrong.status, /NAME in --model/.test(wrong.stderr)], [2, true]);
  });
});

describe("a server of another make", () => {
  let server: Server;
  let url: string;
  let top: { token: string; logprob: number }[];
  let bare = false;
  before(async () => {
    server = createServer((request, response) => {
      if (request.url === "/v1/models")
        return response.end(JSON.stringify({ data: [{ id: "other", max_model_len: 40 }] }));
      if (request.url !== "/v1/chat/completions") return response.writeHead(404).end("{}");
      const content = [
        { token: " ", top_logprobs: [] },
        bare ? { token: "B", top_logprobs: [] } : { token: top[0]?.token ?? "", top_logprobs: top },
      ];
      return response.end(JSON.stringify({ choices: [{ message: { content: "…" }, logprobs: { content } }] }));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
  });
  after(() => void server.close());

  test("probabilities come from the letter that it writes", async () => {
    const remote = await RemoteAssistant.connect(url);
    top = [
      { token: "B", logprob: Math.log(0.6) },
      { token: " A", logprob: Math.log(0.2) },
      { token: "The", logprob: Math.log(0.1) },
    ];
    const result = await remote.mcqa(asked);
    assert.equal(result.answer, "B");
    for (const [i, expected] of [0.25, 0.75, 0].entries())
      assert.ok(Math.abs(result.options[i]!.probability - expected) < 1e-9);
    top = [{ token: "no", logprob: -0.1 }];
    assert.equal((await remote.ask({ context: "x", question: "y?" })).answer, "no");
    top = [{ token: "Well", logprob: -0.1 }];
    await rejects(remote.mcqa(asked), "server_refused", /without log-probabilities of an option/);
    // The letter itself, and nothing of how likely it is.
    bare = true;
    await rejects(remote.mcqa(asked), "server_refused", /without log-probabilities of an option/);
    const messages = Array.from({ length: 5 }, (_, i) => ({
      role: i % 2 ? ("assistant" as const) : ("user" as const),
      content: "x".repeat(20),
    }));
    assert.equal(remote.overflow(messages, 10), 2);
  });
});

describe("a server in front of one that refuses", () => {
  let upstream: Server;
  let front: TestServer;
  let answer: { status: number; headers?: Record<string, string>; body: unknown };
  /** Instead of a body. */
  let broken = "";
  before(async () => {
    upstream = createServer((request, response) => {
      if (request.url === "/v1/models") return response.end(JSON.stringify({ data: [{ id: "other" }] }));
      if (request.url === "/v1/mcqa") return response.writeHead(404).end("{}");
      return response.writeHead(answer.status, answer.headers).end(broken || JSON.stringify(answer.body));
    });
    await new Promise<void>((resolve) => upstream.listen(0, "127.0.0.1", resolve));
    front = await start({ model: `http://127.0.0.1:${(upstream.address() as AddressInfo).port}/v1`, name: "far" });
  });
  after(async () => {
    await front.server.stop(1);
    upstream.close();
  });
  const chat = { model: "far", messages: [{ role: "user", content: "a secret" }] };
  const error_of = async (response: Response) =>
    ((await response.json()) as { error: { message: string; code: string; param: string | null } }).error;

  test("what it says of the request reaches the client with its status and code", async () => {
    const [message, param] = ["a secret is too long", "messages"];
    answer = { status: 400, body: { error: { message, param, code: "context_length_exceeded", type: "x" } } };
    for (const [path, body] of [
      ["/v1/chat/completions", chat],
      ["/v1/chat/completions", { ...chat, stream: true }],
      ["/v1/completions", { model: "far", prompt: "a secret" }],
      ["/v1/mcqa", asked],
    ] as const) {
      const response = await front.post(path, body);
      assert.equal(response.status, 400);
      const error = { message, param, code: "context_length_exceeded", type: "invalid_request_error" };
      assert.deepEqual(await error_of(response), error);
    }
    answer = { status: 422, body: { object: "error", message, type: "BadRequestError", code: 422 } };
    const unframed = await front.post("/v1/chat/completions", chat);
    assert.deepEqual([unframed.status, (await error_of(unframed)).code], [422, "BadRequestError"]);
    answer = { status: 429, headers: { "retry-after": "7" }, body: { error: "busy" } };
    const busy = await front.post("/v1/chat/completions", chat);
    assert.deepEqual([busy.status, busy.headers.get("retry-after")], [429, "7"]);
    assert.equal((await error_of(busy)).message, "busy");
  });

  test("what is wrong with it is 502, and its words are not in the log", async () => {
    const body = { error: { message: "a secret broke me", code: "x" } };
    for (const status of [401, 404, 500]) {
      answer = { status, body };
      const response = await front.post("/v1/chat/completions", chat);
      assert.deepEqual([response.status, (await error_of(response)).code], [502, "server_refused"]);
    }
    answer = { status: 200, body: { choices: [{ message: { content: "a secret in prose" } }] } };
    assert.equal((await front.post("/v1/mcqa", asked)).status, 502);
    broken = "data: a secret\n\n";
    const stream = await front.post("/v1/chat/completions", { ...chat, stream: true });
    assert.equal(stream.status, 502);
    const log = JSON.stringify(front.lines);
    assert.match(log, /127\.0\.0\.1:\d+ answered 500/);
    assert.ok(!log.includes("secret"), log);
  });
});
