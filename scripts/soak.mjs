// npm run soak [-- MINUTES | -- 3600 requests]: a server with models/nano and a heap of 512 MB under clients that ask, leave in the middle,
// leave while queued, send nonsense, and mean harm. At the end every place must be free and the memory of the server's two processes
// within 10 % of what it was at the beginning; how long /health took is told, asked 20 times a second.
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { root, setup } from "./setup.mjs";

setup();
const requests = process.argv[3] === "requests" ? Number(process.argv[2]) : Number.POSITIVE_INFINITY;
// Requests end it when all are answered; the memory is looked at for so long.
const minutes = requests < Number.POSITIVE_INFINITY ? requests / 600 : Number(process.argv[2] ?? 30);
const child = spawn(
  process.execPath,
  [join(root, "dist/src/cli/main.js"), "serve", "--port", "0", "--name", "nano", "--max-queue", "8"],
  {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, NODE_OPTIONS: "--max-old-space-size=512" },
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
const until = requests < Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : end;
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
const large = (text) => post("/v1/chat/completions", chat({ messages: [{ role: "user", content: text }] }));
const body = (text) =>
  `POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
/** Bytes on a connection, which is closed some time later whatever has come. */
async function bytes(text, { read = true, wait = 2000 } = {}) {
  const socket = connect(Number(new URL(url).port), "127.0.0.1");
  socket.on("error", () => {});
  if (read) socket.resume();
  else socket.pause();
  socket.write(text);
  await Promise.race([once(socket, "close"), sleep(Math.random() * wait)]);
  socket.destroy();
}
const many = (value, count) => `[${Array(count).fill(value).join(",")}]`;
const hostile = {
  pipelined: () =>
    bytes("GET /lib/marked.js HTTP/1.1\r\nhost: a\r\n\r\n".repeat(90) + body(JSON.stringify(chat({}))).repeat(9), {
      read: false,
    }),
  flood: () => bytes(`GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n`.repeat(2000)),
  slow: () => bytes(body(JSON.stringify(chat({}))).slice(0, -5)),
  no_http: () => bytes(pick(["\0\0\0", "GET", "OPTIONS * HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: [\r\n\r\n"])),
  unread: () =>
    bytes(body(JSON.stringify(chat({ stream: true, max_tokens: 500, ignore_eos: true, n: 4 }))), { read: false }),
  ids: async () =>
    (
      await post(
        "/v1/completions",
        `{"model":"nano","prompt":${pick([many("-1", 900_000), `[${many("1.5", 130_000)}]`, many("5", 400_000)])}}`,
      )
    ).text(),
  nested: async () =>
    (await post("/v1/completions", `{"model":"nano","prompt":${"[".repeat(900_000)}${"]".repeat(900_000)}}`)).text(),
  fields: async () =>
    (await post("/v1/chat/completions", `{${Array.from({ length: 150_000 }, (_, i) => `"k${i}":1`)}}`)).text(),
  texts: async () => (await large(pick(["x", " ", "ب ", "\n", "a b "]).repeat(400_000))).text(),
  tokenize: async () => (await post("/tokenize", { prompt: pick(["x", "gout ", "😀"]).repeat(60_000) })).text(),
  routing: async () => (await post("/v1/routing", { prompt: "x ".repeat(300_000) })).text(),
  biases: async () =>
    (
      await post(
        "/v1/chat/completions",
        chat({ logit_bias: Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [i, -1])) }),
      )
    ).text(),
  choices: async () =>
    (
      await post("/v1/completions", {
        model: "nano",
        prompt: Array(128).fill([5, 6]),
        max_tokens: 20,
        ignore_eos: true,
      })
    ).text(),
};
Object.assign(deeds, hostile);

/** Milliseconds that /health took, asked from a thread of its own: this one is busy with making bodies. */
const health = [];
const looking = new Worker(
  `const { parentPort, workerData } = require("node:worker_threads");
  (async () => {
    for (;;) {
      const began = performance.now();
      const { status } = await fetch(workerData).catch(() => ({ status: 0 }));
      parentPort.postMessage({ status, took: performance.now() - began });
      await new Promise((resume) => setTimeout(resume, 50));
    }
  })()`,
  { eval: true, workerData: `${url}/health` },
);
looking.on("message", ({ status, took }) => {
  health.push(took);
  if (status !== 200) count(`health: ${status}`);
});
let left_to_ask = requests;
async function client() {
  while (Date.now() < until && !ended && left_to_ask-- > 0) {
    // Half of them mean no harm.
    const name = pick(Math.random() < 0.5 ? Object.keys(hostile) : Object.keys(deeds));
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
  const last = Date.now() + (minutes * 60_000) / 6;
  while (Date.now() < last && !ended) {
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
await looking.terminate();
if (ended) {
  console.error(`the server ended; the soak failed: ${JSON.stringify(counts)}`);
  process.exit(1);
}
await sleep(2000);
const metrics = await (await fetch(`${url}/metrics`)).text();
const gauge = (name) => Number(new RegExp(`^bimedix_${name} (.*)$`, "m").exec(metrics)[1]);
const left = ["requests_active", "sequences_running", "sequences_waiting"].map(gauge);
health.sort((a, b) => a - b);
const at = (part) => Math.round(health[Math.min(health.length - 1, Math.floor(part * health.length))]);
const ratio = memories.at(-1) / memories[0];
console.log(
  JSON.stringify({
    minutes,
    counts,
    left,
    memory: memories.map(mb),
    ratio,
    health_ms: {
      asked: health.length,
      median: at(0.5),
      p99: at(0.99),
      worst: at(1),
      over_100: health.filter((ms) => ms > 100).length,
    },
  }),
);
child.kill("SIGTERM");
const [code] = await once(child, "exit");
// Who is cut off may lose what is on its way.
const errors = Object.keys(counts).filter((key) => key.includes(":") && !/ECONNRESET|EPIPE|other side/.test(key));
if (code !== 0 || errors.length > 0 || left.some((value) => value !== 0) || ratio > 1.1) {
  console.error("the soak failed");
  process.exitCode = 1;
}
