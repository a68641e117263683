/** kill -9 at random moments of convert and merge, alone and two at once: the next start finishes, nothing half-written counts, no part stays. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cp, mkdtemp, readdir, readFile, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { BimedixError } from "../../src/errors.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { convert } from "../../src/model/convert.js";
import { merge_adapter } from "../../src/model/merge.js";
import { open_store } from "../../src/model/store.js";
import { rejects, root } from "../fixtures.js";

const MOMENTS = 40;
const skip = process.env.BIMEDIX_FULL ? false : "slow; npm run test:full";
const fixtures = join(root, "test/fixtures/train");

/** mulberry32 */
function generator(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A process that says when it begins to write, as loading the program takes longer than that. */
function start(
  modules: string,
  work: string,
): { child: ChildProcess; begun: Promise<unknown>; ended: Promise<unknown> } {
  const { href } = new URL("../../src/model/", import.meta.url);
  const imports = [...modules.matchAll(/(\w+) of (\w+)/g)].map(
    ([, name, file]) => `const { ${name} } = await import("${href}${file}.js");`,
  );
  const script = `${imports.join("\n")}
    const begin = () => process.stdout.write("begun");
    await (${work});`;
  const child = spawn(process.execPath, ["--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  child.stderr!.on("data", (chunk) => (errors += chunk));
  const ended = once(child, "exit").then(([code]) => {
    // What was refused was refused in one line.
    if (code === 1) assert.match(errors, /BimedixError.*one writer at a time/s, errors);
  });
  return { child, begun: Promise.race([once(child.stdout!, "data"), ended]), ended };
}

/** By file, but for what a lock leaves. */
async function contents(dir: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const entry of await readdir(dir, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) found.set(join(entry.parentPath ?? entry.path, entry.name).slice(dir.length), await readFile(join(entry.parentPath ?? entry.path, entry.name), "latin1")); // biome-ignore format: one line
  return new Map([...found].filter(([name]) => !name.includes("verified")).sort());
}

interface Writer {
  name: string;
  dtype: "q8" | "fp32";
  modules: string;
  /** The source of what writes into `output`. */
  work: (output: string) => string;
  again: (output: string) => Promise<unknown>;
}

const [base, adapter] = [join(fixtures, "base"), join(fixtures, "peft4")];
const writers: Writer[] = [
  {
    name: "convert",
    dtype: "q8",
    modules: "open_checkpoint of checkpoint, convert of convert",
    work: (output) =>
      `begin(), convert(await open_checkpoint(${JSON.stringify(base)}), { dtype: "q8", output: ${JSON.stringify(output)} })`,
    again: async (output) => convert(await open_checkpoint(base), { dtype: "q8", output }),
  },
  {
    name: "merge",
    dtype: "fp32",
    modules: "merge_adapter of merge",
    work: (output) => `merge_adapter(...${JSON.stringify([base, adapter, output])}, { on_progress: begin })`,
    again: (output) => merge_adapter(base, adapter, output),
  },
];

/** How long the work takes after its beginning, and what it leaves. */
async function undisturbed(
  { modules, work }: Writer,
  output: string,
): Promise<{ takes: number; whole: Map<string, string> }> {
  const run = start(modules, work(output));
  await run.begun;
  const began = performance.now();
  await run.ended;
  return { takes: performance.now() - began, whole: await contents(output) };
}

describe("killed at random moments", { skip, concurrency: 4 }, () => {
  for (const writer of writers)
    for (const count of [1, 2])
      test(`${count === 1 ? "one" : "two at once"} that ${writer.name}`, async (t) => {
        const states = new Map<string, number>();
        const random = generator(writer.name.length * 10 + count);
        const folder = await mkdtemp(join(tmpdir(), "bimedix-kills-"));
        const { takes, whole } = await undisturbed(writer, join(folder, "whole"));
        const one = async (moment: number): Promise<string> => {
          const output = join(folder, String(moment));
          const delays = Array.from({ length: count }, () => random() * takes * 1.2);
          const runs = delays.map(() => start(writer.modules, writer.work(output)));
          await Promise.all(
            runs.map(async ({ child, begun, ended }, i) => {
              await begun;
              await wait(delays[i]!);
              child.kill("SIGKILL");
              await ended;
            }),
          );
          const left = await contents(output).catch(() => new Map<string, string>());
          // What is taken for a model is the whole one.
          const loads = await open_store(output, { dtype: writer.dtype }).then(
            () => true,
            (error: unknown) => assert.ok(error instanceof BimedixError, String(error)),
          );
          if (loads)
            for (const [name, text] of whole) assert.equal(left.get(name) === text, true, `${name} of ${output}`);
          // Long ago, so that the next start need not wait long for the lock of the dead.
          const old = new Date(Date.now() - 3e5);
          await utimes(join(output, ".bimedix.lock"), old, old).catch(() => {});
          await writer.again(output);
          const now = await contents(output);
          assert.deepEqual([...now.keys()], [...whole.keys()]);
          for (const [name, text] of whole) assert.equal(now.get(name) === text, true, `${name} of ${output}`);
          await rm(output, { recursive: true });
          return `${loads ? "whole" : left.size > 0 ? "refused" : "nothing there"}${[...left.keys()].some((name) => name.includes(".part")) ? " with parts" : ""}`;
        };
        for (let first = 0; first < MOMENTS; first += 4)
          for (const state of await Promise.all([0, 1, 2, 3].map((i) => one(first + i))))
            states.set(state, (states.get(state) ?? 0) + 1);
        t.diagnostic(`${Math.round(takes)} ms of work; after the kill: ${JSON.stringify(Object.fromEntries(states))}`);
        await rm(folder, { recursive: true });
      });

  test("and with their fill of one cache", async () => {
    const random = generator(7);
    const folder = await mkdtemp(join(tmpdir(), "bimedix-kills-"));
    const model = join(folder, "model");
    await cp(join(fixtures, "base"), model, { recursive: true });
    const work = `begin(), open_store(${JSON.stringify(model)}, { dtype: "q4" })`;
    const cached = async (cache: string) =>
      [...(await contents(cache))]
        .filter(([name]) => name.includes("onnx"))
        .map(([name, text]) => [basename(name), text]);
    const into = (cache: string) => `process.env.BIMEDIX_CACHE = ${JSON.stringify(cache)}, ${work}`;
    await start("open_store of store", into(join(folder, "whole"))).ended;
    const whole = await cached(join(folder, "whole"));
    assert.ok(whole.length > 0);
    for (let moment = 0; moment < MOMENTS; moment += 4)
      await Promise.all(
        [0, 1, 2, 3].map(async (i) => {
          const cache = join(folder, String(moment + i));
          const [killed, other] = [
            start("open_store of store", into(cache)),
            start("open_store of store", into(cache)),
          ];
          await killed.begun;
          await wait(random() * 400);
          killed.child.kill("SIGKILL");
          await Promise.all([killed.ended, other.ended]);
          assert.equal(other.child.exitCode, 0);
          assert.ok(isDeepStrictEqual(await cached(cache), whole));
          const names = await readdir(cache, { recursive: true });
          assert.ok(!names.some((name) => /\.part$|\.lock/.test(name)), names.join());
        }),
      );
    await rm(folder, { recursive: true });
  });
});

test("a folder without config.json is no model", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  await cp(join(fixtures, "base"), dir, { recursive: true });
  await rm(join(dir, "config.json"));
  await rejects(open_store(dir, { dtype: "fp32" }), "file_not_found", /config\.json/);
});
