/** What holds before the work is done: places, bytes, lists, texts, hosts and keys, and a log that nobody reads. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { Bodies } from "../../src/serve/bodies.js";
import { bound_connections, in_order } from "../../src/serve/connections.js";
import { check_key, Log, start_server } from "../../src/serve/index.js";
import { Lines } from "../../src/serve/log.js";
import { merged } from "../../src/serve/pieces.js";
import { Pulse } from "../../src/serve/pulse.js";
import { chat_schema, completion_schema, parse } from "../../src/serve/requests.js";
import { is_loopback } from "../../src/serve/security.js";
import { Service } from "../../src/serve/service.js";
import { Tokens } from "../../src/serve/tokens.js";
import { load_tokenizer } from "../../src/text/tokenizer.js";
import { root } from "../fixtures.js";
import { nano, raw, start, type TestServer } from "./server.js";

const chats = "/v1/chat/completions";
const completions = "/v1/completions";
const sleep = (milliseconds: number) => new Promise((resume) => setTimeout(resume, milliseconds));
const chat = (content = "What is gout?", more: object = {}) => ({
  model: "nano",
  messages: [{ role: "user", content }],
  temperature: 0,
  max_tokens: 3,
  ...more,
});
const as_bytes = (path: string, body: unknown, headers = "") => {
  const text = JSON.stringify(body);
  return `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n${headers}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
};
async function until(holds: () => boolean | Promise<boolean>, what: string): Promise<void> {
  for (let waited = 0; waited < 20_000; waited += 20) {
    if (await holds()) return;
    await sleep(20);
  }
  throw new Error(`${what} did not happen in 20 s`);
}
const code_of = (body: string) => (JSON.parse(body) as { error: { code: string } }).error.code;

test("who connects and says nothing, or never ends what it says, keeps nobody out", async () => {
  let answer: (() => void) | undefined;
  const server = createServer(
    in_order(({ url }, outgoing) => {
      if (url === "/long") answer = () => void outgoing.end("long");
      else outgoing.end("short");
    }),
  );
  bound_connections(server, 4);
  await new Promise<void>((resume) => server.listen(0, "127.0.0.1", resume));
  const { port } = server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const get = (path: string) => raw(url, `GET ${path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`);
  const long = get("/long");
  await until(() => answer !== undefined, "a request that is answered");
  const sockets = Array.from({ length: 12 }, (_, i) => {
    const socket = connect(port, "127.0.0.1")
      .on("error", () => {})
      .resume();
    const begun = ["", "GET / HTTP/1.1\r\nhost: a\r\nx", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx"];
    socket.write(begun[i % 3]!);
    return socket;
  });
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  await until(() => sockets.filter(({ closed }) => closed).length >= 9, "the end of those that came first");
  for (let i = 0; i < 5; i++) assert.match(await get("/short"), /short/);
  answer!();
  assert.match(await long, /long/);
  for (const socket of sockets) socket.destroy();
  server.close();
});

test("who does not read an answer is cut off; one that is long in the making is not", async () => {
  const at = await start({ send_timeout: 0.3 });
  let ended = false;
  const socket = connect(Number(new URL(at.url).port), "127.0.0.1").on("error", () => {
    ended = true;
  });
  socket.pause();
  // More than the system keeps for who does not read.
  socket.write("GET /lib/marked.js HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(95));
  // What is sent to nobody comes back as an error; what is sent too often says that somebody is there.
  for (let i = 0; i < 15 && !ended; i++) {
    await sleep(1000);
    socket.write("\r\n");
  }
  socket.destroy();
  assert.ok(ended);
  // Behind another on its connection, whose time to be sent is not its own.
  const long = as_bytes(chats, chat("x", { max_tokens: 600, ignore_eos: true }), "connection: close\r\n");
  const answer = await raw(at.url, `GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n${long}`, { wait: 60_000 });
  assert.match(answer, /"completion_tokens":600/);
  await at.server.stop(1);
});

describe("a server", () => {
  let at: TestServer;
  before(async () => {
    at = await start({
      pretrained: { dtype: "q8", threads: 1, max_sequences: 2 },
      max_queue: 2,
      deadline: 60,
    });
  });
  after(() => at.server.stop(1));

  test("a connection that pipelines what it does not read has one place, and none after its end", async () => {
    const socket = connect(Number(new URL(at.url).port), "127.0.0.1");
    socket.on("error", () => {});
    socket.pause();
    const page = "GET /lib/marked.js HTTP/1.1\r\nhost: localhost\r\n\r\n";
    const long = as_bytes(chats, chat("What is asthma?", { max_tokens: 500, ignore_eos: true }));
    socket.write(long + page.repeat(60) + long.repeat(10));
    await until(() => at.server.service.active === 1, "the first chat");
    await sleep(100);
    assert.equal(at.server.service.active, 1);
    socket.destroy();
    await until(() => at.server.service.active === 0, "an empty house");
    const begun = at.lines.filter(({ route }) => route === chats).length;
    assert.equal((await at.post(chats, chat())).status, 200);
    // None of the ten behind it was begun: the log would have them.
    await sleep(50);
    assert.equal(at.lines.filter(({ route }) => route === chats).length, begun + 1);
  });

  test("pipelined requests that are read are answered in order", async () => {
    const get = (path: string, more = "") => `GET ${path} HTTP/1.1\r\nhost: localhost\r\n${more}\r\n`;
    const all = get("/health") + as_bytes(chats, chat()) + get("/nothing") + get("/health", "connection: close\r\n");
    const statuses = (await raw(at.url, all)).match(/HTTP\/1.1 \d+/g);
    assert.deepEqual(statuses, ["HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 404", "HTTP/1.1 200"]);
  });

  test("who pipelines hundreds is cut off", async () => {
    const answer = await raw(at.url, as_bytes(chats, chat()) + "GET /health HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500));
    assert.ok((answer.match(/HTTP\/1.1/g) ?? []).length < 2);
    await until(() => at.server.service.active === 0, "an empty house");
  });

  test("a client that leaves while it sends is no error", async () => {
    for (const bytes of ["", "x".repeat(100_000)]) {
      const socket = connect(Number(new URL(at.url).port), "127.0.0.1");
      const head = `POST ${chats} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 900000\r\n\r\n`;
      socket.write(head + bytes, () => setTimeout(() => socket.resetAndDestroy(), 50));
      await once(socket, "close");
    }
    await sleep(100);
    assert.deepEqual(
      at.lines.filter(({ level }) => level === "error"),
      [],
    );
  });

  test("hosts: what is legal is served, the rest is refused in JSON", async () => {
    const ask = async (host: string | null, line = "GET /v1/models") => {
      const header = host === null ? "" : `host: ${host}\r\n`;
      const answer = await raw(at.url, `${line} HTTP/1.1\r\n${header}connection: close\r\n\r\n`);
      const [head, body = ""] = answer.split("\r\n\r\n");
      return [Number(head!.split(" ")[1]), body.startsWith("{")] as const;
    };
    for (const host of ["127.0.0.1:", "localhost", "LOCALHOST:99", "localhost.", "[::1]:8000", "[::1]", "[::1%25lo]:1"])
      assert.deepEqual(await ask(host), [200, true], host);
    for (const host of ["evil", "evil:", "[::2]", "localhost.evil", "[::ffff:7f00:1]"])
      assert.deepEqual(await ask(host), [403, true], host);
    for (const host of [null, "", "a b", "[", "[]", "::1", "%", "a@localhost", "http://localhost", "localhost:x"])
      assert.deepEqual(await ask(host), [400, true], String(host));
    for (const line of ["OPTIONS *", "GET *", "GET http://[", "GET /a\\b"])
      assert.deepEqual(await ask("localhost", line), [400, true], line);
    assert.deepEqual(await ask("localhost", "GET /health"), [200, true]);
    const expects = as_bytes(chats, chat(), "expect: patience\r\nconnection: close\r\n");
    assert.match(await raw(at.url, expects), /^HTTP\/1.1 200 /);
  });

  test("/tokenize, routing and questions take a place; a long text is tokenized beside the event loop", async () => {
    const leave = Array.from({ length: 4 }, () => at.server.service.enter(() => {}).leave);
    const asked = {
      "/tokenize": { prompt: "x" },
      "/v1/routing": { prompt: "x" },
      "/v1/mcqa": { question: "x", options: ["a", "b"] },
      [chats]: chat(),
      [completions]: { model: "nano", prompt: "x" },
    };
    for (const [path, body] of Object.entries(asked)) assert.equal((await at.post(path, body)).status, 429, path);
    for (const one of leave) one();
    for (const [path, body] of Object.entries(asked)) assert.equal((await at.post(path, body)).status, 200, path);
    const { count } = (await (await at.post("/tokenize", { prompt: "gout ".repeat(4000) })).json()) as {
      count: number;
    };
    assert.ok(count > 4000);
    for (const [path, body] of [
      [chats, chat("x".repeat(1_000_000))],
      [completions, { model: "nano", prompt: ["x", "y".repeat(1_000_000)] }],
      ["/v1/routing", { prompt: "x".repeat(1_000_000) }],
      ["/v1/mcqa", { question: "x".repeat(1_000_000), options: ["a", "b"] }],
    ] as const) {
      const response = await at.post(path, body);
      assert.deepEqual([response.status, code_of(await response.text())], [400, "context_length_exceeded"], path);
    }
  });

  test("a million of anything is refused, at the first that is wrong", async () => {
    const many = (value: string, count: number) => `[${Array(count).fill(value).join(",")}]`;
    const prompt = (value: string) => `{"model":"nano","prompt":${value}}`;
    for (const [path, body, code] of [
      [completions, prompt(many("-1", 600_000)), "body_too_complex"],
      [completions, prompt(many("-1", 400_000)), "invalid_value"],
      [completions, prompt(`[${many("1.5", 130_000)}]`), "invalid_value"],
      [completions, prompt(many('"x"', 100_000)), "invalid_value"],
      [completions, prompt("[".repeat(900_000) + "]".repeat(900_000)), "body_too_complex"],
      [chats, `{"messages":${many("null", 300_000)}}`, "invalid_value"],
      [chats, `{${Array.from({ length: 100_000 }, (_, i) => `"k${i}":1`)}}`, "body_too_complex"],
      [chats, JSON.stringify(chat("x", { stop: Array(100_000).fill("x") })), "invalid_value"],
      [
        chats,
        JSON.stringify(
          chat("x", {
            logit_bias: Object.fromEntries(
              Array(32_000)
                .fill(0)
                .map((_, i) => [i + 5_000, 1]),
            ),
          }),
        ),
        "token_out_of_range",
      ],
      [
        completions,
        JSON.stringify({
          model: "nano",
          prompt: Array(128).fill([5]),
          logit_bias: Object.fromEntries(
            Array(5000)
              .fill(0)
              .map((_, i) => [i, 1]),
          ),
        }),
        "invalid_value",
      ],
    ] as const) {
      const response = await at.post(path, body);
      const text = await response.text();
      assert.deepEqual([response.status, code_of(text)], [400, code], `${body.slice(0, 60)}: ${text.slice(0, 200)}`);
      assert.ok(text.length < 1000);
    }
    assert.equal(at.server.service.active, 0);
  });
});

test("the schemas stop at the first item that is wrong", () => {
  const issues = (value: unknown): number =>
    typeof value !== "object" || value === null
      ? 0
      : Array.isArray(value)
        ? value.reduce((sum: number, one) => sum + issues(one), 0)
        : ("message" in value ? 1 : 0) + issues((value as { errors?: unknown }).errors);
  for (const [schema, body] of [
    [completion_schema, { model: "x", prompt: Array(5000).fill(-1) }],
    [completion_schema, { model: "x", prompt: Array(100).fill(Array(100).fill(1.5)) }],
    [chat_schema, { model: "x", messages: Array(900).fill({ role: 1, content: 2, more: 3 }) }],
    [chat_schema, { model: "x", messages: [{ role: "user", content: Array(99).fill({ type: "x" }) }] }],
    [chat_schema, { model: "x", messages: [{ role: "user", content: "x" }], logit_bias: { x: 1, y: 2, z: 3 } }],
  ] as const) {
    const count = issues(schema.safeParse(body).error!.issues);
    assert.ok(count >= 1 && count < 12, `${count} issues`);
    assert.throws(() => parse(schema, body), /[a-z]/);
  }
});

describe("bodies", () => {
  const request = (text: string) =>
    new Request("http://x", { method: "POST", body: text, headers: { "content-type": "application/json" } });

  test("are read within a budget of all together, which their ends give back", async () => {
    const bodies = new Bodies(1000);
    const ends: (() => void)[] = [];
    const read = () => bodies.read(request(JSON.stringify("x".repeat(900))), (release) => ends.push(release));
    for (let i = 0; i < 35; i++) await read();
    await assert.rejects(read(), { status: 503, code: "overloaded" });
    for (const end of ends.splice(0)) end();
    for (let i = 0; i < 35; i++) await read();
  });

  test("texts with quotes and brackets are no structure", async () => {
    const values = ["[[[", '"]}\\', "\\\\", '\\"', "a,b:c", "\u2028\ud83d\ude00", "x".repeat(100)];
    const nested = { a: values.map((value) => ({ [value]: [value, { b: value }] })) };
    const text = JSON.stringify(nested);
    const bodies = new Bodies(10_000);
    assert.deepEqual(await bodies.read(request(text), () => {}), nested);
    const quoted = JSON.stringify("[".repeat(5000));
    assert.equal(await bodies.read(request(quoted), () => {}), "[".repeat(5000));
    for (const wrong of ['"', '{"a', '["\\"', "[[[", "]]]"])
      await assert.rejects(
        bodies.read(request(wrong), () => {}),
        { code: "invalid_json" },
      );
    await assert.rejects(
      bodies.read(request("[".repeat(65)), () => {}),
      { code: "body_too_complex" },
    );
  });
});

test("a place ends with its deadline, also where nobody hears of the end of its connection", (t) => {
  const timers = t.mock.timers as unknown as { enable(what: unknown): void };
  // Node 20.10 takes the list by itself, later ones in an object.
  try {
    timers.enable({ apis: ["setTimeout"] });
  } catch {
    timers.enable(["setTimeout"]);
  }
  const service = new Service({ model: nano, name: "nano", pretrained: {}, deadline: 2, log: new Log(() => {}) });
  let dropped = false;
  const { signal } = service.enter(() => {
    dropped = true;
  });
  t.mock.timers.tick(2000);
  assert.deepEqual([signal.aborted, dropped, service.active], [true, false, 1]);
  t.mock.timers.tick(5000);
  assert.deepEqual([dropped, service.active], [true, 0]);
});

test("choices are merged at a cost of their pieces, whatever their number", async (t) => {
  async function* some(from: number) {
    for (let i = 0; i < 20; i++) yield [from, i] as const;
  }
  const { then } = Promise.prototype;
  let calls = 0;
  t.mock.method(Promise.prototype, "then", function (this: Promise<unknown>, ...how: Parameters<typeof then>) {
    calls++;
    return then.apply(this, how);
  });
  const seen = Array.from({ length: 128 }, () => 0);
  for await (const { from, value } of merged(Array.from({ length: 128 }, (_, i) => some(i))))
    assert.deepEqual([...value], [from, seen[from]!++]);
  t.mock.restoreAll();
  assert.ok(seen.every((count) => count === 20));
  assert.ok(calls < 10 * 128 * 20, `${calls} reactions for ${128 * 20} pieces`);
});

test("one generator that fails ends all, and leaving ends all", async () => {
  const ended: number[] = [];
  async function* some(from: number, fails = false) {
    try {
      yield from;
      if (fails) throw new Error("this one");
      yield from;
    } finally {
      ended.push(from);
    }
  }
  await assert.rejects(async () => {
    for await (const _ of merged([some(0), some(1, true), some(2)]));
  }, /this one/);
  for await (const _ of merged([some(3), some(4)])) break;
  assert.deepEqual(ended.sort(), [0, 1, 2, 3, 4]);
});

test("a long text leaves the event loop free; its least number of tokens is one", async (t) => {
  const tokenizer = await load_tokenizer(nano);
  const tokens = new Tokens(tokenizer, nano);
  t.after(() => tokens.dispose());
  let turns = 0;
  const count = setInterval(() => turns++, 1);
  t.after(() => clearInterval(count));
  const { signal } = new AbortController();
  const long = "Asthma is a disease. ربو ".repeat(4000);
  const [ids] = await tokens.of({ texts: [long] }, 1e6, signal);
  assert.ok(turns > 0);
  assert.deepEqual(ids, tokenizer.encode(long));
  const messages = [{ role: "user", content: long }];
  assert.deepEqual((await tokens.of({ messages }, 1e6, signal))[0], tokenizer.apply_chat_template(messages));
  await assert.rejects(tokens.of({ texts: ["x".repeat(20_000)] }, 1000, signal), { code: "context_length_exceeded" });
  const leaving = new AbortController();
  const left = tokens.of({ texts: [long] }, 1e6, leaving.signal);
  leaving.abort();
  await assert.rejects(left, { code: "aborted" });
  assert.deepEqual((await tokens.of({ texts: [long] }, 1e6, signal))[0], ids);
  for (const text of ["x".repeat(999), " ".repeat(999), "ال".repeat(400), "😀é\u0301 a".repeat(99), long, ""])
    assert.ok(tokenizer.least_tokens(text) <= tokenizer.encode(text, { add_special_tokens: false }).length);
  assert.ok(tokenizer.least_tokens("x".repeat(100_000)) > 1024);
});

describe("a log that nobody reads", () => {
  test("keeps some lines, drops and counts the rest, and says so when the reader is back", async () => {
    let [out, room] = ["", 10];
    const lines = new Lines(
      (bytes) => {
        const part = bytes.subarray(0, room);
        out += Buffer.from(part).toString();
        room -= part.length;
        return part.length;
      },
      (count) => `lost ${count}\n`,
    );
    const line = `${"x".repeat(1023)}\n`;
    for (let i = 0; i < 2000; i++) lines.push(line);
    assert.equal(out.length, 10);
    room = Number.POSITIVE_INFINITY;
    await until(() => out.endsWith("\n"), "the rest");
    const all = out.trimEnd().split("\n");
    const lost = Number(all.at(-1)!.replace("lost ", ""));
    assert.ok(lost > 900 && all.length - 1 + lost === 2000, `${all.length} lines, ${lost} lost`);
    lines.push("after\n");
    assert.ok(out.endsWith("after\n"));
  });

  const unasked = (kind: "pipe" | "socket") => {
    if (process.platform === "win32") return "no pipes of this kind on Windows";
    return kind === "socket" && !process.env.BIMEDIX_FULL ? "slow; npm run test:full" : false;
  };
  for (const kind of ["pipe", "socket"] as const)
    test(`stops neither answers nor SIGTERM (${kind})`, { skip: unasked(kind) }, async (t) => {
      const cli = join(root, "dist/src/cli/main.js");
      const args = ["serve", "--port", "0", "--name", "nano"];
      // Node gives a child sockets where it says pipe; a shell's is a pipe.
      const command = [process.execPath, cli, ...args];
      const child =
        kind === "socket"
          ? spawn(command[0]!, command.slice(1), { stdio: ["ignore", "pipe", "pipe"] })
          : spawn("bash", ["-c", 'exec "$@" 2> >(sleep 60)', "bash", ...command], {
              stdio: ["ignore", "pipe", "ignore"],
            });
      t.after(() => child.kill("SIGKILL"));
      const [said] = await once(child.stdout!, "data");
      const [, url] = /^(http:\S+)\/v1 /.exec(String(said))!;
      const asked = Array.from({ length: 900 }, (_, i) => i);
      const ask = async () => {
        while (asked.pop() !== undefined) {
          const response = await fetch(`${url}/v1/models`, { signal: AbortSignal.timeout(20_000) });
          assert.equal(response.status, 200);
          await response.text();
        }
      };
      await Promise.all([ask(), ask(), ask(), ask()]);
      assert.equal((await fetch(`${url}/health`)).status, 200);
      child.kill("SIGTERM");
      assert.deepEqual(await once(child, "exit"), [0, null]);
    });
});

test("a process that uses no time and says nothing stands still; one that answers does not", async (t) => {
  const idle = spawn("sleep", ["100"]);
  t.after(() => idle.kill());
  let answer = (): void => {};
  const state = () =>
    new Promise<{ running: number; waiting: number; cached_tokens: number }>((resolve) => {
      answer = () => resolve({ running: 1, waiting: 0, cached_tokens: 5 });
    });
  const pulse = new Pulse({ state, pid: idle.pid }, 50);
  t.after(() => pulse.stop());
  assert.equal(pulse.is_still, false);
  const asked = pulse.ask();
  if (process.platform === "linux") await until(() => pulse.is_still, "standing still");
  answer();
  await asked;
  assert.deepEqual([pulse.is_still, pulse.state.cached_tokens], [false, 5]);
});

describe("a server is not opened by mistake", () => {
  const refused = (options: object) =>
    assert.rejects(
      start_server({ model: nano, name: "nano", pretrained: {}, port: 0, version: "test", ...options }).then((one) =>
        one.stop(0),
      ),
      { code: "bad_option" },
    );
  test("no key in a list, keys that no header carries, ports and hosts that are none", async () => {
    await refused({ api_keys: [] });
    await refused({ api_keys: ["short"] });
    await refused({ api_keys: ["a-key-of-sixteen-ü"] });
    await refused({ api_keys: ["a-key-of-sixteen-\u0007x"] });
    await refused({ host: "0.0.0.0" });
    for (const port of [70_000, -1, 1.5, Number.NaN, "80"]) await refused({ port });
    await refused({ allow_hosts: ["http://x/"] });
    check_key("!#$%&'()*+,-./:;<=>?@[]^_`{|}~", "a key");
  });

  test("addresses of this machine, in all their forms", () => {
    for (const host of ["localhost", "127.0.0.1", "127.9.8.7", "::1", "[::1]", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"])
      assert.equal(is_loopback(host), true, host);
    for (const host of ["0.0.0.0", "::", "::ffff:1.2.3.4", "fe80::1", "example.org", "localhost.example.org", "127.x"])
      assert.equal(is_loopback(host), false, host);
  });

  test("every form of an IPv6 address is served under its own URL", async (t) => {
    for (const host of ["::1", "[::1]", "::ffff:127.0.0.1"]) {
      const at = await start({ host }).catch((error: Error) => t.skip(error.message));
      if (!at) return;
      const { status } = await fetch(`${at.url}/v1/models`);
      await at.server.stop(1);
      assert.equal(status, 200, host);
    }
  });

  test("key files and names of adapters on the command line", async (t) => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-keys-"));
    t.after(() => rm(dir, { recursive: true }));
    const run = async (args: string[], env: Record<string, string> = {}) => {
      const child = spawn(process.execPath, [join(root, "dist/src/cli/main.js"), "serve", "--port", "0", ...args], {
        stdio: ["ignore", "ignore", "pipe"],
        env: { ...process.env, ...env },
      });
      let said = "";
      child.stderr.on("data", (data) => {
        said += data;
        // It opened.
        if (said.includes('"ready"')) child.kill("SIGKILL");
      });
      const [status] = await once(child, "close");
      return `${status} ${said}`;
    };
    const file = join(dir, "keys.txt");
    for (const [text, message] of [
      ["", /^2 .*no line has a key/],
      [" \n\t\r\n\ufeff\n# a comment\n", /^2 .*no line has a key/],
      ["# first\n\nshort\n", /^2 .*line 3: an API key of 5 characters/],
      ["مفتاح-طويل-بما-يكفي-للجميع\n", /^2 .*line 1: an API key with spaces or characters beyond ASCII/],
    ] as const) {
      await writeFile(file, text);
      assert.match(await run(["--api-key-file", file]), message);
    }
    assert.match(await run([], { BIMEDIX_API_KEY: " " }), /^2 .*BIMEDIX_API_KEY/);
    assert.match(await run(["--adapter", "__proto__=/nowhere"]), /^2 .*--adapter __proto__/);
    assert.match(await run(["--adapter", "a=/nowhere", "a=/elsewhere"]), /^2 .*one adapter of the name a/);
    for (const model of ["http://", "https://["]) assert.match(await run(["--model", model]), /^2 .*--model/);
  });
});
