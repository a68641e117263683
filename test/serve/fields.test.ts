/** Fields that clients send by default, numbers that OpenAI's API has, and how long an answer is where nothing says it. */
import assert from "node:assert/strict";
import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { ChatMessage } from "../../src/text/chat.js";
import { nano, raw, start, type TestServer } from "./server.js";

const KEY = "a-key-that-is-long-enough";
const auth = { authorization: `Bearer ${KEY}` };
const chats = "/v1/chat/completions";
const chat = {
  model: "nano",
  messages: [{ role: "user", content: "What is asthma?" }],
  max_tokens: 12,
  temperature: 0,
};

interface Answer {
  choices: { message: { content: string }; text: string; finish_reason: string }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
}

let at: TestServer;
let dir: string;
before(async () => {
  // A model that says nothing of lengths, as most of the hub's.
  dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  await cp(nano, dir, { recursive: true });
  await writeFile(join(dir, "generation_config.json"), JSON.stringify({ bos_token_id: 1, eos_token_id: 2 }));
  at = await start({ model: dir, api_keys: [KEY] });
});
after(async () => {
  await at.server.stop(1);
  await rm(dir, { recursive: true });
});

async function ask(body: object, path = chats): Promise<Answer> {
  const response = await at.post(path, body, auth);
  assert.equal(response.status, 200, await response.clone().text());
  return (await response.json()) as Answer;
}

test("what clients send by default changes nothing", async () => {
  const [{ message }] = (await ask(chat)).choices as [Answer["choices"][0]];
  for (const fields of [
    { metadata: { run: "1" }, store: true, service_tier: "auto", user: "u-1" },
    { tools: [], tool_choice: "auto", parallel_tool_calls: true, functions: [], function_call: "auto" },
    { tools: null, tool_choice: "none", response_format: { type: "text" }, modalities: ["text"] },
    { safety_identifier: "x", prompt_cache_key: "x", prompt_cache_retention: "24h", verbosity: "medium" },
    { prompt_cache_options: {}, logprobs: false, top_logprobs: 0 },
    { frequency_penalty: 0, presence_penalty: 0, logit_bias: {}, n: 1, top_p: 1, seed: 1, stop: [] },
    // The Python client's own names, all of them left out.
    Object.fromEntries(
      `audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens metadata modalities moderation n
       parallel_tool_calls prediction presence_penalty prompt_cache_key prompt_cache_options reasoning_effort response_format safety_identifier seed
       service_tier stop store stream stream_options tool_choice tools top_logprobs top_p user verbosity web_search_options`
        .split(/\s+/)
        .map((name) => [name, null]),
    ),
  ])
    assert.equal(
      (await ask({ ...chat, ...fields })).choices[0]!.message.content,
      message.content,
      JSON.stringify(fields),
    );
  const stream_options = { include_usage: true, include_obfuscation: false };
  const stream = await at.post(chats, { ...chat, stream: true, stream_options }, auth);
  assert.ok((await stream.text()).endsWith("data: [DONE]\n\n"));
});

test("each is in the API's description, with what it does", async () => {
  const { paths } = (await (await fetch(`${at.url}/openapi.json`, { headers: auth })).json()) as {
    paths: Record<
      string,
      {
        post: {
          requestBody: {
            content: { "application/json": { schema: { properties: Record<string, { description?: string }> } } };
          };
        };
      }
    >;
  };
  const { properties } = paths[chats]!.post.requestBody.content["application/json"].schema;
  for (const name of ["metadata", "store", "service_tier", "parallel_tool_calls", "tool_choice", "tools", "user"])
    assert.match(properties[name]!.description!, /accepted and without effect/, name);
  assert.match(properties.tools!.description!, /with \[\] only/);
  for (const name of ["frequency_penalty", "logit_bias", "top_p"])
    assert.doesNotMatch(properties[name]!.description!, /without effect/);
});

test("penalties and biases change the answer, and top_k -1 keeps all, as in vLLM", async () => {
  const plain = await ask({ ...chat, ignore_eos: true, max_tokens: 60 });
  for (const fields of [{ frequency_penalty: 2 }, { presence_penalty: 2 }, { repetition_penalty: 1.5 }]) {
    const other = await ask({ ...chat, ...fields, ignore_eos: true, max_tokens: 60 });
    assert.notEqual(other.choices[0]!.message.content, plain.choices[0]!.message.content, JSON.stringify(fields));
  }
  const { tokenizer } = at.server.service.find_local().assistant;
  const id = tokenizer.encode("the blood", { add_special_tokens: false }).at(-1)!;
  const biased = await ask({ ...chat, logit_bias: { [id]: 100 }, max_tokens: 3 });
  assert.match(biased.choices[0]!.message.content, /(blood ?){3}/);
  const all = await ask({ ...chat, temperature: 1, seed: 3, top_k: 0 });
  assert.deepEqual((await ask({ ...chat, temperature: 1, seed: 3, top_k: -1 })).choices, all.choices);
  // OpenAI allows 0, which leaves the likeliest token.
  const narrow = await ask({ ...chat, temperature: 1, top_p: 0 });
  assert.deepEqual(narrow.choices, (await ask(chat)).choices);
  const { usage } = await ask({ ...chat, logit_bias: { 2: 100 }, min_tokens: 7 });
  assert.equal(usage.completion_tokens, 8);
});

describe("the length of an answer where nothing says it", () => {
  const { max_tokens: _, ...open } = chat;
  test("a chat goes to the context's end, a completion has 16 tokens, as OpenAI's", async () => {
    const { usage, choices } = await ask({ ...open, ignore_eos: true });
    assert.deepEqual([usage.total_tokens, choices[0]!.finish_reason], [1024, "length"]);
    const given = await ask({ ...open, ignore_eos: true, max_completion_tokens: 20 });
    assert.equal(given.usage.completion_tokens, 20);
    const text = await ask({ model: "nano", prompt: "Asthma is", temperature: 0, ignore_eos: true }, "/v1/completions");
    assert.equal(text.usage.completion_tokens, 16);
  });

  test("a library's chat too; a limit in the model's own file holds for both, as in vLLM", async (t) => {
    const { assistant } = at.server.service.find_local();
    const { generation_config } = assistant.model;
    t.after(() => void delete generation_config.max_new_tokens);
    const seen: (number | undefined)[] = [];
    t.mock.method(
      assistant.model.engine,
      "generate",
      async function* (_: unknown, options: { max_new_tokens?: number }) {
        seen.push(options.max_new_tokens);
        yield { sequence: 0, token_id: 2 };
      },
    );
    const talk = async () => {
      await ask(open);
      for await (const _ of assistant.chat([{ role: "user", content: "x" }]));
    };
    await talk();
    generation_config.max_new_tokens = 30;
    await talk();
    assert.deepEqual(seen, [1024, 1024, 30, 30]);
  });
});

test("messages as OpenAI allows them: developer, parts, a name, empty content, null fields of an answer", async () => {
  const [user] = chat.messages;
  const empty = { refusal: null, audio: null, function_call: null, tool_calls: null };
  for (const messages of [
    [{ ...user, name: "ali" }],
    [
      {
        role: "user",
        content: [
          { type: "text", text: "What is" },
          { type: "text", text: "asthma?" },
        ],
      },
    ],
    [user, { role: "assistant", content: "", ...empty }, user],
    [{ role: "user", content: "" }],
  ])
    await ask({ ...chat, messages });
  const last = { ...chat, messages: [user, { role: "assistant", content: "It is" }] };
  const response = await at.post(chats, last, auth);
  assert.match(await response.text(), /messages: expected the last to be the user's, or continue_final_message/);
});

test("an assistant's message at the end is gone on with where that is asked for, as in vLLM", async () => {
  const { tokenizer } = at.server.service.find_local().assistant;
  const messages = [chat.messages[0]!, { role: "assistant", content: "Asthma is a" }] as ChatMessage[];
  const prompt = tokenizer.apply_chat_template(messages, { continue_final_message: true });
  const greedy = { model: "nano", temperature: 0, max_tokens: 8 };
  const whole = await at.post("/v1/completions", { ...greedy, prompt }, auth);
  const [{ text }] = ((await whole.json()) as { choices: [{ text: string }] }).choices;
  assert.match(text, /^ \w/);
  for (const more of [{}, { add_generation_prompt: false, logprobs: true }]) {
    const body = { ...greedy, messages, continue_final_message: true, ...more };
    const response = await at.post(chats, body, auth);
    const [{ message, logprobs }] = ((await response.json()) as { choices: [Continued] }).choices;
    assert.equal(message.content, text);
    if (logprobs) assert.equal(Buffer.from(logprobs.content.flatMap(({ bytes }) => bytes)).toString(), text);
  }
  for (const [more, said] of [
    [{ messages, continue_final_message: true, add_generation_prompt: true }, /add_generation_prompt: expected false/],
    [{ messages: chat.messages, continue_final_message: true }, /messages: expected the last to be the assistant's/],
    [{ messages, add_generation_prompt: false }, /messages: expected the last to be the user's/],
    [{ messages: chat.messages, add_generation_prompt: false }, /add_generation_prompt: expected/],
  ] as const) {
    const response = await at.post(chats, { ...greedy, ...more }, auth);
    assert.equal(response.status, 400);
    assert.match(await response.text(), said);
  }
});

interface Continued {
  message: { content: string };
  logprobs: { content: { bytes: number[] }[] } | null;
}

test("other methods, HEAD, odd headers: what HTTP says of them", async () => {
  const get = (path: string, init: RequestInit = {}) => fetch(at.url + path, { headers: auth, ...init });
  for (const [path, allow] of [
    [chats, "POST"],
    ["/v1/mcqa", "POST"],
  ] as const)
    for (const method of ["GET", "DELETE", "OPTIONS"]) {
      const response = await get(path, { method });
      assert.deepEqual([response.status, response.headers.get("allow")], [405, allow]);
      const { error } = (await response.json()) as { error: { code: string } };
      assert.equal(error.code, "method_not_allowed");
    }
  assert.equal((await get("/v1/models", { method: "HEAD" })).status, 200);
  assert.equal((await get("/health", { method: "HEAD" })).status, 200);
  const missing = await get("/v1/embeddings", { method: "POST" });
  assert.deepEqual([missing.status, missing.headers.get("content-type")], [404, "application/json"]);
  assert.deepEqual(Object.keys((await missing.json()) as object), ["error"]);
  for (const authorization of [
    `bearer ${KEY}`,
    `BEARER  ${KEY}`,
    `basic ${Buffer.from(`x:${KEY}`).toString("base64")}`,
  ])
    assert.equal((await get("/v1/models", { headers: { authorization } })).status, 200, authorization);
  const one = (await (await get("/v1/models/nano")).json()) as { id: string };
  assert.equal(one.id, "nano");
  assert.equal((await get("/v1/models/other%2Fone")).status, 404);
  for (const type of ["application/json; charset=utf-8", "Application/JSON"])
    assert.equal((await at.post(chats, chat, { ...auth, "content-type": type })).status, 200, type);
  const body = JSON.stringify(chat);
  const bare = `POST ${chats} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ${KEY}\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
  assert.match(await raw(at.url, bare), /^HTTP\/1.1 415 [\s\S]*Content-Type is [\s\S]*application\/json/);
});
