/** The graph that `convert` writes, run by its file as Transformers.js would, beside the engine. */
import assert from "node:assert/strict";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import "../../src/graph/telemetry.js";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { convert, dtypes } from "../../src/model/convert.js";
import { max_difference, read_arrays, twins } from "../fixtures.js";

const int64 = (values: number[]) => new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);

for (const name of ["mixtral-4-experts-tied", "mistral-window"]) {
  for (const dtype of dtypes) {
    test(`${name} ${dtype}: a pass with a cache equals a pass without, and fp32 equals transformers`, async () => {
      const output = await mkdtemp(join(tmpdir(), "bimedix-"));
      const checkpoint = await open_checkpoint(join(twins, name));
      const session = await InferenceSession.create(await convert(checkpoint, { dtype, output }));
      const { num_hidden_layers: layers, num_key_value_heads: heads, head_dim } = checkpoint.config;
      const reference = await read_arrays(join(twins, name, "reference.safetensors"));
      const ids = reference.get("0.input_ids")!.data;

      const run = async (from: number, to: number, past: Record<string, Tensor>) => {
        const empty = new Tensor("float32", new Float32Array(0), [1, heads, 0, head_dim]);
        const feeds: Record<string, Tensor> = {
          input_ids: int64(ids.slice(from, to)),
          attention_mask: int64(Array(to).fill(1)),
          position_ids: int64(Array.from({ length: to - from }, (_, i) => from + i)),
        };
        for (let n = 0; n < layers; n++) {
          for (const kind of ["key", "value"])
            feeds[`past_key_values.${n}.${kind}`] = past[`present.${n}.${kind}`] ?? empty;
        }
        return session.run(feeds);
      };
      const whole = await run(0, ids.length, {});
      const first = await run(0, 15, {});
      const second = await run(15, ids.length, first as Record<string, Tensor>);
      const split = [...(first.logits!.data as Float32Array), ...(second.logits!.data as Float32Array)];
      const scale = Math.max(...split.map(Math.abs));
      // Level 4 rounds activations by rows, so a cached pass is the same; float32 differs only in the order of sums.
      assert.ok(max_difference(split, whole.logits!.data as Float32Array) <= 1e-4 * scale);
      assert.deepEqual(whole["present.0.key"]!.dims, [1, heads, ids.length, head_dim]);
      if (dtype === "fp32") assert.ok(max_difference(split, reference.get("0.logits")!.data) <= 1e-4);
      await session.release();
    });
  }
}
