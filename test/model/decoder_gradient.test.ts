/** The derivative of the whole decoder beside torch autograd: every tensor of a mixture and of a dense model (tools/make_twins.py). */
import assert from "node:assert/strict";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { gradients } from "../../src/graph/gradient.js";
import { Graph, type Value } from "../../src/graph/graph.js";
import * as op from "../../src/graph/ops.js";
import { create_session, type Feeds, float32, int64 } from "../../src/graph/session.js";
import { expected_tensors, open_checkpoint } from "../../src/model/checkpoint.js";
import { read_config } from "../../src/model/config.js";
import { type DecoderWeights, decoder } from "../../src/model/decoder.js";
import { read_floats } from "../../src/model/safetensors.js";
import { max_difference, read_arrays, twins } from "../fixtures.js";

/** Weights that are inputs of the graph. */
class InputWeights implements DecoderWeights {
  readonly inputs = new Map<string, Value>();

  constructor(graph: Graph, tensors: Iterable<{ name: string; shape: number[] }>) {
    for (const { name, shape } of tensors) this.inputs.set(name, graph.input(name, "float32", shape));
  }
  vector(name: string): Value {
    return this.inputs.get(name)!;
  }
  linear(name: string, x: Value): Value {
    return op.linear(x, this.inputs.get(name)!);
  }
  linears(names: readonly string[], x: Value): Value[] {
    return names.map((name) => this.linear(name, x));
  }
  embedding(name: string, ids: Value): Value {
    return op.gather(this.inputs.get(name)!, ids);
  }
}

for (const name of ["mixtral-4-experts-fused", "llama3-rope"]) {
  describe(name, () => {
    test("the gradient of every tensor is torch's within 1e-4", async () => {
      const dir = join(twins, name);
      const config = await read_config(dir);
      const { num_hidden_layers: layers, num_key_value_heads: kv_heads, head_dim, vocab_size: vocab } = config;
      const graph = new Graph(name);
      const tensors = [...expected_tensors(config)];
      const weights = new InputWeights(graph, tensors);
      const { logits } = decoder(config, weights, {
        input_ids: graph.input("input_ids", "int64", ["tokens"]),
        position_ids: graph.input("position_ids", "int64", ["tokens"]),
        attention_bias: graph.input("attention_bias", "float32", [1, 1, "tokens", "visible"]),
        logits_rows: graph.input("logits_rows", "int64", ["rows"]),
        past: Array.from({ length: layers }, (_, n) => ({
          key: graph.input(`past_key.${n}`, "float32", [kv_heads, 1, "cached", head_dim]),
          value: graph.input(`past_value.${n}`, "float32", [kv_heads, 1, "cached", head_dim]),
        })),
      });
      graph.output("logits", logits);
      const seed = graph.input("seed", "float32", logits.dims);
      const found = gradients(new Map([[logits, seed]]), [...weights.inputs.values()]);
      for (const [tensor, input] of weights.inputs) graph.output(`d ${tensor}`, found.get(input)!);
      const session = await create_session(graph, { folder: tmpdir(), threads: 2 });

      const reference = await read_arrays(join(dir, "reference.safetensors"));
      const ids = reference.get("0.input_ids")!.data;
      const count = ids.length;
      const feeds: Feeds = {
        input_ids: int64(ids),
        position_ids: int64(ids.map((_, i) => i)),
        attention_bias: float32(
          Float32Array.from({ length: count * count }, (_, i) => (i % count > Math.floor(i / count) ? -1e30 : 0)),
          [1, 1, count, count],
        ),
        logits_rows: int64(ids.map((_, i) => i)),
        seed: float32(new Float32Array(count * vocab), [count, vocab]),
      };
      for (let n = 0; n < layers; n++)
        for (const kind of ["key", "value"])
          feeds[`past_${kind}.${n}`] = float32(new Float32Array(0), [kv_heads, 1, 0, head_dim]);
      const checkpoint = await open_checkpoint(dir);
      for (const { name: tensor, shape } of tensors) {
        const source = checkpoint.tensors.get(tensor)!;
        const handle = await open(source.file);
        const size = shape.reduce((product, dim) => product * dim, 1);
        feeds[tensor] = float32(await read_floats(handle, source, 0, size), shape);
        await handle.close();
      }
      const forward = (await session.run(feeds)).logits!.data as Float32Array;
      assert.ok(max_difference(forward, reference.get("0.logits")!.data) < 1e-4);

      // The mean cross-entropy of the next token: softmax less the truth, in each row but the last.
      const seeds = feeds.seed!.data as Float32Array;
      let loss = 0;
      for (let row = 0; row + 1 < count; row++) {
        const all = forward.subarray(row * vocab, (row + 1) * vocab);
        const total = all.reduce((sum, x) => sum + Math.exp(x), 0);
        for (let i = 0; i < vocab; i++) {
          const truth = Number(i === ids[row + 1]);
          seeds[row * vocab + i] = (Math.exp(all[i]!) / total - truth) / (count - 1);
        }
        loss -= Math.log(Math.exp(all[ids[row + 1]!]!) / total) / (count - 1);
      }
      const expected = await read_arrays(join(dir, "gradients.safetensors"));
      assert.ok(Math.abs(loss - expected.get("loss")!.data[0]!) < 1e-4 * loss);
      const backward = await session.run(feeds);
      assert.equal(expected.size, tensors.length + 1);
      for (const { name: tensor } of tensors) {
        const { data } = expected.get(tensor)!;
        const largest = Math.max(...data.map(Math.abs));
        const difference = max_difference(backward[`d ${tensor}`]!.data as Float32Array, data);
        assert.ok(difference <= 1e-4 * largest, `${tensor}: ${difference} of ${largest}`);
      }
      await session.release();
    });
  });
}
