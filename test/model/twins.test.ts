/** The decoder beside transformers, on random tiny models in every layout (tools/make_twins.py). */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Engine } from "../../src/engine/engine.js";
import { LocalEngine } from "../../src/engine/local.js";
import type { LocalOptions } from "../../src/engine/runner.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import type { Dtype } from "../../src/model/convert.js";
import { block_size_for, dequantize, quantize } from "../../src/model/quantize.js";
import { read_floats, write_safetensors } from "../../src/model/safetensors.js";
import { open_store } from "../../src/model/store.js";
import { max_difference, read_arrays, twins } from "../fixtures.js";

const TOLERANCE = 1e-4;

interface Sequence {
  input_ids: number[];
  logits: number[];
  greedy: number[];
  router_choice?: number[];
  router_probabilities?: number[];
}

async function reference(name: string): Promise<Sequence[]> {
  const arrays = await read_arrays(join(twins, name, "reference.safetensors"));
  return [0, 1, 2].map((n) => {
    const entries = [...arrays]
      .filter(([key]) => key.startsWith(`${n}.`))
      .map(([key, { data }]) => [key.slice(2), data]);
    return Object.fromEntries(entries) as Sequence;
  });
}

async function load(dir: string, dtype: Dtype, options: LocalOptions = {}): Promise<LocalEngine> {
  return LocalEngine.create(await open_store(dir, { dtype }), { threads: 2, ...options });
}

async function greedy(engine: Engine, prompts: number[][], max_new_tokens = 16): Promise<number[][]> {
  const out: number[][] = prompts.map(() => []);
  for await (const { sequence, token_id } of engine.generate(prompts, { max_new_tokens, eos_token_id: null })) {
    out[sequence]!.push(token_id);
  }
  return out;
}

for (const name of readdirSync(twins)) {
  describe(name, async () => {
    const sequences = await reference(name);
    const prompts = sequences.map(({ input_ids }) => input_ids);

    test("logits, router and greedy continuations equal transformers'", async () => {
      const engine = await load(join(twins, name), "fp32");
      const { logits, router_logits } = await engine.forward(prompts);
      for (const [n, sequence] of sequences.entries()) {
        assert.ok(max_difference(logits[n]!, sequence.logits) <= TOLERANCE);
        if (!sequence.router_choice) continue;
        const experts = router_logits![n]!.length / (sequence.router_choice.length / 2);
        const chosen: number[] = [];
        const probabilities: number[] = [];
        for (let at = 0; at < router_logits![n]!.length; at += experts) {
          const row = [...router_logits![n]!.subarray(at, at + experts)];
          const total = row.reduce((sum, logit) => sum + Math.exp(logit), 0);
          probabilities.push(...row.map((logit) => Math.exp(logit) / total));
          chosen.push(...[...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 2));
        }
        assert.deepEqual(chosen, sequence.router_choice);
        assert.ok(max_difference(probabilities, sequence.router_probabilities!) <= TOLERANCE);
      }
      assert.deepEqual(
        await greedy(engine, prompts),
        sequences.map((sequence) => sequence.greedy),
        "as a batch",
      );
      for (const [n, sequence] of sequences.entries()) {
        assert.deepEqual(await greedy(engine, [prompts[n]!]), [sequence.greedy], "alone");
      }
      await engine.dispose();
    });

    test("any chunking, and a cached beginning, give the same logits", async () => {
      const whole = sequences[0]!;
      const vocab = whole.logits.length / whole.input_ids.length;
      for (const chunk_tokens of [1, 5, 23]) {
        const engine = await load(join(twins, name), "fp32", { chunk_tokens });
        const { logits } = await engine.forward([whole.input_ids]);
        assert.ok(max_difference(logits[0]!, whole.logits) <= TOLERANCE, `chunks of ${chunk_tokens}`);
        // The second score finds all but the last token in the cache.
        const request = { context: whole.input_ids.slice(0, 20), continuation: whole.input_ids.slice(20) };
        const [first] = await engine.score([request]);
        const [again] = await engine.score([request]);
        let expected = 0;
        for (let at = 19; at < 23; at++) {
          const row = whole.logits.slice(at * vocab, (at + 1) * vocab);
          const max = Math.max(...row);
          expected +=
            row[whole.input_ids[at + 1]!]! - max - Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
        }
        assert.ok(Math.abs(first!.logprob - expected) <= TOLERANCE);
        assert.ok(Math.abs(again!.logprob - expected) <= TOLERANCE);
        await engine.dispose();
      }
    });

    for (const dtype of ["q8", "q4"] as const) {
      test(`${dtype} equals the same computation on its dequantised weights`, async () => {
        const dequantized = join(process.env.BIMEDIX_CACHE!, `${name}-${dtype}-dequantized`);
        await write_dequantized(name, dequantized, dtype);
        const expected = await load(dequantized, "fp32");
        const engine = await load(join(twins, name), dtype, { accuracy_level: 0 });
        const [a, b] = [await expected.forward(prompts), await engine.forward(prompts)];
        for (const [n, logits] of a.logits.entries()) {
          const scale = Math.max(...logits.map(Math.abs));
          assert.ok(max_difference(logits, b.logits[n]!) <= 1e-3 * scale);
        }
        await Promise.all([expected.dispose(), engine.dispose()]);
      });
    }
  });
}

/** The twin with every matrix replaced by what its codes stand for. */
async function write_dequantized(name: string, out: string, dtype: "q8" | "q4"): Promise<void> {
  const { tensors, dir } = await open_checkpoint(join(twins, name));
  await mkdir(out, { recursive: true });
  await cp(join(dir, "config.json"), join(out, "config.json"));
  const { open } = await import("node:fs/promises");
  const written = [];
  for (const tensor of tensors.values()) {
    const handle = await open(tensor.file);
    let data = await read_floats(
      handle,
      tensor,
      0,
      tensor.shape.reduce((product, dim) => product * dim, 1),
    );
    await handle.close();
    if (tensor.shape.length === 2 && !tensor.name.endsWith("block_sparse_moe.gate.weight")) {
      const bits = dtype === "q8" || tensor.name === "model.embed_tokens.weight" ? 8 : 4;
      const block = block_size_for(tensor.shape[1]!)!;
      data = dequantize(quantize(data, bits, block), bits, block);
    }
    written.push({ name: tensor.name, shape: tensor.shape, data });
  }
  await write_safetensors(join(out, "model.safetensors"), written);
}
