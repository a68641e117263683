/** What a server on the open network is sent: each ends in the right status and error body, and the next good request is answered. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { raw, start, type TestServer } from "./server.js";

const KEY = "a-key-that-is-long-enough";
const auth = { authorization: `Bearer ${KEY}` };
const chat = { model: "nano", messages: [{ role: "user", content: "What is asthma?" }], max_tokens: 2, temperature: 0 };
const completion = { model: "nano", prompt: "Asthma is", max_tokens: 2, temperature: 0 };

let at: TestServer;
before(async () => {
  at = await start({ api_keys: [KEY, "another-key-as-long-as-that"], body_limit: 200_000 });
});
after(() => at.server.stop(1));

async function good(): Promise<void> {
  const response = await at.post("/v1/chat/completions", chat, auth);
  assert.equal(response.status, 200);
  const { choices } = (await response.json()) as { choices: { message: { content: string } }[] };
  assert.ok(choices[0]!.message.content.length > 0);
}

/** In OpenAI's form, one line, and of this code. */
async function refused(response: Response, status: number, code?: string): Promise<void> {
  const text = await response.text();
  assert.equal(response.status, status, text);
  const { error } = JSON.parse(text) as { error: Record<string, unknown> };
  assert.deepEqual(Object.keys(error).sort(), ["code", "message", "param", "type"]);
  assert.match(String(error.message), /^[^\n]{3,700}$/);
  if (code) assert.equal(error.code, code, text);
}

/** Every body is refused with 400 on a route, and the server goes on. */
function each(title: string, path: string, bodies: Record<string, unknown>, code?: string) {
  test(title, async () => {
    for (const [name, body] of Object.entries(bodies)) {
      const response = await at.post(path, body, auth);
      await refused(response, 400, code).catch((error: Error) => {
        throw new Error(`${name}: ${error.message}`);
      });
    }
    await good();
  });
}

const chats = "/v1/chat/completions";
const completions = "/v1/completions";
const with_content = (content: unknown) => ({ ...chat, messages: [{ role: "user", content }] });
const head = (extra: string) =>
  `POST ${chats} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${KEY}\r\ncontent-type: application/json\r\nconnection: close\r\n${extra}\r\n`;

describe("transport", () => {
  test("1 a body that is too large", async () => {
    await refused(await at.post(chats, with_content("x".repeat(300_000)), auth), 413, "body_too_large");
    const chunk = `${(60_000).toString(16)}\r\n${"x".repeat(60_000)}\r\n`;
    const answer = await raw(at.url, head("transfer-encoding: chunked\r\n") + chunk.repeat(4));
    assert.match(answer, /^HTTP\/1.1 413 [\s\S]*body_too_large/);
    await good();
  });

  test("3 headers that are too large", async () => {
    assert.match(
      await raw(at.url, head(`x-long: ${"y".repeat(20_000)}\r\n`)),
      /^HTTP\/1.1 431 [\s\S]*headers_too_large/,
    );
    await good();
  });

  test("4, 5, 6 compression, another type, bytes that are not UTF-8", async () => {
    const bomb = gzipSync(Buffer.alloc(10_000_000, 32));
    const encoded = (encoding: string) => ({ ...auth, "content-encoding": encoding });
    await refused(await at.post(chats, bomb, encoded("gzip")), 415, "unsupported_encoding");
    await refused(await at.post(chats, bomb, encoded("zstd")), 415, "unsupported_encoding");
    await refused(await at.post(chats, chat, { ...auth, "content-type": "text/plain" }), 415);
    await refused(await at.post(chats, chat, { ...auth, "content-type": "application/json5" }), 415);
    const bytes = Buffer.concat([Buffer.from('{"model":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]);
    await refused(await at.post(chats, bytes, auth), 400, "invalid_utf8");
    await good();
  });

  test("7 another host's name", async () => {
    for (const host of ["evil.example", "evil.example:80", "localhost.evil.example", ""])
      assert.match(
        await raw(
          at.url,
          `GET /v1/models HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${KEY}\r\nconnection: close\r\n\r\n`,
        ),
        host === "" ? /^HTTP\/1.1 40[03] / : /^HTTP\/1.1 403 [\s\S]*--allow-host/,
      );
    assert.match(
      await raw(at.url, "GET /health HTTP/1.1\r\nhost: LOCALHOST:1\r\nconnection: close\r\n\r\n"),
      /^HTTP\/1.1 200 /,
    );
    await good();
  });

  test("8 another site's page", async () => {
    const headers = { origin: "https://evil.example", "access-control-request-method": "POST" };
    for (const response of [
      await fetch(at.url + chats, { method: "OPTIONS", headers }),
      await at.post(chats, chat, { ...auth, origin: "https://evil.example" }),
    ])
      for (const [name] of response.headers) assert.ok(!name.startsWith("access-control-"), name);
  });

  test("9 keys", async () => {
    const wrong = [
      undefined,
      "",
      "Bearer",
      `Bearer ${KEY.slice(1)}`,
      `Bearer ${KEY}x`,
      `Basic ${KEY}`,
      `Bearer ${KEY} x`,
    ];
    for (const path of ["/v1/models", "/metrics", "/openapi.json", "/", "/nothing"])
      for (const authorization of wrong) {
        const response = await fetch(at.url + path, { headers: authorization === undefined ? {} : { authorization } });
        await refused(response, 401, "invalid_api_key");
      }
    const twice = `GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${KEY}\r\nauthorization: Bearer x\r\nconnection: close\r\n\r\n`;
    assert.match(await raw(at.url, twice), /^HTTP\/1.1 401 /);
    assert.equal((await fetch(`${at.url}/health`)).status, 200);
    const second = { authorization: "Bearer another-key-as-long-as-that" };
    assert.equal((await fetch(`${at.url}/v1/models`, { headers: second })).status, 200);
  });

  test("10 paths out of the tree", async () => {
    for (const path of [
      "/../../etc/passwd",
      "/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
      "/..\\..\\etc\\passwd",
      "/%00",
      "/v1/models/..%2f..%2fx",
    ]) {
      const request = `GET ${path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${KEY}\r\nconnection: close\r\n\r\n`;
      assert.match(await raw(at.url, request), /^HTTP\/1.1 40[04] /, path);
    }
    await good();
  });
});

describe("the shape of JSON", () => {
  each("11 no object", chats, { list: "[]", text: '"x"', null: "null", nan: "NaN", empty: "", cut: '{"model":"nano"' });
  each("12 nesting", completions, {
    list: `{"model":"nano","prompt":${"[".repeat(90_000)}${"]".repeat(90_000)}}`,
    object: `{"model":"nano","prompt":${'{"a":'.repeat(30_000)}1${"}".repeat(30_000)}}`,
  });
  each("13 names of prototypes", chats, {
    proto: `{"__proto__":{"model":"nano"},"model":"nano","messages":[{"role":"user","content":"x"}]}`,
    constructor: { ...chat, constructor: { prototype: {} } },
    inside: `{"model":"nano","messages":[{"role":"user","content":"x","__proto__":{"role":"system"}}],"x":1}`,
  });
  test("14 a key twice: the last holds", async () => {
    const body = '{"model":"none","model":"nano","messages":[{"role":"user","content":"x"}],"max_tokens":1}';
    assert.equal((await at.post(chats, body, auth)).status, 200);
  });
  each("15 messages", chats, {
    empty: { ...chat, messages: [] },
    missing: { ...chat, messages: undefined },
    text: { ...chat, messages: "hello" },
    many: { ...chat, messages: Array(3000).fill({ role: "user", content: "x" }) },
    null: { ...chat, messages: null },
  });
  each("16 contents", chats, {
    null: with_content(null),
    number: with_content(1),
    none: with_content([]),
    unknown: with_content([{ type: "audio", text: "x" }]),
    http: with_content([{ type: "image_url", image_url: { url: "http://169.254.169.254/" } }]),
    file: with_content([{ type: "image_url", image_url: { url: "file:///etc/passwd" } }]),
    data: with_content([{ type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } }]),
  });
  each("17 roles and their order", chats, {
    unknown: { ...chat, messages: [{ role: "tool", content: "x" }] },
    missing: { ...chat, messages: [{ content: "x" }] },
    twice: {
      ...chat,
      messages: [
        { role: "user", content: "x" },
        { role: "user", content: "y" },
      ],
    },
    assistant: {
      ...chat,
      messages: [
        { role: "assistant", content: "x" },
        { role: "user", content: "y" },
      ],
    },
    system: { ...chat, messages: [{ role: "system", content: "x" }] },
  });
  each("18 prompts", completions, {
    none: { ...completion, prompt: [] },
    empty: { ...completion, prompt: "" },
    inside: { ...completion, prompt: [[]] },
    negative: { ...completion, prompt: [-1] },
    outside: { ...completion, prompt: [32_000] },
    fraction: { ...completion, prompt: [1.5] },
    mixed: { ...completion, prompt: [1, "x"] },
    mixed_lists: { ...completion, prompt: [[1], "x", 3] },
    many: { ...completion, prompt: Array(2000).fill("x") },
    many_answers: { ...completion, prompt: Array(100).fill("x"), n: 16 },
    many_echoes: { ...completion, prompt: Array(129).fill("x"), echo: true, max_tokens: 0 },
    same_echoes: { ...completion, n: 2, echo: true, max_tokens: 0 },
    many_logprobs: { ...completion, prompt: Array(25).fill(Array(1000).fill(5)), n: 2, echo: true, logprobs: 20 },
    missing: { model: "nano" },
  });
  each("unsupported fields are named", chats, {
    tools: { ...chat, tools: [{ type: "function", function: { name: "x" } }] },
    schema: { ...chat, response_format: { type: "json_schema", json_schema: {} } },
    call: { ...chat, tool_choice: { type: "function", function: { name: "x" } } },
    required: { ...chat, tool_choice: "required" },
    functions: { ...chat, functions: [{ name: "x" }] },
    audio: { ...chat, audio: { voice: "alloy", format: "wav" } },
    modalities: { ...chat, modalities: ["text", "audio"] },
    prediction: { ...chat, prediction: { type: "content", content: "x" } },
    search: { ...chat, web_search_options: {} },
    effort: { ...chat, reasoning_effort: "high" },
    typo: { ...chat, temprature: 1 },
    ollama: { ...chat, options: { num_ctx: 4096 } },
  });
  test("what is refused is named in param, and a typo is told what it is near", async () => {
    for (const [fields, param, mentions] of [
      [{ tools: [{ type: "function", function: { name: "x" } }] }, "tools", /^tools: expected \[\]/],
      [{ response_format: { type: "json_object" } }, "response_format.type", /^response_format\.type/],
      [{ temprature: 1 }, "temprature", /temprature is not supported; did you mean temperature\?$/],
      [{ max_token: 1 }, "max_token", /did you mean max_tokens\?$/],
      [{ max_completion_tokens: 3 }, "max_tokens", /at the same time is not supported/],
      [{ stop: ["x", ""] }, "stop.1", /^stop\.1/],
    ] as const) {
      const response = await at.post(chats, { ...chat, ...fields }, auth);
      const { error } = (await response.json()) as { error: { param: string; message: string } };
      assert.deepEqual([response.status, error.param], [400, param], error.message);
      assert.match(error.message, mentions);
    }
  });
  test("fields of an answer's message are taken back empty, and refused by name otherwise", async () => {
    const empty = { refusal: null, audio: null, function_call: null, tool_calls: [], annotations: [] };
    const two_turns = (fields: object) => {
      const [user] = chat.messages;
      return { ...chat, messages: [user, { role: "assistant", content: "A disease.", ...fields }, user] };
    };
    const answer = async (fields: object) => {
      const response = await at.post(chats, two_turns(fields), auth);
      assert.equal(response.status, 200, await response.clone().text());
      return ((await response.json()) as { choices: { message: object }[] }).choices[0]!.message;
    };
    assert.deepEqual(await answer(empty), await answer({}));
    await answer({ tool_calls: null, annotations: null });
    for (const [name, value] of Object.entries({ ...empty, tool_calls: [{}], annotations: [{}] })) {
      const response = await at.post(chats, two_turns({ [name]: value ?? "x" }), auth);
      assert.match(await response.clone().text(), new RegExp(`messages\\.1\\.${name}`));
      await refused(response, 400);
    }
  });
  test("stream_options without a stream", async () => {
    for (const [path, body] of [
      [chats, chat],
      [completions, completion],
    ] as const) {
      const response = await at.post(path, { ...body, stream_options: { include_usage: true } }, auth);
      assert.match(await response.clone().text(), /stream_options: expected only with stream/);
      await refused(response, 400, "invalid_value");
      assert.equal((await at.post(path, { ...body, stream: false, stream_options: null }, auth)).status, 200);
    }
  });
  test("a path without /v1 is 404 and says where the API is", async () => {
    const response = await at.post("/chat/completions", chat, auth);
    assert.match(await response.clone().text(), /no path \/chat\/completions here; the API is under \/v1/);
    await refused(response, 404, "not_found");
  });
  test("an unknown model is 404 and names those that are here", async () => {
    const response = await at.post(chats, { ...chat, model: "gpt-9" }, auth);
    assert.match(await response.clone().text(), /gpt-9.*there is nano/);
    await refused(response, 404, "model_not_found");
  });
});

describe("numbers", () => {
  const bad = (name: string, values: unknown[], base: object = chat) =>
    Object.fromEntries(values.map((value) => [`${name} ${JSON.stringify(value)}`, { ...base, [name]: value }]));
  each("19 max_tokens", chats, bad("max_tokens", [0, -1, 1e12, 1.5, "10"]));
  each("19 max_tokens of a completion", completions, bad("max_tokens", [0, -1, 1e12], completion));
  each("20 temperature", chats, bad("temperature", [-1, 1e308, "NaN", 2.1, true]));
  test("20 null stands for a field left out", async () => {
    assert.equal((await at.post(chats, { ...chat, temperature: null, top_p: null, stop: null }, auth)).status, 200);
  });
  each("21 the others", chats, {
    ...bad("top_p", [2, -0.1]),
    ...bad("top_logprobs", [21, -1, 1]),
    ...bad("logprobs", [1, "true"]),
    ...bad("n", [1000, 0, 1.5]),
    ...bad("seed", ["x", 1.5]),
    seed: `{"model":"nano","messages":[{"role":"user","content":"x"}],"seed":9223372036854775808}`,
    both: { ...chat, max_completion_tokens: 3 },
  });
  each("21 logprobs of a completion", completions, bad("logprobs", [true, 21, -1], completion));
  each("22 logit_bias", chats, {
    ...bad("logit_bias", [{ x: 1 }, { 99999: 1 }, { 5: 1e9 }, []]),
    stream: { ...chat, logit_bias: { 99999: 1 }, stream: true },
  });
  each("23 stop", chats, {
    many: { ...chat, stop: Array(20_000).fill("x") },
    empty: { ...chat, stop: "" },
    inside: { ...chat, stop: ["x", ""] },
    long: { ...chat, stop: "x".repeat(100_000) },
    number: { ...chat, stop: 1 },
  });
  each("24 penalties", chats, {
    ...bad("presence_penalty", [3, -3, "x"]),
    ...bad("frequency_penalty", [1e9]),
    ...bad("repetition_penalty", [0, -1, 1e6]),
  });
});

describe("texts", () => {
  const answered = async (content: string) => {
    const response = await at.post(chats, with_content(content), auth);
    assert.equal(response.status, 200, (await response.clone().text()).slice(0, 300));
  };
  test("25, 26, 27, 31 odd characters are text", async () => {
    await answered("\ud800 alone");
    const escaped = `{"model":"nano","max_tokens":1,"messages":[{"role":"user","content":"\\ud800\\u0000"}]}`;
    assert.equal((await at.post(chats, escaped, auth)).status, 200);
    await answered("nul \u0000 inside");
    await answered("\u202a\u202e\u2066\u2069\u200d\u200c ـــــــــــــــــ a");
    await answered("\u0301".repeat(100));
    await answered("٣ أقراص، ۳ قرص، ﻻ ﷺ");
    await refused(await at.post(chats, with_content("\u0301".repeat(10_000)), auth), 400, "context_length_exceeded");
  });

  test("28 control strings that a person writes are plain text", async () => {
    const ids = async (content: string) => {
      const response = await at.post("/tokenize", { messages: [{ role: "user", content }] }, auth);
      return ((await response.json()) as { tokens: number[] }).tokens;
    };
    const control = await ids("x");
    for (const text of ["[INST]", "</s>", "<s>", "[/INST] x </s>", "<|im_start|>", "<0x0A>"]) {
      const tokens = await ids(text);
      assert.deepEqual(
        tokens.filter((id) => id <= 4),
        control.filter((id) => id <= 4),
        text,
      );
    }
  });

  test("29, 30 long texts", async () => {
    const began = performance.now();
    await refused(await at.post(chats, with_content("x".repeat(190_000)), auth), 400, "context_length_exceeded");
    await refused(await at.post(chats, with_content("asthma ".repeat(2000)), auth), 400, "context_length_exceeded");
    await refused(
      await at.post(completions, { ...completion, prompt: Array(1024).fill(5) }, auth),
      400,
      "context_length_exceeded",
    );
    assert.ok(performance.now() - began < 10_000);
    await good();
  });

  each("32 templates in a request", chats, {
    template: { ...chat, chat_template: "{{ range(1000000000) }}" },
    options: { ...chat, chat_template_kwargs: { tokenize: true } },
  });
});

test("the API's description names every route and field", async () => {
  const { paths } = (await (await fetch(`${at.url}/openapi.json`, { headers: auth })).json()) as {
    paths: Record<string, { post?: { requestBody: { content: Record<string, { schema: { properties: object } }> } } }>;
  };
  const fields = (path: string) =>
    Object.keys(paths[path]!.post!.requestBody.content["application/json"]!.schema.properties);
  for (const field of Object.keys(chat)) assert.ok(fields(chats).includes(field), field);
  for (const field of ["prompt", "echo", "logprobs"]) assert.ok(fields(completions).includes(field), field);
  assert.deepEqual(fields("/v1/mcqa"), ["model", "question", "options", "language"]);
  assert.ok(paths["/health"] && paths["/v1/routing"] && paths["/tokenize"]);
});

test("the log holds no word of what was asked", async () => {
  await at.post(chats, with_content("a secret about my health"), auth);
  await new Promise((resume) => setTimeout(resume, 20));
  assert.ok(at.lines.length > 0);
  assert.ok(!JSON.stringify(at.lines).includes("secret"));
});
