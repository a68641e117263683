/** kill -9 at random moments of a download, and of two into one cache: the next start has the whole, and nothing else is left. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { root } from "../fixtures.js";
import { seeded } from "../fuzz/mutate.js";
import { FakeHub, SHA } from "./fake_hub.js";

const full = process.env.BIMEDIX_FULL !== undefined;
const files = {
  "config.json": Buffer.from("{}"),
  "tokenizer.json": Buffer.from('{"a": 1}'),
  "model.safetensors": randomBytes(600_000),
};
const hub = new FakeHub();
before(async () => {
  await hub.start();
  hub.reset(files);
  hub.slow = 15;
});
after(() => hub.stop());

const url = pathToFileURL(join(root, "dist/src/model/hub.js")).href;
const code = `import { resolve_model } from ${JSON.stringify(url)};
await resolve_model("org/name").then(() => console.log("whole"), (error) => console.log(error.code ?? error.stack));`;

function start(cache: string, env: Record<string, string> = {}): ChildProcess {
  const own = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "", ...env };
  return spawn(process.execPath, ["--input-type=module", "-e", code], {
    env: { ...process.env, ...own },
    stdio: ["ignore", "pipe", "inherit"],
  });
}

async function said(child: ChildProcess): Promise<string> {
  let text = "";
  child.stdout!.on("data", (chunk: Buffer) => {
    text += chunk.toString();
  });
  await new Promise((resolve) => child.once("close", resolve));
  return text.trim();
}

async function is_whole(cache: string): Promise<boolean> {
  const snapshot = join(cache, "models--org--name/snapshots", SHA);
  const same = Object.entries(files).map(
    async ([name, bytes]) => existsSync(join(snapshot, name)) && (await readFile(join(snapshot, name))).equals(bytes),
  );
  return (await Promise.all(same)).every(Boolean);
}

async function kill(at_once: number, random: () => number): Promise<void> {
  const cache = await mkdtemp(join(tmpdir(), "bimedix-hub-kill-"));
  const moments = Array.from({ length: at_once }, () => 150 + 900 * random());
  await Promise.all(
    moments.map(async (moment) => {
      const child = start(cache);
      const timer = setTimeout(() => child.kill("SIGKILL"), moment);
      await said(child);
      clearTimeout(timer);
    }),
  );
  const offline = await said(start(cache, { HF_HUB_OFFLINE: "1" }));
  // Weights come last: what counts as usable is whole.
  assert.ok(offline === "offline" || (offline === "whole" && (await is_whole(cache))), offline);
  assert.equal(await said(start(cache)), "whole");
  assert.ok(await is_whole(cache));
  const left = (await readdir(cache, { recursive: true })).filter((name) => /part|lock|link|incomplete/.test(name));
  assert.deepEqual(left, []);
  await rm(cache, { recursive: true });
}

for (const at_once of [1, 2])
  test(`${at_once} at once, killed`, { skip: full ? false : "slow; npm run test:full" }, async () => {
    const random = seeded(at_once);
    // Who finds a killed owner's lock waits ten seconds for it: several caches at a time.
    for (let i = 0; i < 40; i += 8) await Promise.all(Array.from({ length: 8 }, () => kill(at_once, random)));
  });
