/** What a hub may answer: lists and revisions of other shapes, heads that lie, files with other bytes. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { resolve_model } from "../../src/model/hub.js";
import { type Answer, type Asked, FakeHub, git_hash, SHA, sha256 } from "../model/fake_hub.js";
import { fuzz } from "./harness.js";
import { mutate_bytes, mutate_json, pick, type Random } from "./mutate.js";

const files: Record<string, Buffer> = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"a": 1}'),
  "model.safetensors.index.json": Buffer.from(JSON.stringify({ weight_map: { a: "model-1.safetensors" } })),
  "model-1.safetensors": Buffer.from("weights 1"),
};
const entries = Object.entries(files).map(([path, bytes]) => {
  const lfs = path.endsWith(".safetensors") ? { lfs: { oid: sha256(bytes), size: bytes.length } } : {};
  return { type: "file", path, size: bytes.length, oid: git_hash(bytes), ...lfs };
});
const revision = { id: "org/name", sha: SHA };

const hub = new FakeHub();
await hub.start();
const home = await mkdtemp(join(tmpdir(), "bimedix-fuzz-hub-"));
after(async () => {
  hub.stop();
  await rm(home, { recursive: true });
});

type Fault = (asked: Asked, response: ServerResponse) => Answer | undefined;
const at =
  (part: string, answer: Answer): Fault =>
  ({ path }) =>
    path.includes(part) ? answer : undefined;

/** One answer of the hub that is damaged, and how. */
function damaged(random: Random): { fault: Fault; detail: string } {
  const kind = random();
  if (kind < 0.55) {
    const { value, detail } = mutate_json(entries, random);
    return { fault: at("/tree/", { status: 200, body: JSON.stringify(value) ?? "" }), detail: `list: ${detail}` };
  }
  if (kind < 0.65) {
    const { value, detail } = mutate_json(revision, random);
    return { fault: at("/revision/", { status: 200, body: JSON.stringify(value) ?? "" }), detail: `sha: ${detail}` };
  }
  if (kind < 0.75) {
    const { value, detail } = mutate_bytes(Buffer.from(JSON.stringify(entries)), random);
    return { fault: at("/tree/", { status: 200, body: Buffer.from(value) }), detail: `list: ${detail}` };
  }
  if (kind < 0.9) {
    const file = pick(random, Object.keys(files));
    const { value, detail } = mutate_bytes(files[file]!, random);
    return { fault: at(`/${file}`, { status: 200, body: Buffer.from(value) }), detail: `${file}: ${detail}` };
  }
  const headers = {
    link: pick(random, ['<>; rel="next"', '<?p=1>; rel="next"', '<file:///etc>; rel="next"', "<", '</x>; rel="next"']),
    location: pick(random, ["", "/x", "http://[", "data:,x", "//"]),
    "retry-after": pick(random, ["3600", "-1", "1e9", "x"]),
    "x-error-code": pick(random, ["RepoNotFound", "GatedRepo", "RevisionNotFound", "EntryNotFound", "\u00e9"]),
    "x-error-message": pick(random, ["", "x".repeat(4000), "Access to this resource is disabled."]),
  };
  const status = pick(random, [200, 204, 301, 302, 401, 403, 404, 410]);
  const part = pick(random, ["/tree/", "/revision/", "/resolve/"]);
  return { fault: at(part, { status, headers }), detail: `${part} ${status} ${JSON.stringify(headers)}` };
}

/** Whatever was said, nothing lies outside the cache, and what lies in a snapshot has the bytes that it was listed with. */
async function check_cache(): Promise<void> {
  assert.deepEqual(
    (await readdir(home)).filter((name) => name !== "hub"),
    [],
  );
  const storage = join(home, "hub/models--org--name");
  if (!existsSync(storage)) return;
  const blobs = join(storage, "blobs");
  for (const name of existsSync(blobs) ? await readdir(blobs) : []) {
    if (/\.part$/.test(name)) continue;
    const bytes = await readFile(join(blobs, name));
    assert.ok([sha256(bytes), git_hash(bytes)].includes(name), `blob ${name}`);
  }
}

process.env.HF_HOME = home;
process.env.HF_HUB_CACHE = join(home, "hub");
process.env.HF_ENDPOINT = hub.url;
for (const name of Object.keys(process.env))
  if (/^(HF_.*(TOKEN|OFFLINE)|TRANSFORMERS|.*_PROXY)/i.test(name)) delete process.env[name];

fuzz({
  name: "answers of the hub",
  few: 25,
  harmless: [
    [/^other snapshot/, "a list may hold more files, fewer, or others: each has the bytes that it was listed with"],
  ],
  make: async () => (random) => {
    const { fault, detail } = damaged(random);
    return {
      detail,
      work: async () => {
        await rm(join(home, "hub"), { recursive: true, force: true });
        hub.reset(files);
        hub.fault = fault;
        try {
          const dir = await resolve_model("org/name");
          const names = await readdir(dir);
          const same = await Promise.all(
            Object.entries(files).map(async ([name, bytes]) => (await readFile(join(dir, name))).equals(bytes)),
          ).catch(() => [false]);
          return names.length === entries.length && same.every(Boolean) ? "same" : "other snapshot";
        } finally {
          await check_cache();
        }
      },
    };
  },
});
