// npm run soak [-- MINUTES]: a server with models/nano under clients that ask, leave in the middle, leave while queued, and send nonsense.
// At the end every place must be free and the memory of the server's two processes within 10 % of what it was at the beginning.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { root, setup } from "./setup.mjs";

setup();
const minutes = Number(process.argv[2] ?? 30);
const child = spawn(
  process.execPath,
  [join(root, "dist/src/cli/main.js"), "serve", "--port", "0", "--name", "nano", "--max-queue", "8"],
  {
    stdio: ["ignore", "pipe", "pipe"],
  },
);
let ended = false;
child.once("exit", () => {
  ended = true;
});
// What its log has beside requests.
createInterface(child.stderr).on("line", (line) => {
  if (!line.includes('"level":"info"')) console.error(line);
});
const [line] = await once(child.stdout, "data");
const [, url] = /^(http:\S+)\/v1 /.exec(String(line));
const end = Date.now() + minutes * 60_000;
const counts = {};
const count = (key) => {
  counts[key] = (counts[key] ?? 0) + 1;
};
const post = (path, body, signal) =>
  fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
    signal,
  });
const questions = ["What are the signs of asthma?", "ما هي أعراض السكري؟", "How is gout treated?", "x ".repeat(300)];
const pick = (list) => list[Math.floor(Math.random() * list.length)];
const chat = (more) => ({
  model: "nano",
  messages: [{ role: "user", content: pick(questions) }],
  max_tokens: 80,
  ...more,
});

const deeds = {
  answer: async () => (await post("/v1/chat/completions", chat({}))).text(),
  stream: async () => (await post("/v1/chat/completions", chat({ stream: true }))).text(),
  leave: async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), Math.random() * 200);
    const response = await post("/v1/chat/completions", chat({ stream: true, temperature: 2 }), controller.signal);
    await response.text();
  },
  score: async () =>
    (
      await post("/v1/completions", {
        model: "nano",
        prompt: [
          [1, 5, 9],
          [1, 7],
        ],
        echo: true,
        logprobs: 2,
        max_tokens: 1,
      })
    ).text(),
  mcqa: async () => (await post("/v1/mcqa", { question: "Which?", options: ["a", "b", "c"] })).text(),
  nonsense: async () =>
    (await post("/v1/chat/completions", pick(["[", "{}", '{"model":"x"}', JSON.stringify(chat({ n: 99 }))]))).text(),
};
async function client() {
  while (Date.now() < end && !ended) {
    const name = pick(Object.keys(deeds));
    await deeds[name]().then(
      () => count(name),
      (error) => count(error.name === "AbortError" ? "left" : `${name}: ${error.cause?.message ?? error.message}`),
    );
  }
}
/** Bytes of both processes. */
function memory() {
  const { stdout } = spawnSync("ps", ["-o", "rss=", "-p", String(child.pid), "--ppid", String(child.pid)], {
    encoding: "utf8",
  });
  return stdout
    .trim()
    .split("\n")
    .reduce((sum, value) => sum + Number(value) * 1024, 0);
}
const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;
/**
 * The least of a sixth of the time, a sample a second: between two collections of garbage a process grows, so what it holds is seen
 * where it is smallest.
 */
async function least_memory() {
  let least = memory();
  const until = Date.now() + (minutes * 60_000) / 6;
  while (Date.now() < until && !ended) {
    await sleep(1000);
    least = Math.min(least, memory());
  }
  console.error(`${Math.round((end - Date.now()) / 1000)} s left, at least ${mb(least)}, ${JSON.stringify(counts)}`);
  return least;
}
const clients = Array.from({ length: 20 }, client);
await sleep((minutes * 60_000) / 30);
const memories = [];
// The last ends a little before the clients do.
for (let i = 0; i < 5 && !ended; i++) memories.push(await least_memory());
await Promise.all(clients);
if (ended) {
  console.error(`the server ended; the soak failed: ${JSON.stringify(counts)}`);
  process.exit(1);
}
await sleep(2000);
const metrics = await (await fetch(`${url}/metrics`)).text();
const gauge = (name) => Number(new RegExp(`^bimedix_${name} (.*)$`, "m").exec(metrics)[1]);
const left = ["requests_active", "sequences_running", "sequences_waiting"].map(gauge);
const ratio = memories.at(-1) / memories[0];
console.log(
  JSON.stringify({
    minutes,
    counts,
    left,
    memory: memories.map(mb),
    ratio,
  }),
);
child.kill("SIGTERM");
const [code] = await once(child, "exit");
const errors = Object.keys(counts).filter((key) => key.includes(":"));
if (code !== 0 || errors.length > 0 || left.some((value) => value !== 0) || ratio > 1.1) {
  console.error("the soak failed");
  process.exitCode = 1;
}
