/** What a model's server may answer: JSON of other shapes, streams with damaged bytes, heads that lie. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after } from "node:test";
import { RemoteEngine } from "../../src/engine/remote.js";
import { RemoteAssistant } from "../../src/index.js";
import { fuzz } from "./harness.js";
import { mutate_bytes, mutate_json, pick, type Random } from "./mutate.js";

const logged = ["yes", "no", "maybe"].map((token) => ({ token, logprob: -1 }));
const usage = { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 };
const whole = {
  id: "x",
  object: "chat.completion",
  choices: [
    {
      index: 0,
      message: { role: "assistant", content: "hello" },
      text: "hello",
      finish_reason: "stop",
      logprobs: {
        content: [{ token: "yes", logprob: -1, top_logprobs: logged }],
        token_logprobs: [null, -1, -2, -3],
        top_logprobs: [null, { a: -1 }, { b: -2 }, { c: -3 }],
      },
    },
  ],
  usage,
};
const mcqa = {
  language: "en",
  answer: "A",
  options: ["one", "two"].map((text, i) => ({ letter: "AB"[i], text, probability: i / 2 })),
};
const events = [
  { choices: [{ index: 0, delta: { role: "assistant", content: "" } }] },
  { choices: [{ index: 0, delta: { content: "hel" }, finish_reason: null }] },
  { choices: [{ index: 0, delta: { content: "lo" }, finish_reason: "stop" }], usage },
];
const models = { data: [{ id: "m", max_model_len: 1000 }] };

interface Planned {
  status: number;
  headers: Record<string, string>;
  body: string | Uint8Array;
}
const json = (value: unknown): Planned => ({
  status: 200,
  headers: { "content-type": "application/json" },
  body: JSON.stringify(value) ?? "",
});
const stream = (parts: readonly unknown[]): Planned => ({
  status: 200,
  headers: { "content-type": "text/event-stream" },
  body: [...parts.map((part) => JSON.stringify(part) ?? ""), "[DONE]"].map((data) => `data: ${data}\n\n`).join(""),
});

/** By the end of a path. */
let plan: Record<string, Planned> = {};
const good: typeof plan = {
  "/models": json(models),
  "/mcqa": json(mcqa),
  "/chat/completions": json(whole),
  "/completions": json(whole),
};
const server = createServer((request, response) => {
  request.resume();
  const { status, headers, body } = plan[request.url!.slice(3)] ?? json({});
  response.writeHead(status, headers);
  response.end(body);
});
await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`;
after(() => server.close());

const text_of = async (pieces: AsyncIterable<string>) => {
  let text = "";
  for await (const piece of pieces) text += piece;
  return text;
};
const messages = [{ role: "user" as const, content: "x" }];
const { signal } = new AbortController();
const forwarded = async (events: AsyncIterable<unknown>) => {
  const all: unknown[] = [];
  for await (const event of events) all.push(event);
  return JSON.stringify(all);
};

/** What a caller does, the path that answers it, the whole answer. */
const calls: [path: string, answer: unknown, call: (remote: RemoteAssistant) => Promise<unknown>][] = [
  ["/models", models, () => RemoteAssistant.connect(url).then(({ remote }) => remote.id)],
  ["/mcqa", mcqa, (remote) => remote.mcqa({ question: "Which?", options: ["one", "two"] })],
  ["/chat/completions", events, (remote) => text_of(remote.chat(messages))],
  ["/chat/completions", events, (remote) => forwarded(remote.forward_events("/chat/completions", {}, signal))],
  ["/chat/completions", whole, (remote) => remote.forward("/chat/completions", {}, signal)],
  ["/chat/completions", whole, (remote) => remote.ask({ context: "x", question: "y?" }).then(({ answer }) => answer)],
  ["/completions", whole, () => RemoteEngine.connect(url, [1, 2, 3]).then(({ model }) => model)],
];

function damaged(random: Random, answer: unknown): { planned: Planned; detail: string } {
  const form = Array.isArray(answer) ? stream : json;
  const kind = random();
  if (kind < 0.75) {
    const { value, detail } = mutate_json(answer, random);
    return { planned: Array.isArray(answer) ? stream(Array.isArray(value) ? value : [value]) : json(value), detail };
  }
  const planned = form(answer as unknown[]);
  if (kind < 0.9) {
    const { value, detail } = mutate_bytes(Buffer.from(planned.body), random);
    return { planned: { ...planned, body: value }, detail };
  }
  const status = pick(random, [204, 302, 400, 404, 405, 418]);
  const headers = { "retry-after": pick(random, ["a\u00e9b", "1e9", "-1", ""]), location: "http://127.0.0.1:1/\u00e9" };
  return { planned: { ...planned, status, headers }, detail: `status ${status} ${JSON.stringify(headers)}` };
}

fuzz({
  name: "answers of a model's server",
  harmless: [[/^other text/, "what a server answers is its own; it has the shape of an answer"]],
  make: async () => {
    plan = good;
    const remote = await RemoteAssistant.connect(url);
    return (random) => {
      const [path, answer, call] = pick(random, calls);
      const { planned, detail } = damaged(random, answer);
      return {
        detail: `${path} ${detail}`,
        work: async () => {
          const run = async (given: Planned) => {
            plan = { ...good, [path]: given };
            Object.assign(remote, { has_mcqa: null });
            return JSON.stringify(await call(remote));
          };
          const expected = await run(Array.isArray(answer) ? stream(answer) : json(answer));
          return (await run(planned)) === expected ? "same" : "other text";
        },
      };
    };
  },
});
