/** Several callers at once, downloads that break off, and bytes that are wrong: the cache is whole after each. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { appendFile, mkdir, mkdtemp, readdir, readFile, rename, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { size_of } from "../../src/model/hub/cache.js";
import { resolve_model, resolve_tokenizer } from "../../src/model/hub.js";
import { rejects, root } from "../fixtures.js";
import { FakeHub, git_hash, SHA, sha256 } from "./fake_hub.js";

const weights = randomBytes(300_000);
const files = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"a": 1}'),
  "model.safetensors": weights,
};

describe("a hub and a network with faults", () => {
  const hub = new FakeHub();
  const blobs = () => join(process.env.HF_HUB_CACHE!, "models--org--name/blobs");
  const blob = () => join(blobs(), sha256(weights));
  const file = () => join(process.env.HF_HUB_CACHE!, "models--org--name/snapshots", SHA, "model.safetensors");
  const is_right = async () => {
    assert.deepEqual(await readFile(file()), weights);
    assert.deepEqual(
      (await readdir(blobs())).filter((name) => /\./.test(name)),
      [],
    );
  };

  /** Another process that asks for the model. */
  function start(): ChildProcess {
    const url = pathToFileURL(join(root, "dist/src/model/hub.js")).href;
    const code = `import { resolve_model } from ${JSON.stringify(url)}; await resolve_model("org/name");`;
    return spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: ["ignore", "ignore", "inherit"] });
  }

  before(() => hub.start());
  after(() => hub.stop());
  beforeEach(async () => {
    for (const name of Object.keys(process.env))
      if (/^(HF|HUGGING|TRANSFORMERS|.*_PROXY)/i.test(name)) delete process.env[name];
    process.env.HF_HUB_CACHE = await mkdtemp(join(tmpdir(), "bimedix-hub-"));
    process.env.HF_ENDPOINT = hub.url;
    hub.reset(files);
  });

  test("callers of one process at once: one download, one snapshot", async () => {
    hub.slow = 20;
    const dirs = await Promise.all([
      resolve_tokenizer("org/name"),
      resolve_model("org/name"),
      resolve_model("org/name"),
    ]);
    assert.equal(new Set(dirs).size, 1);
    assert.deepEqual(hub.asked_of("model.safetensors"), [""]);
    await is_right();
  });

  test("three processes at once: one download, one snapshot", async () => {
    hub.slow = 40;
    const codes = await Promise.all([start(), start(), start()].map((child) => once(child, "exit")));
    assert.deepEqual(
      codes.map(([code]) => code),
      [0, 0, 0],
    );
    assert.deepEqual(hub.asked_of("model.safetensors"), [""]);
    await is_right();
  });

  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    test(`a process that ends by ${signal} leaves a part that the next goes on with`, async () => {
      hub.slow = 50;
      const child = start();
      const parts = async () => (await readdir(blobs()).catch(() => [])).filter((name) => name.endsWith(".part"));
      for (;;) {
        const [part] = await parts();
        if (part && (await size_of(join(blobs(), part))) >= 90_000) break;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      child.kill(signal);
      assert.deepEqual(await once(child, "exit"), [null, signal]);
      const lock = `${blob()}.lock`;
      if (signal === "SIGINT") await assert.rejects(stat(lock), /ENOENT/);
      // As after a longer while: who starts at once waits ten seconds for the owner's sign of life.
      else await utimes(lock, new Date(0), new Date(0));
      hub.slow = 0;
      await resolve_model("org/name");
      const [first, second] = hub.asked_of("model.safetensors");
      assert.equal(first, "");
      assert.ok(Number(/bytes=(\d+)-/.exec(second!)![1]) >= 90_000);
      await is_right();
    });
  }

  test("one that is stopped by its own caller leaves a part, and no lock", async () => {
    const controller = new AbortController();
    hub.slow = 20;
    const on_progress = ({ file, done }: { file: string; done: number }) => {
      if (file === "model.safetensors" && done > 60_000) controller.abort();
    };
    await rejects(
      resolve_model("org/name", { signal: controller.signal, on_progress }),
      "aborted",
      /goes on where it was/,
    );
    hub.slow = 0;
    await resolve_model("org/name");
    assert.match(hub.asked_of("model.safetensors")[1]!, /^bytes=\d{5,6}-$/);
    await is_right();
  });

  test("a download that breaks off goes on where it was, by itself", async () => {
    hub.cut_at = 100_000;
    await resolve_model("org/name");
    assert.deepEqual(hub.asked_of("model.safetensors"), ["", "bytes=100000-"]);
    await is_right();
  });

  test("a server that sends the whole file instead of the rest starts over", async () => {
    hub.cut_at = 100_000;
    hub.ignore_ranges = true;
    await resolve_model("org/name");
    await is_right();
  });

  test("a server that is silent in the middle is asked for the rest", async () => {
    process.env.HF_HUB_DOWNLOAD_TIMEOUT = "1";
    let asked = 0;
    hub.fault = ({ path }, response) => {
      if (!path.endsWith("model.safetensors") || asked++ > 0) return undefined;
      response.writeHead(200, { "content-length": weights.length });
      response.write(weights.subarray(0, 1000));
      return "hang";
    };
    await resolve_model("org/name");
    assert.deepEqual(hub.asked_of("model.safetensors"), ["", "bytes=1000-"]);
    await is_right();
  });

  test("a failure of the moment is tried again; one that lasts ends in one line, and what arrived is kept", async () => {
    let answers = 0;
    hub.fault = ({ path }) => (path.endsWith("model.safetensors") && answers++ < 1 ? { status: 503 } : undefined);
    await resolve_model("org/name");
    await is_right();
    process.env.HF_HUB_CACHE = await mkdtemp(join(tmpdir(), "bimedix-hub-"));
    hub.cut_at = 50_000;
    answers = 0;
    hub.fault = ({ path }) => (path.endsWith("model.safetensors") && answers++ > 0 ? { status: 503 } : undefined);
    await rejects(
      resolve_model("org/name"),
      "offline",
      /in the cache without model.safetensors.*answers 503.*what has arrived is kept/,
    );
    hub.fault = null;
    hub.log = [];
    await resolve_model("org/name");
    assert.deepEqual(hub.asked_of("model.safetensors"), ["bytes=50000-"]);
    await is_right();
  });

  test("wrong bytes are thrown away", async () => {
    hub.spoil = true;
    await rejects(resolve_model("org/name"), "bad_checkpoint", /sha256/);
    await resolve_model("org/name");
    await is_right();
  });

  for (const [name, part] of [
    ["other bytes", randomBytes(100_000)],
    ["all the bytes, and they are others", randomBytes(weights.length)],
    ["more bytes than the file has", randomBytes(weights.length + 1)],
    ["nothing", Buffer.alloc(0)],
  ] as const) {
    test(`a part that holds ${name} is not built upon`, async () => {
      await mkdir(blobs(), { recursive: true });
      await writeFile(`${blob()}.0123456789abcdef.part`, part);
      await resolve_model("org/name");
      await is_right();
    });
  }

  test("a server that knows no rest of the file is asked for the whole", async () => {
    await mkdir(blobs(), { recursive: true });
    await writeFile(`${blob()}.0123456789abcdef.part`, weights.subarray(0, 1000));
    for (const answer of [
      { status: 416 },
      { status: 206, headers: { "content-range": "bytes 5-9/10" }, body: "01234" },
    ]) {
      hub.fault = ({ path, range }) => (range && path.endsWith("model.safetensors") ? answer : undefined);
      await resolve_model("org/name");
      await is_right();
      await rename(blob(), `${blob()}.1.part`);
      await writeFile(`${blob()}.1.part`, weights.subarray(0, 1000));
    }
  });

  test("a bad file in the cache is replaced: of another length, small with other bytes, a link to nothing", async () => {
    const dir = await resolve_model("org/name");
    await appendFile(file(), "late bytes of another process");
    const small = join(blobs(), git_hash(files["tokenizer.json"]));
    await writeFile(small, '{"a": 2}');
    await resolve_model("org/name");
    await is_right();
    assert.deepEqual(await readFile(join(dir, "tokenizer.json")), files["tokenizer.json"]);
    await rename(blob(), join(blobs(), "elsewhere"));
    await resolve_model("org/name");
    assert.deepEqual(await readFile(file()), weights);
  });
});
