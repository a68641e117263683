/** The cache: slots that are given, forgotten and given again, and what a sequence sees of them. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { Pool, ROOT } from "../../src/engine/pool.js";
import { chain, Runner } from "../../src/engine/runner.js";
import { open_store } from "../../src/model/store.js";
import { max_difference, root } from "../fixtures.js";

const shape = { dtype: "float32", layers: 2, kv_heads: 2, head_dim: 3 } as const;

/** What a token's rows hold in this test: a number that its whole beginning decides. */
const mark = (path: readonly number[]) => path.reduce((hash, token) => (hash * 31 + token) % 9973, 7);

test("whatever is added, forgotten and moved, a path leads to its own rows", () => {
  const pool = new Pool(shape);
  const { layers, kv_heads, head_dim } = shape;
  let state = 1;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  const text = (seed: number) =>
    Array.from({ length: 5 + ((seed * 37) % 400) }, (_, i) => (i < 5 ? 1 : seed + (i % 3)));
  /** Computes what is not there yet; returns the last slot. */
  const read = (tokens: readonly number[]): number => {
    const path = pool.match(tokens);
    const slots: number[] = [];
    for (let i = path.length; i < tokens.length; i++)
      slots.push(pool.add(slots.at(-1) ?? path.at(-1) ?? ROOT, tokens[i]!));
    if (slots.length > 0) {
      const present = new Float32Array(layers * 2 * kv_heads * slots.length * head_dim);
      for (let i = 0; i < present.length; i++) {
        const row = Math.floor(i / head_dim) % slots.length;
        present[i] = mark(tokens.slice(0, path.length + row + 1));
      }
      pool.store(present, slots);
    }
    return slots.at(-1) ?? path.at(-1)!;
  };
  const check = (tokens: readonly number[]) => {
    const path = pool.match(tokens);
    if (path.length > 0) assert.deepEqual(pool.path_to(path.at(-1)!), path);
    for (const [i, slot] of path.entries()) {
      assert.equal(pool.position_of(slot), i);
      const expected = mark(tokens.slice(0, i + 1));
      for (const { key, value } of pool.tensors)
        for (const tensor of [key, value])
          for (let head = 0; head < kv_heads; head++)
            assert.equal(tensor[(head * pool.capacity + slot) * head_dim + head_dim - 1], expected);
    }
    return path.length;
  };
  let forgotten = 0;
  for (let round = 0; round < 60; round++) {
    const pinned = [random(20), random(20)].map(text);
    const slots = pinned.map(read);
    pool.trim(slots, random(600));
    for (const tokens of pinned) assert.equal(check(tokens), tokens.length);
    for (let seed = 0; seed < 20; seed++) if (check(text(seed)) < text(seed).length) forgotten++;
    assert.ok(pool.size <= pool.capacity);
  }
  assert.ok(forgotten > 0);
  pool.clear();
  assert.deepEqual([pool.size, pool.capacity], [0, 0]);
});

test("the least recently used go first, and nothing that another stands on", () => {
  const pool = new Pool(shape);
  const read = (tokens: readonly number[]) => {
    let at = pool.match(tokens).at(-1) ?? ROOT;
    for (const token of tokens.slice(pool.match(tokens).length)) at = pool.add(at, token);
  };
  read([1, 2, 3]);
  read([1, 4, 5]);
  pool.match([1, 2, 3]);
  pool.trim([], 3);
  assert.deepEqual([pool.match([1, 2, 3]).length, pool.match([1, 4]).length], [3, 1]);
});

test("a sequence gets the same logits whether it is the whole cache, a part of it or computed at once", async () => {
  const length = 300;
  const tokens = Array.from({ length }, (_, i) => 300 + ((i * i * 7) % 4000));
  const store = await open_store(join(root, "models/nano"), { dtype: "fp32" });
  const last = async (chunk_tokens: number, before: number[]) => {
    const runner = await Runner.create(store, { threads: 1, chunk_tokens });
    const { session } = runner as unknown as {
      session: { run: (feeds: Record<string, { data: Uint8Array }>) => unknown };
    };
    const run = session.run.bind(session);
    const whole = new Set<number>();
    session.run = (feeds) => {
      whole.add(feeds.past_is_whole!.data[0]!);
      return run(feeds);
    };
    const cache = runner.cache("scoring");
    if (before.length > 0) await runner.grow(cache, chain(before), [], { signal: undefined });
    let logits = new Float32Array();
    await runner.grow(cache, chain(tokens), [], {
      wanted: (node) => node === length - 1,
      on_logits: (row) => {
        logits = row.slice();
      },
      signal: undefined,
    });
    await runner.release();
    return { logits, whole: [...whole].sort() };
  };
  const at_once = await last(512, []);
  const alone = await last(40, []);
  const beside = await last(40, [5, 6, 7]);
  assert.deepEqual([at_once.whole, alone.whole, beside.whole], [[1], [0, 1], [0, 1]]);
  assert.ok(max_difference(alone.logits, at_once.logits) < 1e-4);
  assert.ok(max_difference(beside.logits, at_once.logits) < 1e-4);
});
