/** Sequences that join and leave between two runs of the model. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { GenerateOptions } from "../../src/engine/engine.js";
import { LocalEngine } from "../../src/engine/local.js";
import { Runner } from "../../src/engine/runner.js";
import { of_like_length, Scheduler, Sequence } from "../../src/engine/scheduler.js";
import { open_store } from "../../src/model/store.js";
import { twins } from "../fixtures.js";

const dir = join(twins, "mixtral-4-experts-bf16");
const prompt_of = (seed: number, length: number) =>
  Array.from({ length }, (_, i) => 3 + ((seed * 31 + i * i * 7) % 90));
const system = prompt_of(99, 30);
/** Prompts of many lengths, some with a beginning in common. */
const prompts = Array.from({ length: 12 }, (_, i) => [...(i % 2 ? system : []), ...prompt_of(i, 1 + ((i * 17) % 45))]);
const options = { max_new_tokens: 20, eos_token_id: null } satisfies GenerateOptions;

async function tokens_of(engine: LocalEngine, prompt: number[], more: GenerateOptions = {}): Promise<number[]> {
  const out: number[] = [];
  for await (const { token_id } of engine.generate([prompt], { ...options, ...more })) out.push(token_id);
  return out;
}

describe("sequences beside each other", () => {
  let engine: LocalEngine;
  let alone: number[][];
  before(async () => {
    engine = await LocalEngine.create(await open_store(dir, { dtype: "fp32" }), {
      threads: 1,
      chunk_tokens: 16,
      max_sequences: 5,
    });
    alone = [];
    for (const prompt of prompts) alone.push(await tokens_of(engine, prompt));
  });
  after(() => engine.dispose());

  test("each has the tokens of a run of its own, however many there are", async () => {
    assert.deepEqual(await Promise.all(prompts.map((prompt) => tokens_of(engine, prompt))), alone);
  });

  test("joining late and leaving early changes nobody's tokens", async () => {
    const left: number[] = [];
    const early = async (prompt: number[], count: number) => {
      for await (const { token_id } of engine.generate([prompt], options)) {
        left.push(token_id);
        if (--count === 0) return;
      }
    };
    const late = async (i: number) => {
      for (let turn = 0; turn < i * 3; turn++) await new Promise((resume) => setImmediate(resume));
      return tokens_of(engine, prompts[i]!);
    };
    const controller = new AbortController();
    const stopped = tokens_of(engine, prompts[3]!, { signal: controller.signal }).then(
      () => "ended",
      () => "aborted",
    );
    setTimeout(() => controller.abort(), 5);
    const results = await Promise.all([...prompts.keys()].map(late).concat([early(prompts[0]!, 4).then(() => [])]));
    assert.deepEqual(results.slice(0, prompts.length), alone);
    assert.deepEqual(left, alone[0]!.slice(0, 4));
    assert.ok(["aborted", "ended"].includes(await stopped));
  });

  test("a seed gives the same sample beside others", async () => {
    const seeds = [1, 2, 3].map((seed) => ({ do_sample: true, temperature: 3, seed }));
    const solo: number[][] = [];
    for (const more of seeds) solo.push(await tokens_of(engine, prompts[5]!, more));
    assert.deepEqual(await Promise.all(seeds.map((more) => tokens_of(engine, prompts[5]!, more))), solo);
    assert.notDeepEqual(solo[0], solo[1]);
  });

  test("log-probabilities are those of forward", async () => {
    const [prompt] = [prompts[7]!];
    const { logits } = await engine.forward([prompt]);
    const row = logits[0]!.subarray(logits[0]!.length - 96);
    for await (const { token_id, logprob, top } of engine.generate([prompt], {
      ...options,
      max_new_tokens: 1,
      top_logprobs: 3,
      temperature: 5,
      repetition_penalty: 2,
      do_sample: true,
    })) {
      const total = Math.log(row.reduce((sum, value) => sum + Math.exp(value), 0));
      assert.ok(Math.abs(logprob! - (row[token_id]! - total)) < 1e-4);
      const best = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 3);
      assert.deepEqual(
        top!.map((one) => one.token_id),
        best,
      );
      for (const one of top!) assert.ok(Math.abs(one.logprob - (row[one.token_id]! - total)) < 1e-4);
    }
  });
});

test("a long sequence is not computed beside short ones, which would all be computed as if they were as long", () => {
  const slots = [10, 4000, 0, 300, 1500, 2600, 60].map((slot) => ({ slot }));
  const groups = of_like_length(slots, { position_of: (slot) => slot });
  assert.deepEqual(
    groups.map((group) => group.map(({ slot }) => slot)),
    [[0, 10, 60, 300], [1500, 2600], [4000]],
  );
});

test("a short prompt does not wait for the end of a long one, nor a long one for ever", async () => {
  const engine = await LocalEngine.create(await open_store(dir, { dtype: "fp32" }), { threads: 1, chunk_tokens: 4 });
  const ends: string[] = [];
  const one = async (name: string, prompt: number[]) => {
    await tokens_of(engine, prompt, { max_new_tokens: 1 });
    ends.push(name);
  };
  const long = one("long", prompt_of(1, 60));
  const short = Array.from({ length: 12 }, (_, i) => one("short", prompt_of(50 + i, 10)));
  await Promise.all([long, ...short]);
  assert.equal(ends[0], "short");
  // Half of the steps are the oldest's.
  assert.ok(ends.indexOf("long") < 12, ends.join(" "));
  await engine.dispose();
});

test("a beginning in common is computed once, and what ends is forgotten", async () => {
  const runner = await Runner.create(await open_store(dir, { dtype: "fp32" }), { threads: 1 });
  const cache = runner.cache("generation");
  const computed: number[] = [];
  const run = runner.run.bind(runner);
  runner.run = async (...args) => {
    computed.push(args[1].flat().length);
    return run(...args);
  };
  const scheduler = new Scheduler(runner, 8);
  const ends: unknown[] = [];
  const add = (prompt: number[], max_new_tokens: number) => {
    const end = (error?: unknown) => ends.push(error ?? "end");
    const one = new Sequence(prompt, 0, { max_new_tokens, eos_token_id: null }, cache, undefined, () => {}, end);
    scheduler.add(one);
    return one;
  };
  for (let i = 0; i < 4; i++) add([...system, 3 + i], 2);
  assert.deepEqual(scheduler.state, { running: 0, waiting: 4 });
  await scheduler.idle();
  // The first reads the beginning; in the next run it writes its second token while the others read their last.
  assert.deepEqual(computed, [31, 4, 3]);
  assert.deepEqual(ends, ["end", "end", "end", "end"]);
  assert.deepEqual(scheduler.state, { running: 0, waiting: 0 });

  const long = add(prompt_of(1, 40), 30);
  const short = add(prompt_of(2, 20), 3);
  while (ends.length < 5) await new Promise((resume) => setImmediate(resume));
  await new Promise((resume) => setImmediate(resume));
  await new Promise((resume) => setImmediate(resume));
  assert.ok(short.left === 0 && long.left > 0);
  const written = 30 - long.left;
  assert.ok(cache.pool.size <= 40 + written + 1, `${cache.pool.size} slots for a sequence of ${40 + written}`);
  scheduler.remove(long);
  await scheduler.idle();
  assert.equal(ends.length, 5);
  await runner.release();
});
