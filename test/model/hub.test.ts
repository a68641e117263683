/** Downloads from a local server that answers as the hub does: resumed, checked, and readable errors. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { dataset_file, resolve_model, resolve_tokenizer } from "../../src/model/hub.js";
import { rejects } from "../fixtures.js";

const SHA = "a".repeat(40);
const weights = randomBytes(300_000);
const files: Record<string, Buffer> = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from("{}"),
  "model.safetensors": weights,
  "pytorch_model.bin": Buffer.from("no"),
  "anatomy/test/0000.parquet": Buffer.from("PAR1"),
};
const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");

describe("the hub", () => {
  let server: Server;
  /** Ranges of model.safetensors that were asked for, and how the next answer goes wrong. */
  let ranges: (string | undefined)[];
  let fault: "" | "cut" | "wrong bytes" | "403" | "whole file";

  function entry(path: string) {
    const bytes = files[path]!;
    const lfs = path.endsWith(".safetensors")
      ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 100 } }
      : {};
    return { type: "file", path, size: bytes.length, oid: createHash("sha1").update(bytes).digest("hex"), ...lfs };
  }

  function answer(request: IncomingMessage, response: ServerResponse): unknown {
    const url = new URL(request.url!, "http://hub");
    const json = (value: unknown, status = 200) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(value));
    };
    if (fault === "403") return json({ error: "gated" }, 403);
    if (url.pathname.startsWith("/api/models/org/missing")) return json({ error: "not found" }, 404);
    if (url.pathname.includes("/tree/")) {
      const folder = url.pathname.split(SHA)[1]!.slice(1);
      return json(
        Object.keys(files)
          .filter((path) => path.startsWith(folder))
          .map(entry),
      );
    }
    if (url.pathname.includes("/paths-info/")) {
      let body = "";
      request.on("data", (chunk) => {
        body += chunk;
      });
      request.on("end", () => {
        const paths = body.startsWith("{")
          ? (JSON.parse(body) as { paths: string[] }).paths
          : new URLSearchParams(body).getAll("paths");
        json(paths.map(entry));
      });
      return;
    }
    if (
      url.pathname.startsWith("/api/datasets/") &&
      !decodeURIComponent(url.pathname).endsWith("/revision/refs/convert/parquet")
    )
      return json({ error: "not found" }, 404);
    if (/^\/api\/(models|datasets)\//.test(url.pathname))
      return json({
        _id: "1",
        id: "org/name",
        sha: SHA,
        private: false,
        downloads: 0,
        gated: false,
        likes: 0,
        lastModified: "2026-01-01T00:00:00.000Z",
      });
    const path = url.pathname.split(`/resolve/${SHA}/`)[1]!;
    const bytes = files[path]!;
    const range = /^bytes=(\d+)-$/.exec(request.headers.range ?? "");
    if (path === "model.safetensors") ranges.push(request.headers.range);
    const from = range && fault !== "whole file" ? Number(range[1]) : 0;
    response.writeHead(range && fault !== "whole file" ? 206 : 200, { "content-length": bytes.length - from });
    if (path !== "model.safetensors") return void response.end(bytes);
    if (fault === "cut") {
      fault = "";
      response.write(bytes.subarray(from, 100_000), () => setTimeout(() => response.destroy(), 50));
    } else if (fault === "wrong bytes") {
      fault = "";
      response.end(Buffer.alloc(bytes.length - from));
    } else response.end(bytes.subarray(from));
  }

  before(async () => {
    server = createServer(answer).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    process.env.HF_ENDPOINT = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.close();
    server.closeAllConnections();
  });
  beforeEach(async () => {
    process.env.HF_HUB_CACHE = await mkdtemp(join(tmpdir(), "bimedix-hub-"));
    delete process.env.HF_HUB_OFFLINE;
    ranges = [];
    fault = "";
  });

  test("a split of a data set is downloaded once, from the branch of Parquet copies, and then found offline", async () => {
    const file = await dataset_file("org/data", "anatomy", "test");
    assert.equal(await readFile(file, "utf8"), "PAR1");
    assert.equal(await dataset_file("org/data", "anatomy", "test", { offline: true }), file);
    await rejects(
      dataset_file("org/data", "anatomy", "train"),
      "file_not_found",
      /has no anatomy\/train\/0000.parquet/,
    );
    await rejects(dataset_file("org/other", "anatomy", "test", { offline: true }), "offline", /data set org\/other/);
  });

  test("a model is downloaded once, without files it does not need, and then found offline", async () => {
    let last = { done: 0, total: 0 };
    const dir = await resolve_model("org/name", { on_progress: (progress) => (last = progress) });
    assert.deepEqual((await readdir(dir)).sort(), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert.deepEqual(await readFile(join(dir, "model.safetensors")), weights);
    assert.deepEqual(last, { file: "model.safetensors", done: last.total, total: weights.length + 4 });
    assert.equal(await resolve_model("org/name"), dir);
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
    assert.equal(ranges.length, 1);
  });

  test("a tokenizer is had without the weights", async () => {
    const dir = await resolve_tokenizer("org/name");
    assert.deepEqual((await readdir(dir)).sort(), ["config.json", "tokenizer.json"]);
    assert.equal(await resolve_tokenizer("org/name", { offline: true }), dir);
    await rejects(resolve_model("org/name", { offline: true }), "offline", /another machine/);
    assert.equal(await resolve_model("org/name"), dir);
    assert.deepEqual(ranges, [undefined]);
  });

  test("what another tool downloaded is found offline, once every shard is there", async () => {
    const storage = join(process.env.HF_HUB_CACHE!, "models--org--name");
    const dir = join(storage, "snapshots", SHA);
    await mkdir(dir, { recursive: true });
    await mkdir(join(storage, "refs"));
    await writeFile(join(storage, "refs/main"), SHA);
    await writeFile(join(dir, "config.json"), "{}");
    const weight_map = { a: "model-1.safetensors", b: "model-2.safetensors" };
    await writeFile(join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
    await writeFile(join(dir, "model-1.safetensors"), "");
    await rejects(resolve_model("org/name", { offline: true }), "offline", /not in the cache/);
    await writeFile(join(dir, "model-2.safetensors"), "");
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
  });

  test("an interrupted download goes on where it was", async () => {
    fault = "cut";
    await rejects(resolve_model("org/name"), "offline", /what has arrived is kept/);
    await rejects(resolve_model("org/name", { offline: true }), "offline", /another machine/);
    const dir = await resolve_model("org/name");
    assert.deepEqual(ranges, [undefined, "bytes=100000-"]);
    assert.deepEqual(await readFile(join(dir, "model.safetensors")), weights);
  });

  test("a server that ignores the range starts over", async () => {
    fault = "cut";
    await rejects(resolve_model("org/name"), "offline", /kept/);
    fault = "whole file";
    assert.deepEqual(await readFile(join(await resolve_model("org/name"), "model.safetensors")), weights);
  });

  test("wrong bytes are thrown away", async () => {
    fault = "wrong bytes";
    await rejects(resolve_model("org/name"), "bad_checkpoint", /sha256/);
    assert.deepEqual(await readFile(join(await resolve_model("org/name"), "model.safetensors")), weights);
  });

  test("errors say what to do", async () => {
    await rejects(resolve_model("org/missing"), "file_not_found", /check the name/);
    fault = "403";
    await rejects(resolve_model("org/name"), "file_unreadable", /HF_TOKEN/);
    for (const name of ["", "nothing", "../x/y", "a/b/c", "http://x/y"])
      await rejects(resolve_model(name), "file_not_found", /hub id/);
    process.env.HF_HUB_OFFLINE = "1";
    await rejects(resolve_model("org/other"), "offline", /offline mode/);
    delete process.env.HF_HUB_OFFLINE;
    const endpoint = process.env.HF_ENDPOINT;
    process.env.HF_ENDPOINT = "http://127.0.0.1:1";
    await rejects(resolve_model("org/other"), "offline", /cannot be reached/);
    process.env.HF_ENDPOINT = endpoint;
  });
});
