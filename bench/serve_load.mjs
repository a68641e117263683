// What a running server bears. Run: node bench/serve_load.mjs URL MODEL [prompt tokens] [answer tokens] [rounds]
// One stream and sixteen, each with a prompt of its own, in turns; then /health while a prompt of 2,000 tokens is read. One JSON line.
// Tokens are drawn from the 40 likeliest, as node-llama-cpp's are beside it: a random model's likeliest token is often the last one again,
// whose experts are then in the processor's cache, and one stream would look twice as fast as it is with text.
import { once } from "node:events";
import { request } from "node:http";
import { median } from "./measure.mjs";

const [url, model, prompt_tokens = 64, answer_tokens = 96, rounds = 3] = process.argv.slice(2);
const vocabulary = Number(process.env.VOCABULARY ?? 5000);
const tokens = (count) => Array.from({ length: count }, () => 300 + Math.floor(Math.random() * (vocabulary - 400)));

/**
 * Streams one completion; when its first token came and how many it had, in milliseconds from `began`. Plain node:http, which takes less
 * of the two cores than fetch does.
 */
async function stream(prompt, max_tokens, began) {
  const body = JSON.stringify({
    model,
    prompt,
    max_tokens,
    temperature: 1,
    top_k: 40,
    ignore_eos: true,
    stream: true,
    stream_options: { include_usage: true },
  });
  const sent = request(`${url}/v1/completions`, { method: "POST", headers: { "content-type": "application/json" } });
  sent.end(body);
  const [response] = await once(sent, "response");
  let first = 0;
  const parts = [];
  for await (const part of response) {
    first ||= performance.now() - began;
    parts.push(part);
  }
  const text = Buffer.concat(parts).toString();
  if (response.statusCode !== 200) throw new Error(text);
  const usage = JSON.parse(text.trim().split("\n\n").at(-2).slice(6)).usage;
  return { first, tokens: usage.completion_tokens };
}

/** Tokens a second of `count` streams that begin together, and how long each waited for its first. */
async function load(count) {
  const prompts = Array.from({ length: count }, () => tokens(Number(prompt_tokens)));
  const began = performance.now();
  const all = await Promise.all(prompts.map((prompt) => stream(prompt, Number(answer_tokens), began)));
  const seconds = (performance.now() - began) / 1000;
  return { rate: all.reduce((sum, one) => sum + one.tokens, 0) / seconds, firsts: all.map(({ first }) => first) };
}

await load(1);
const one = [];
const sixteen = [];
for (let round = 0; round < Number(rounds); round++) {
  one.push((await load(1)).rate);
  sixteen.push(await load(16));
}
const firsts = sixteen.flatMap(({ firsts }) => firsts).sort((a, b) => a - b);
const limits = await (
  await fetch(`${url}/tokenize`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "x" }),
  })
).json();
const waits = [];
let reading = true;
const long = stream(tokens(Math.min(2000, limits.max_model_len - 10)), 1, performance.now()).then(() => {
  reading = false;
});
while (reading) {
  const began = performance.now();
  await (await fetch(`${url}/health`)).text();
  waits.push(performance.now() - began);
  await new Promise((resume) => setTimeout(resume, 5));
}
await long;
console.log(
  JSON.stringify({
    one: median(one),
    sixteen: median(sixteen.map(({ rate }) => rate)),
    ratios: sixteen.map(({ rate }, i) => rate / one[i]),
    first_token_p95_ms: firsts[Math.floor(0.95 * firsts.length)],
    health_max_ms: Math.max(...waits),
    health_checks: waits.length,
  }),
);
