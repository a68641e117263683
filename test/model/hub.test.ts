/** What is downloaded, found again, and said when it is not there. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { isAbsolute, join, relative } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { dataset_file, resolve_adapter, resolve_model, resolve_tokenizer } from "../../src/model/hub.js";
import { rejects, warnings } from "../fixtures.js";
import { FakeHub, git_hash, SHA, sha256 } from "./fake_hub.js";

const weights = randomBytes(300_000);
const files = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"a": 1}'),
  "model.safetensors": weights,
  "pytorch_model.bin": Buffer.from("no"),
  "README.md": Buffer.from("no"),
  "anatomy/test/0000.parquet": Buffer.from("PAR1"),
  "anatomy/dev/0000.parquet": Buffer.from("PAR1"),
  "anatomy/dev/0001.parquet": Buffer.from("PAR1"),
};
const needed = ["config.json", "model.safetensors", "tokenizer.json"];

describe("the hub", () => {
  const hub = new FakeHub();
  const storage = () => join(process.env.HF_HUB_CACHE!, "models--org--name");
  /** A snapshot as another tool leaves it where links are not to be had. */
  async function snapshot_of(contents: Record<string, string | Buffer>, commit = SHA): Promise<string> {
    const dir = join(storage(), "snapshots", commit);
    await mkdir(dir, { recursive: true });
    await mkdir(join(storage(), "refs"), { recursive: true });
    await writeFile(join(storage(), "refs/main"), commit);
    for (const [name, content] of Object.entries(contents)) await writeFile(join(dir, name), content);
    return dir;
  }

  before(() => hub.start());
  after(() => hub.stop());
  beforeEach(async () => {
    for (const name of Object.keys(process.env))
      if (/^(HF|HUGGING|TRANSFORMERS|.*_PROXY)/i.test(name)) delete process.env[name];
    process.env.HF_HOME = await mkdtemp(join(tmpdir(), "bimedix-hub-"));
    process.env.HF_HUB_CACHE = join(process.env.HF_HOME, "hub");
    process.env.HF_ENDPOINT = hub.url;
    hub.reset(files);
  });

  test("a split of a data set is downloaded once, from the branch of Parquet copies, and then found offline", async () => {
    const file = await dataset_file("org/data", "anatomy", "test");
    assert.equal(hub.log[0]!.path, "/api/datasets/org/data/revision/refs/convert/parquet");
    assert.equal(await readFile(file, "utf8"), "PAR1");
    assert.equal(await dataset_file("org/data", "anatomy", "test", { offline: true }), file);
    await rejects(
      dataset_file("org/data", "anatomy", "train"),
      "file_not_found",
      /has no anatomy\/train\/0000.parquet/,
    );
    // Read in part it would look whole.
    await rejects(dataset_file("org/data", "anatomy", "dev"), "bad_checkpoint", /a split in 2 files/);
    await rejects(dataset_file("org/other", "anatomy", "test", { offline: true }), "offline", /data set org\/other/);
  });

  test("a model is downloaded once, without files it does not need, and then found offline", async () => {
    let last = { done: 0, total: 0 };
    const dir = await resolve_model("org/name", { on_progress: (progress) => (last = progress) });
    assert.deepEqual((await readdir(dir)).sort(), needed);
    assert.deepEqual(await readFile(join(dir, "model.safetensors")), weights);
    assert.deepEqual(last, { file: "model.safetensors", done: last.total, total: weights.length + 10 });
    assert.equal(await resolve_model("org/name"), dir);
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
    assert.deepEqual(hub.asked_of("model.safetensors"), [""]);
  });

  test("the cache has huggingface_hub's layout, and nothing else lies in it", async () => {
    const dir = await resolve_model("org/name");
    assert.equal(dir, join(storage(), "snapshots", SHA));
    assert.equal(await readFile(join(storage(), "refs/main"), "utf8"), SHA);
    const blobs = needed.map((name) => ({ name, bytes: files[name as keyof typeof files] }));
    for (const { name, bytes } of blobs) {
      const hash = name.endsWith(".safetensors") ? sha256(bytes) : git_hash(bytes);
      assert.equal(await readlink(join(dir, name)), join("../../blobs", hash));
    }
    assert.deepEqual((await readdir(storage())).sort(), [".no_exist", "blobs", "refs", "snapshots"]);
    const absent = ["chat_template.jinja", "tokenizer_config.json"];
    assert.deepEqual((await readdir(join(storage(), ".no_exist", SHA))).sort(), absent);
    assert.equal((await readdir(join(storage(), "blobs"))).length, 3);
  });

  test("without links a file is moved into the snapshot, and found there", async () => {
    process.env.HF_HUB_DISABLE_SYMLINKS = "1";
    const dir = await resolve_model("org/name");
    for (const name of needed) assert.ok((await lstat(join(dir, name))).isFile());
    assert.deepEqual(await readdir(join(storage(), "blobs")), []);
    assert.equal(await resolve_model("org/name"), dir);
    assert.deepEqual(hub.asked_of("model.safetensors"), [""]);
  });

  test("a tokenizer is had without the weights", async () => {
    const dir = await resolve_tokenizer("org/name");
    assert.deepEqual((await readdir(dir)).sort(), ["config.json", "tokenizer.json"]);
    assert.equal(await resolve_tokenizer("org/name", { offline: true }), dir);
    await rejects(resolve_model("org/name", { offline: true }), "offline", /in the cache without model.safetensors/);
    assert.equal(await resolve_model("org/name"), dir);
    assert.deepEqual(hub.asked_of("model.safetensors"), [""]);
  });

  test("every file that transformers reads is fetched, and no other", async () => {
    const small = ["added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt"];
    const more = ["special_tokens_map.json", "tokenizer.model", "tokenizer_config.json", "vocab.json"];
    const others = ["adapter_model.safetensors", "consolidated.safetensors", "model.fp16.safetensors", "model.gguf"];
    const deep = ["original/consolidated.00.pth", "onnx/model.onnx", "onnx/model.onnx_data", "params.json"];
    const template = "additional_chat_templates/tool_use.jinja";
    for (const name of [...small, ...more, ...others, ...deep, template]) hub.files[name] = Buffer.from(name);
    const dir = await resolve_model("org/name");
    const expected = [...small, ...more, ...needed, "additional_chat_templates"].sort();
    assert.deepEqual((await readdir(dir)).sort(), expected);
    assert.ok(existsSync(join(dir, template)));
  });

  test("of shards those are fetched that the index names, and none beside a single file", async () => {
    const shard = randomBytes(1000);
    hub.files["model-00001-of-00002.safetensors"] = shard;
    hub.files["model-00002-of-00002.safetensors"] = weights;
    hub.files["model-00001-of-00001.safetensors"] = randomBytes(500);
    hub.files["consolidated.safetensors"] = randomBytes(2000);
    const weight_map = { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" };
    hub.files["model.safetensors.index.json"] = Buffer.from(JSON.stringify({ weight_map }));
    assert.deepEqual((await readdir(await resolve_model("org/name"))).sort(), needed);
    delete hub.files["model.safetensors"];
    hub.commit = "b".repeat(40);
    const sharded = (await readdir(await resolve_model("org/name"))).sort();
    assert.deepEqual(sharded, [
      "config.json",
      ...Object.values(weight_map),
      "model.safetensors.index.json",
      "tokenizer.json",
    ]);
    delete hub.files["model-00001-of-00002.safetensors"];
    hub.commit = "c".repeat(40);
    await rm(storage(), { recursive: true });
    await rejects(resolve_model("org/name"), "bad_checkpoint", /index of org\/name names model-00001-of-00002/);
  });

  test("what holds no weights in safetensors is called what it is", async () => {
    delete (hub.files as Partial<typeof files>)["model.safetensors"];
    await rejects(
      resolve_model("org/name"),
      "bad_checkpoint",
      /no model.safetensors, but pytorch_model.bin.*refs\/pr\/N/,
    );
    hub.reset({ "adapter_config.json": Buffer.from("{}"), "adapter_model.bin": Buffer.from("x") });
    await rejects(resolve_model("org/name"), "bad_checkpoint", /holds an adapter and no model/);
    await rejects(
      resolve_adapter("org/name"),
      "bad_checkpoint",
      /no adapter_model.safetensors, only adapter_model.bin/,
    );
  });

  test("what another tool downloaded is found offline, once every shard is there", async () => {
    const weight_map = { a: "model-1.safetensors", b: "model-2.safetensors" };
    const index = JSON.stringify({ weight_map });
    const dir = await snapshot_of({
      "config.json": "{}",
      "model.safetensors.index.json": index,
      "model-1.safetensors": "",
    });
    await rejects(
      resolve_model("org/name", { offline: true }),
      "offline",
      /in the cache without model-2.safetensors, and/,
    );
    await writeFile(join(dir, "model-2.safetensors"), "");
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
  });

  test("a snapshot of another tool is completed", async () => {
    hub.files["generation_config.json"] = Buffer.from("{ }");
    const dir = await snapshot_of({ "config.json": "{}", "model.safetensors": weights });
    assert.equal(await resolve_model("org/name"), dir);
    assert.deepEqual((await readdir(dir)).sort(), [...needed, "generation_config.json"].sort());
    assert.deepEqual(hub.asked_of("model.safetensors"), []);
  });

  test("a snapshot without tokenizer or template is completed, also by a hub that stumbles; else it is said by name", async () => {
    const leave = () =>
      snapshot_of({ "config.json": "{}", "model.safetensors": weights, "tokenizer_config.json": "{}" });
    const dir = await leave();
    const heard = warnings();
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
    const lacking = /org\/name is in the cache without tokenizer\.json, chat_template\.jinja, .*offline mode/;
    assert.match((await heard()).join("\n"), lacking);
    hub.files["chat_template.jinja"] = Buffer.from("{{ messages }}");
    let stumbles = 1;
    hub.fault = () => (stumbles-- > 0 ? { status: 503 } : undefined);
    assert.equal(await resolve_model("org/name"), dir);
    assert.deepEqual((await readdir(dir)).sort(), ["chat_template.jinja", ...needed, "tokenizer_config.json"]);
    const silence = warnings();
    assert.equal(await resolve_model("org/name", { offline: true }), dir);
    assert.deepEqual(await silence(), []);
  });

  test("a list that is not the hub's is refused: names that lead out, sizes and hashes that are none, pages without end", async () => {
    const outside = join(process.env.HF_HOME!, "outside");
    const oid = git_hash(files["config.json"]);
    const list = (entries: unknown, headers: Record<string, string> = {}) => {
      hub.fault = ({ path }) =>
        path.includes("/tree/") ? { status: 200, headers, body: JSON.stringify(entries) } : undefined;
    };
    const names = ["../../../../outside", outside, "a/../../b", "a\\b", "a\u0000b", "", "a//b", "./a"];
    for (const path of names) {
      list([{ type: "file", path, size: 2, oid }]);
      await rejects(resolve_model("org/name"), "offline", /which no folder holds/);
    }
    for (const damage of [{ size: -1 }, { size: 1.5 }, { size: "2" }, { oid: "x" }, { lfs: { oid, size: null } }]) {
      list([{ type: "file", path: "config.json", size: 2, oid, ...damage }]);
      await rejects(resolve_model("org/name"), "offline", /lists "config.json" without a good/);
    }
    for (const value of [null, 5, {}, [null], [5], [{ type: "file" }]]) {
      list(value);
      await rejects(resolve_model("org/name"), "offline", /not as the hub does/);
    }
    list([], { link: `<${hub.url}/api/models/org/name/tree/${SHA}>; rel="next"` });
    await rejects(resolve_model("org/name"), "offline", /has no end/);
    let page = 0;
    hub.fault = ({ path }) =>
      path.includes("/tree/")
        ? { status: 200, headers: { link: `<${path}?page=${page++}>; rel="next"` }, body: "[]" }
        : undefined;
    await rejects(resolve_model("org/name"), "offline", /has no end/);
    hub.fault = ({ path }, response) => {
      if (!path.includes("/tree/")) return undefined;
      const more = () => response.destroyed || response.write(" ".repeat(2 ** 20), () => setImmediate(more));
      more();
      return "hang";
    };
    await rejects(resolve_model("org/name"), "offline", /more than 16 MiB/);
    assert.ok(!existsSync(outside));
  });

  test("a file that is longer or shorter than the list says is refused at once", async () => {
    for (const size of [299_999, 300_001, 0]) {
      hub.fault = ({ path }) => {
        if (!path.includes("/tree/")) return undefined;
        const config = { type: "file", path: "config.json", size: 2, oid: git_hash(files["config.json"]) };
        const lfs = { oid: sha256(weights), size };
        return { status: 200, body: JSON.stringify([config, { ...config, path: "model.safetensors", lfs }]) };
      };
      hub.log = [];
      await rejects(resolve_model("org/name"), "bad_checkpoint", /other bytes than the hub announced/);
      assert.ok(hub.asked_of("model.safetensors").length <= 1);
    }
  });

  test("revisions: branches with a slash, pull requests, tags, commits; each found again offline", async () => {
    for (const revision of ["refs/pr/1", "v1.0", "feature/x", "aaaaaaa"]) {
      await resolve_model(`org/name@${revision}`);
      assert.ok(hub.log.some(({ path }) => path === `/api/models/org/name/revision/${revision}`));
      assert.equal(await readFile(join(storage(), "refs", revision), "utf8"), SHA);
      assert.ok(await resolve_model("org/name", { revision, offline: true }));
    }
    assert.equal(await resolve_model("org/name", { revision: SHA, offline: true }), join(storage(), "snapshots", SHA));
    const elsewhere = new RegExp(`in the cache at ${SHA} and not at main.*ask for org/name@${SHA}`);
    await rejects(resolve_model("org/name", { offline: true }), "offline", elsewhere);
    await rejects(resolve_model("org/name@../../x"), "bad_option", /revision/);
  });

  for (const [status, answer] of [
    [500, {}],
    [503, {}],
    [504, { headers: { "content-type": "text/html" }, body: "<html>gateway</html>" }],
    [429, { headers: { "retry-after": "3600" } }],
    [401, {}],
    [403, { headers: { "x-error-code": "GatedRepo" } }],
    [404, { headers: { "x-error-code": "RepoNotFound" } }],
    [407, {}],
    [200, { headers: { "content-type": "text/html" }, body: "<html>sign in to the network</html>" }],
    [200, { body: "[]" }],
  ] as const) {
    test(`a cached model loads when the hub answers ${status} ${JSON.stringify(answer)}`, async () => {
      const dir = await resolve_model("org/name");
      hub.fault = () => ({ status, ...answer });
      hub.log = [];
      assert.equal(await resolve_model("org/name"), dir);
      // huggingface_hub does not try again either where it has something to go on with.
      assert.equal(hub.log.length, 1);
    });
  }

  test("a cached model loads without a network, and when a newer one cannot be had", async () => {
    const dir = await resolve_model("org/name");
    hub.commit = "b".repeat(40);
    hub.files["model.safetensors"] = randomBytes(1000);
    hub.fault = ({ path }) =>
      path.includes("/resolve/") ? { status: 403, headers: { "x-error-code": "GatedRepo" } } : undefined;
    assert.equal(await resolve_model("org/name"), dir);
    process.env.HF_ENDPOINT = "http://127.0.0.1:1";
    assert.equal(await resolve_model("org/name"), dir);
    // A cache that cannot be written: its folder of blobs is a file.
    Object.assign(process.env, { HF_ENDPOINT: hub.url });
    hub.fault = null;
    await rm(storage(), { recursive: true });
    await snapshot_of(Object.fromEntries(needed.map((name) => [name, files[name as keyof typeof files]])));
    await writeFile(join(storage(), "blobs"), "");
    assert.equal(await resolve_model("org/name"), dir);
    // But a branch that is gone is gone, as huggingface_hub has it.
    hub.fault = () => ({ status: 404, headers: { "x-error-code": "RevisionNotFound" } });
    await rejects(resolve_model("org/name"), "file_not_found", /no revision main/);
  });

  test("an endpoint with a path keeps it, and a relative cache folder makes links that hold", async () => {
    const seen: string[] = [];
    hub.fault = ({ path }) => {
      seen.push(path);
      const plain = path.replace("/mirror/hub/", "/");
      return plain === path ? undefined : { status: 307, headers: { location: plain } };
    };
    process.env.HF_ENDPOINT = `${hub.url}/mirror/hub/`;
    process.env.HF_HUB_CACHE = relative(process.cwd(), join(process.env.HF_HOME!, "hub"));
    const dir = await resolve_tokenizer("org/name");
    assert.ok(isAbsolute(dir));
    assert.deepEqual(await readFile(join(dir, "tokenizer.json")), files["tokenizer.json"]);
    assert.equal(seen.filter((path) => path.startsWith("/mirror/hub/")).length, seen.length / 2);
  });

  test("a commit is not looked up", async () => {
    await resolve_tokenizer(`org/name@${SHA}`);
    assert.ok(!hub.log.some(({ path }) => path.includes("/revision/")));
    assert.ok(!existsSync(join(storage(), "refs")));
  });

  test("a renamed repository is followed", async () => {
    hub.fault = ({ path }) =>
      path.includes("org/old")
        ? { status: 307, headers: { location: path.replace("org/old", "org/name") } }
        : undefined;
    assert.deepEqual((await readdir(await resolve_model("org/old"))).sort(), needed);
  });

  test("a long list comes in pages", async () => {
    const entry = (path: keyof typeof files) => ({
      type: "file",
      path,
      size: files[path].length,
      oid: git_hash(files[path]),
    });
    let page = 0;
    hub.fault = ({ path }) => {
      if (!path.includes("/tree/")) return undefined;
      const link = `<${hub.url}/api/models/org/name/tree/${SHA}?cursor=2>; rel="next"`;
      return page++ === 0
        ? { status: 200, headers: { link }, body: JSON.stringify([entry("config.json")]) }
        : { status: 200, body: JSON.stringify([entry("tokenizer.json")]) };
    };
    assert.deepEqual((await readdir(await resolve_tokenizer("org/name"))).sort(), ["config.json", "tokenizer.json"]);
  });

  test("a token goes to the hub and to nobody else", async () => {
    const cdn = new FakeHub();
    await cdn.start();
    cdn.fault = () => ({ status: 200, headers: {}, body: weights });
    hub.fault = ({ path }) =>
      path.endsWith("model.safetensors") ? { status: 302, headers: { location: `${cdn.url}/signed?x=1` } } : undefined;
    const sent = async () => {
      hub.log = [];
      await resolve_model("org/name");
      return new Set(hub.log.map(({ authorization }) => authorization));
    };
    process.env.HF_TOKEN = "hf_secret\n";
    assert.deepEqual(await sent(), new Set(["Bearer hf_secret"]));
    assert.deepEqual(
      cdn.log.map(({ authorization }) => authorization),
      [undefined],
    );
    cdn.stop();
    delete process.env.HF_TOKEN;
    assert.deepEqual(await sent(), new Set([undefined]));
    await writeFile(join(process.env.HF_HOME!, "token"), "hf_stored\n");
    assert.deepEqual(await sent(), new Set(["Bearer hf_stored"]));
    await writeFile(join(process.env.HF_HOME!, "elsewhere"), "hf_elsewhere");
    process.env.HF_TOKEN_PATH = "$HF_HOME/elsewhere";
    assert.deepEqual(await sent(), new Set(["Bearer hf_elsewhere"]));
    process.env.HUGGING_FACE_HUB_TOKEN = "hf_old";
    assert.deepEqual(await sent(), new Set(["Bearer hf_old"]));
    process.env.HF_HUB_DISABLE_IMPLICIT_TOKEN = "1";
    assert.deepEqual(await sent(), new Set([undefined]));
  });

  test("what the hub refuses is said with what to do", async () => {
    const refuses = (status: number, headers: Record<string, string>, code: string, mentions: RegExp) => {
      hub.fault = () => ({ status, headers });
      return rejects(resolve_model("org/name"), code, mentions);
    };
    await refuses(404, { "x-error-code": "RepoNotFound" }, "file_not_found", /check the name.*HF_TOKEN/);
    await refuses(401, {}, "file_not_found", /no directory here and nothing on the hub.*check the name.*HF_TOKEN/);
    await refuses(404, { "x-error-code": "RevisionNotFound" }, "file_not_found", /no revision main/);
    await refuses(
      403,
      { "x-error-code": "GatedRepo" },
      "file_unreadable",
      /gated.*terms on http:.*\/org\/name.*HF_TOKEN/,
    );
    await refuses(403, { "x-error-message": "Access to this resource is disabled." }, "file_unreadable", /disabled/);
    await refuses(403, { "x-error-message": "not for you" }, "file_unreadable", /not for you.*HF_TOKEN/);
    await refuses(429, { "retry-after": "3600" }, "offline", /429.*3600 s/);
    await refuses(429, { ratelimit: '"api";r=0;t=299' }, "offline", /299 s/);
    process.env.HF_TOKEN = "hf_secret";
    await refuses(
      401,
      { "x-error-message": "Invalid credentials in Authorization header" },
      "file_unreadable",
      /token in HF_TOKEN/,
    );
  });

  test("a name that might be a folder's is called both", async () => {
    hub.fault = () => ({ status: 404, headers: { "x-error-code": "RepoNotFound" } });
    await rejects(
      resolve_model("models/nanoo"),
      "file_not_found",
      /no directory here \(models holds .*nano.*\) and nothing on the hub/,
    );
    await rejects(resolve_model("nanoo"), "file_not_found", /no directory here and nothing on the hub/);
    await rejects(resolve_model("./models/nanoo"), "file_not_found", /directory .\/models\/nanoo does not exist/);
    for (const name of ["", "../x/y", "a/b/c", "http://x/y"])
      await rejects(resolve_model(name), "file_not_found", /hub id/);
    hub.log = [];
    await rejects(resolve_model("package.json"), "bad_option", /which is a file/);
    assert.deepEqual(hub.log, []);
  });

  test("who cannot reach the hub hears what is in the cache", async () => {
    process.env.HF_HUB_OFFLINE = "yes";
    await rejects(
      resolve_model("org/other"),
      "offline",
      /not in the cache.*offline mode, by HF_HUB_OFFLINE.*; unset that, or .*another machine/,
    );
    process.env.HF_HUB_OFFLINE = "0";
    hub.fault = () => ({ status: 200, headers: { "content-type": "text/html" }, body: "<html>sign in</html>" });
    await rejects(resolve_model("org/other"), "offline", /answers in text\/html.*HF_ENDPOINT/);
    assert.equal(hub.log.length, 1);
    hub.fault = () => "hang";
    process.env.HF_HUB_ETAG_TIMEOUT = "1";
    const signal = AbortSignal.timeout(2500);
    await rejects(resolve_model("org/other", { signal }), "aborted", /model org\/other that was stopped/);
  });

  test("a model that does not fit on the disk says how much it needs before it begins", async () => {
    hub.fault = ({ path }) => {
      if (!path.includes("/tree/")) return undefined;
      const file = { type: "file", path: "config.json", size: 2, oid: git_hash(files["config.json"]) };
      const lfs = { oid: "f".repeat(64), size: 8e15, pointerSize: 100 };
      const large = { type: "file", path: "model.safetensors", size: 8e15, oid: SHA, lfs };
      return { status: 200, body: JSON.stringify([file, large]) };
    };
    await rejects(
      resolve_model("org/name"),
      "disk_full",
      /needs 8000000.0 GB, and [\d.]+ [GM]B are free.*HF_HUB_CACHE/,
    );
    assert.deepEqual(hub.asked_of("model.safetensors"), []);
  });
});
