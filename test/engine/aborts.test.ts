/**
 * Stopping at random moments, in one process many times and in children that end themselves: none dies of a signal that nobody sent,
 * as a process does whose thread is ended in a native call. `npm run test:full` does it a thousand times.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, writeFile } from "node:fs/promises";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { generation_options } from "../../src/engine/generation_options.js";
import { Assistant, BimedixError } from "../../src/index.js";
import { rejects, root } from "../fixtures.js";
import { pick, type Random, seeded } from "../fuzz/mutate.js";

const full = process.env.BIMEDIX_FULL !== undefined;
const SLOW = "slow; npm run test:full";
const nano = join(root, "models/nano");

/** Runs a program of this runtime to its end, or to a signal after some milliseconds. */
async function run(
  args: readonly string[],
  stop?: { signal: NodeJS.Signals; after: number },
): Promise<{
  status: number;
  text: string;
}> {
  const child = spawn(process.execPath, [...RUN, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  let text = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
  const timer = stop && setTimeout(() => child.kill(stop.signal), stop.after);
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.once("close", (...both) => resolve(both)),
  );
  clearTimeout(timer);
  return { status: signal ? 128 + constants.signals[signal] : code!, text };
}

/** Deno runs no file without being told that it may. */
const RUN = "Deno" in globalThis ? ["run", "-A"] : [];
const program = join(root, "dist/test/engine/aborting.js");

describe("the engine, stopped at random moments", () => {
  for (const [isolation, times] of [
    ["thread", full ? 1000 : 10],
    ["process", full ? 200 : 3],
  ] as const)
    test(`${times} times in one process, in a ${isolation}`, async () => {
      const { status, text } = await run([program, "loop", isolation, "1", String(times)]);
      assert.equal(status, 0, text);
      assert.match(text, new RegExp(`stopped ${times}\n`));
    });

  // What the program itself ends with, and nothing else.
  const ends = { exit: 7, throw: 1, end: 0, "worker-exit": 0, "worker-throw": 0, "worker-terminate": 0 };
  for (const [way, status] of Object.entries(ends))
    test(`by a program that ends by ${way}`, { skip: full || /exit|terminate/.test(way) ? false : SLOW }, async () => {
      for (const [isolation, seeds] of [
        ["thread", full ? [2, 3, 4, 5, 6] : [2]],
        ["process", full ? [2, 3, 4, 5, 6] : way === "exit" ? [2] : []],
      ] as const)
        for (const seed of seeds) {
          const { status: found, text } = await run([program, way, isolation, String(seed)]);
          assert.equal(found, status, `${way} ${isolation} ${seed}: ${text}`);
          assert.doesNotMatch(text, /terminate called|FATAL|core dumped/);
        }
    });

  test("by Ctrl-C or SIGTERM of the command line", async () => {
    const main = join(root, "dist/src/cli/main.js");
    const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
    const row = JSON.stringify({ question: "Which organ pumps blood?", options: ["heart", "liver"], answer: 0 });
    await writeFile(join(folder, "questions.jsonl"), `${row}\n`.repeat(400));
    const verbs = [
      ["chat", "Tell me about the heart", "--max-new-tokens", "900"],
      ["generate", "The heart", "--max-new-tokens", "900"],
      ["mcqa", "--question", "Which organ pumps blood?", "--options", "heart", "liver"],
      ["serve", "--port", "0"],
      ["eval", "--tasks", join(folder, "questions.jsonl"), "--output", folder],
    ];
    const random: Random = seeded(2);
    for (let i = 0; i < (full ? 40 : 5); i++) {
      const verb = verbs[i % verbs.length]!;
      const signal = pick(random, ["SIGINT", "SIGTERM"] as const);
      const after = 100 + 900 * random();
      const { status, text } = await run([main, ...verb, "--model", nano], { signal, after });
      const expected = [0, 128 + constants.signals[signal]];
      assert.ok(expected.includes(status), `${verb[0]} ${signal} after ${after} ms: ${status} ${text}`);
    }
  });
});

test("dispose is one promise, however often it is called", async () => {
  const assistant = await Assistant.from_pretrained(nano, { threads: 1 });
  const first = assistant.dispose();
  assert.equal(assistant.dispose(), first);
  assert.equal(assistant.model.dispose(), first);
  assert.equal(assistant.model.engine.dispose(), first);
  await first;
});

test("numbers at their extremes, functions and other values that no option has: one error, or a sane answer", async () => {
  const assistant = await Assistant.from_pretrained(nano, { threads: 1 });
  const { model } = assistant;
  const { vocab_size } = model.config;
  const values = [-1, 0.5, 1e-300, 1e308, -1e308, Infinity, NaN, 2 ** 53, "1", {}, () => 1, Symbol("x"), 10n];
  const names = Object.keys({ ...generation_options.options, unknown: 0 });
  const input_ids = [[1, 2, 3]];
  const requests = [{ context: [1], continuation: [2, 3] }];
  for (const value of values) {
    const calls: [string, () => Promise<unknown>][] = [
      ...names.map((name): [string, () => Promise<unknown>] => [
        name,
        async () => {
          const [ids] = await model.generate({ input_ids, max_new_tokens: 2, do_sample: true, [name]: value } as never);
          assert.ok(ids.every((id) => Number.isInteger(id) && id >= 0 && id < vocab_size));
        },
      ]),
      ["score top_logprobs", () => model.engine.score(requests, { top_logprobs: value } as never)],
      ["score prefix", () => model.engine.score(requests, { prefix: value } as never)],
      ["score signal", () => model.engine.score(requests, { signal: value } as never)],
      ["score a token", () => model.engine.score([{ context: [1], continuation: [2, value] }] as never)],
      ["forward", () => model.forward({ input_ids, output_logits: value } as never)],
      ["forward a token", () => model.forward({ input_ids: [[value]] } as never)],
      ["language", () => assistant.mcqa({ question: "x", options: ["a", "b"], language: value } as never)],
    ];
    for (const [name, call] of calls)
      await call().catch((error: unknown) => {
        assert.ok(error instanceof BimedixError, `${name} ${String(value)}: ${String(error)}`);
      });
  }
  await rejects(Assistant.from_pretrained(nano, { threads: 1e6 }), "bad_option", /threads 1000000.*from 1 to 1024/);
  await rejects(model.engine.score(requests, { top_logprobs: -1 }), "bad_option", /top_logprobs -1.*from 0/);
  const forward = (options: object) => model.forward({ input_ids, ...options });
  await rejects(forward({ adapter: () => 1 }), "bad_option", /cannot be given to another thread/);
  await rejects(model.generate({ input_ids, repetition_penalty: 1e-300 }), "bad_option", /from 0\.000001 to 1000000/);
  await rejects(model.generate({ input_ids, logit_bias: { 5: 1e308 } }), "bad_option", /up to 1000000/);
  await assistant.dispose();
});
