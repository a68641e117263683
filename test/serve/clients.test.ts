/** Programs that others wrote against OpenAI's API, against this server. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage, SystemMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, streamText } from "ai";
import OpenAI from "openai";
import { start, type TestServer } from "./server.js";

const KEY = "a-key-that-is-long-enough";
const arabic = "ما هي أعراض السكري؟";
let at: TestServer;
let openai: OpenAI;
before(async () => {
  at = await start({ api_keys: [KEY] });
  openai = new OpenAI({ apiKey: KEY, baseURL: `${at.url}/v1`, maxRetries: 0 });
});
after(() => at.server.stop(1));

test("openai: models, a chat, a stream with usage and log-probabilities", async () => {
  const models = await openai.models.list();
  assert.deepEqual(
    models.data.map(({ id }) => id),
    ["nano"],
  );
  const body = {
    model: "nano",
    messages: [{ role: "user" as const, content: arabic }],
    temperature: 0,
    max_completion_tokens: 24,
  };
  const whole = await openai.chat.completions.create({ ...body, logprobs: true, top_logprobs: 2 });
  const [choice] = whole.choices;
  const tokens = choice!.logprobs!.content!;
  assert.equal(tokens.length, whole.usage!.completion_tokens - Number(choice!.finish_reason === "stop"));
  const bytes = Buffer.concat(tokens.map((token) => Buffer.from(token.bytes!)));
  assert.equal(bytes.toString().trimStart(), choice!.message.content);
  for (const { logprob, top_logprobs } of tokens) {
    assert.equal(top_logprobs.length, 2);
    assert.ok(Math.abs(top_logprobs[0]!.logprob - logprob) < 1e-9 && top_logprobs[1]!.logprob <= logprob);
  }
  let text = "";
  let usage: OpenAI.CompletionUsage | null | undefined;
  const stream = await openai.chat.completions.create({
    ...body,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage;
  }
  assert.equal(text, choice!.message.content);
  assert.deepEqual(usage, whole.usage);
});

test("openai: a second turn after the server's own answer", async () => {
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: arabic }];
  for (const content of ["What is asthma?", "What is gout?"]) {
    const { choices } = await openai.chat.completions.create({ model: "nano", messages, max_completion_tokens: 8 });
    messages.push(choices[0]!.message, { role: "user", content });
  }
  assert.equal(messages.length, 5);
});

test("openai: completions of texts and of token ids are the same, with the prompt in front", async () => {
  const options = { model: "nano", max_tokens: 3, temperature: 0, echo: true, logprobs: 2 } as const;
  const tokens = (await (
    await at.post("/tokenize", { prompt: "Asthma is" }, { authorization: `Bearer ${KEY}` })
  ).json()) as { tokens: number[] };
  const [by_text, by_ids] = [
    await openai.completions.create({ ...options, prompt: "Asthma is" }),
    await openai.completions.create({ ...options, prompt: tokens.tokens }),
  ];
  const { logprobs, text } = by_text.choices[0]!;
  const other = by_ids.choices[0]!;
  assert.deepEqual([other.text, other.logprobs!.tokens], [text, logprobs!.tokens]);
  // The second finds the first's prompt in the cache, which rounds otherwise.
  for (const [i, value] of logprobs!.token_logprobs!.entries())
    assert.ok(Math.abs((value ?? 0) - (other.logprobs!.token_logprobs![i] ?? 0)) < 1e-3);
  assert.ok(text.startsWith("Asthma is"));
  assert.equal(logprobs!.token_logprobs!.length, tokens.tokens.length + 3);
  assert.equal(logprobs!.token_logprobs![0], null);
  const control = new Set(["<s>", "</s>", "[INST]", "[/INST]"]);
  for (const [i, at_place] of logprobs!.text_offset!.entries()) {
    const end = logprobs!.text_offset![i + 1] ?? text.length;
    const token = logprobs!.tokens![i]!;
    assert.ok(
      control.has(token) ? at_place === end : text.slice(at_place, end) === token.slice(i === 1 ? 1 : 0),
      `${i} ${token}`,
    );
  }
  const batch = await openai.completions.create({ ...options, echo: false, prompt: ["Asthma is", "Gout is"], n: 2 });
  assert.deepEqual(
    batch.choices.map(({ index }) => index),
    [0, 1, 2, 3],
  );
  assert.equal(batch.choices[0]!.text, batch.choices[1]!.text);
});

test("lm-evaluation-harness: a text's tokens are the prompt's and the generated one, with text or without", async (t) => {
  const { model, tokenizer } = at.server.service.find_local().assistant;
  const { generation_config, engine } = model;
  const prompt = tokenizer.encode("Asthma is");
  const body = { model: "nano", prompt, max_tokens: 1, temperature: 0, echo: true, logprobs: 1 } as const;
  const check = async () => {
    const whole = await openai.completions.create(body);
    const { logprobs, text, finish_reason } = whole.choices[0]!;
    assert.equal(text, "Asthma is");
    assert.equal(logprobs!.tokens!.length, prompt.length + 1);
    assert.ok(logprobs!.token_logprobs!.at(-1)! < 0 && Object.keys(logprobs!.top_logprobs!.at(-1)!).length === 1);
    assert.equal(logprobs!.text_offset!.at(-1), text.length);
    assert.equal(whole.usage!.completion_tokens, 1);
    const streamed: (string[] | undefined)[] = [];
    for await (const { choices } of await openai.completions.create({ ...body, stream: true }))
      streamed.push(choices[0]!.logprobs?.tokens);
    assert.deepEqual(streamed.flat(), logprobs!.tokens);
    return finish_reason;
  };
  const { eos_token_id } = generation_config;
  t.after(() => Object.assign(generation_config, { eos_token_id }));
  for await (const { token_id } of engine.generate([prompt], {
    ...generation_config,
    do_sample: false,
    max_new_tokens: 1,
  }))
    generation_config.eos_token_id = [token_id];
  assert.equal(await check(), "stop");
  // A row that rounds the vocabulary up, as some models have.
  const token = { token_id: tokenizer.vocab_size, logprob: -0.5 };
  t.mock.method(engine, "generate", async function* () {
    yield { sequence: 0, ...token, top: [token] };
  });
  assert.equal(await check(), "length");
});

test("openai: errors have its classes", async () => {
  const create = (body: object) =>
    openai.chat.completions.create({ model: "nano", messages: [{ role: "user", content: "x" }], ...body });
  await assert.rejects(create({ temperature: 9 }), OpenAI.BadRequestError);
  await assert.rejects(create({ model: "x" }), OpenAI.NotFoundError);
  const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${at.url}/v1`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("Vercel AI SDK: text and stream", async () => {
  const provider = createOpenAICompatible({
    name: "bimedix",
    baseURL: `${at.url}/v1`,
    apiKey: KEY,
    includeUsage: true,
  });
  const options = { model: provider("nano"), prompt: arabic, temperature: 0, maxOutputTokens: 20 };
  const { text, usage, finishReason } = await generateText(options);
  assert.ok(text.length > 5 && usage.outputTokens! > 0 && ["stop", "length"].includes(finishReason));
  const streamed = streamText(options);
  let pieces = "";
  for await (const piece of streamed.textStream) pieces += piece;
  assert.equal(pieces, text);
  assert.deepEqual((await streamed.usage).outputTokens, usage.outputTokens);
});

test("LangChain.js: invoke and stream", async () => {
  const model = new ChatOpenAI({
    model: "nano",
    apiKey: KEY,
    temperature: 0,
    maxTokens: 20,
    configuration: { baseURL: `${at.url}/v1` },
  });
  const messages = [new SystemMessage("Answer briefly."), new HumanMessage("What are the signs of asthma?")];
  const whole = await model.invoke(messages);
  let text = "";
  const usages: number[] = [];
  for await (const chunk of await model.stream(messages)) {
    text += chunk.text;
    // Its declarations take this for impossible.
    const { usage_metadata } = chunk as unknown as { usage_metadata?: { output_tokens: number } };
    if (usage_metadata) usages.push(usage_metadata.output_tokens);
  }
  assert.equal(text, whole.text);
  assert.ok(usages.length === 1 && usages[0]! > 0);
});
