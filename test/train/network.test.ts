/** Training beside torch autograd, PEFT and torch's AdamW (tools/make_train_fixtures.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { adapted_tensors, lora_scale, lora_shapes, lora_targets } from "../../src/model/adapter.js";
import type { StoredDtype } from "../../src/model/convert.js";
import { open_store } from "../../src/model/store.js";
import { BaseModel } from "../../src/train/base.js";
import type { AdapterShape } from "../../src/train/graphs.js";
import { type Batch, Network, type Parameter } from "../../src/train/network.js";
import { AdamW, clip_scale, gradient_norm, schedule_at } from "../../src/train/optimizer.js";
import { max_difference, read_arrays, root, twins } from "../fixtures.js";

const folder = join(root, "test/fixtures/train");
const arrays = await read_arrays(join(folder, "reference.safetensors"));
const numbers = JSON.parse(await readFile(join(folder, "reference.json"), "utf8"));
const { r: rank, lora_alpha } = numbers.lora;
const { learning_rate, betas, eps, weight_decay, max_grad_norm, warmup_steps } = numbers.training;

function batch(key: string): Batch {
  const list = (name: string) => Int32Array.from(arrays.get(`${key}.${name}`)!.data);
  const { shape } = arrays.get(`${key}.input_ids`)!;
  return {
    sequences: shape[0]!,
    input_ids: list("input_ids"),
    position_ids: list("position_ids"),
    documents: list("documents"),
    labels: list("labels"),
  };
}

async function adapted(
  dtype: StoredDtype,
  { keep = false, stream = false, sequences = 2, dropout = 0, threads = 2 } = {},
) {
  const base = await BaseModel.open(await open_store(join(root, "test/fixtures/train/base"), { dtype }), { stream });
  const tensors = new Map(adapted_tensors(base.config, lora_targets).map(({ name, shape }) => [name, shape]));
  const adapter: AdapterShape = { rank, scale: lora_scale(rank, lora_alpha, false), dropout, tensors };
  const parameters = new Map<string, Parameter>();
  for (const [tensor, dims] of tensors)
    for (const { name, shape } of lora_shapes(tensor, dims, rank)) {
      const data = Float32Array.from(arrays.get(`start.${name}`)!.data);
      parameters.set(name, { shape, data, gradient: new Float32Array(data.length) });
    }
  const network = await Network.create(base, { adapter, batch: sequences, keep }, parameters, threads);
  return { base, network, parameters };
}

const labels_of = (one: Batch) => one.labels.filter((label) => label >= 0).length;
const pass = (one: Batch, seed = 0) => ({ items: labels_of(one), aux_coefficient: numbers.aux_coefficient, seed });

/** Within 1e-4 of the largest entry of its tensor. */
function same_gradients(parameters: Map<string, Parameter>, key: string): void {
  let compared = 0;
  for (const [name, { gradient }] of parameters) {
    const { data } = arrays.get(`${key}.grad.${name}`)!;
    const largest = Math.max(...data.map(Math.abs));
    const difference = max_difference(gradient, data);
    assert.ok(difference <= 1e-4 * largest + 1e-12, `${name}: ${difference} of ${largest}`);
    compared++;
  }
  assert.equal(compared, [...arrays.keys()].filter((name) => name.startsWith(`${key}.grad.`)).length);
}

/** Of all gradients as one vector with torch's. */
function cosine(parameters: Map<string, Parameter>, key: string): number {
  let [dot, own, torch] = [0, 0, 0];
  for (const [name, { gradient }] of parameters)
    for (const [i, value] of arrays.get(`${key}.grad.${name}`)!.data.entries()) {
      dot += value * gradient[i]!;
      own += gradient[i]! ** 2;
      torch += value ** 2;
    }
  return dot / Math.sqrt(own * torch);
}

describe("gradients are torch's within 1e-4", () => {
  for (const [key, dtype] of [
    ["packed", "fp32"],
    ["single", "fp32"],
    ["nf4", "bnb4"],
  ] as const)
    for (const keep of [false, true])
      for (const stream of [false, true])
        test(`${key}${keep ? ", products kept" : ""}${stream ? ", weights from the disk" : ""}`, async () => {
          const one = batch(key);
          const { base, network, parameters } = await adapted(dtype, { keep, stream, sequences: one.sequences });
          const result = await network.backward(one, pass(one));
          const { loss, aux_loss } = numbers[key];
          assert.ok(Math.abs(result.nll / result.labels - loss) < 1e-4 * loss, `${result.nll / result.labels} ${loss}`);
          assert.ok(Math.abs(result.aux_loss - aux_loss) < 1e-4 * aux_loss, `${result.aux_loss} ${aux_loss}`);
          same_gradients(parameters, key);
          const forward = await network.evaluate(one);
          assert.ok(Math.abs(forward.nll - result.nll) < 1e-4 * result.nll);
          await network.release();
          await base.close();
        });
});

describe("gradients on a base in 8 bits point where torch's in float32 point", () => {
  for (const key of ["packed", "single"] as const)
    for (const keep of [false, true])
      test(`${key}${keep ? ", products kept" : ""}`, async () => {
        const one = batch(key);
        const cosines: Record<string, number> = {};
        for (const dtype of ["int8", "bnb4"] as const) {
          const { base, network, parameters } = await adapted(dtype, { keep, stream: keep, sequences: one.sequences });
          const { nll, labels } = await network.backward(one, pass(one));
          assert.ok(Math.abs(nll / labels - numbers[key].loss) < 0.02 * numbers[key].loss);
          cosines[dtype] = cosine(parameters, key);
          await network.release();
          await base.close();
        }
        // NF4, which QLoRA trains on, is the measure of what is near.
        const { int8, bnb4 } = cosines as { int8: number; bnb4: number };
        assert.ok(int8 > 0.95 && 1 - int8 < (1 - bnb4) / 10, JSON.stringify(cosines));
      });
});

test("threads and kept products do not change a bit", async () => {
  const results: string[] = [];
  for (const [keep, threads] of [
    [false, 1],
    [true, 2],
    [false, 4],
    [false, 4],
  ] as const) {
    const { base, network, parameters } = await adapted("fp32", { keep, threads });
    // Large enough that the runtime shares its work among threads.
    const [one] = [batch("packed")];
    const times = 40;
    const repeat = (list: Int32Array) =>
      Int32Array.from({ length: list.length * times }, (_, i) => {
        const [row, at] = [Math.floor(i / (24 * times)), i % (24 * times)];
        return list[row * 24 + (at % 24)]!;
      });
    const { input_ids, position_ids, labels } = one;
    const documents = repeat(one.documents).map((document, i) =>
      document === 0 ? 0 : document + 10 * Math.floor((i % (24 * times)) / 24),
    );
    const large = {
      sequences: 2,
      input_ids: repeat(input_ids),
      position_ids: repeat(position_ids),
      labels: repeat(labels),
      documents,
    };
    await network.backward(large, pass(large));
    results.push(
      [...parameters.values()].map(({ gradient }) => Buffer.from(gradient.buffer).toString("base64")).join(),
    );
    await network.release();
    await base.close();
  }
  assert.equal(new Set(results).size, 1);
});

test("ten steps of AdamW with clipping and a cosine schedule give PEFT's adapters within 1e-4", async () => {
  const { base, network, parameters } = await adapted("fp32", { keep: true });
  await ten_steps(network, parameters, numbers.trace);
  for (const [name, { data }] of parameters)
    assert.ok(max_difference(data, arrays.get(`end.${name}`)!.data) < 1e-4, name);
  await network.release();
  await base.close();
});

test("ten steps of full training give every tensor of torch's within 1e-4", async () => {
  const base = await BaseModel.open(await open_store(join(twins, "mixtral-4-experts-fused"), { dtype: "fp32" }), {
    stream: false,
  });
  const parameters = new Map<string, Parameter>();
  for (const [name, { dims }] of base.stored) {
    const data = (await base.tensor(name)) as Float32Array;
    parameters.set(name, { shape: dims, data, gradient: new Float32Array(data.length) });
  }
  const network = await Network.create(base, { adapter: null, batch: 2, keep: false }, parameters);
  await ten_steps(network, parameters, numbers.full_trace);
  for (const [name, { data }] of parameters)
    assert.ok(max_difference(data, arrays.get(`full.${name}`)!.data) < 1e-4, name);
  await network.release();
  await base.close();
});

async function ten_steps(network: Network, parameters: Map<string, Parameter>, trace: number[][]): Promise<void> {
  const optimizer = new AdamW(parameters, { beta1: betas[0], beta2: betas[1], epsilon: eps, weight_decay });
  for (const [step, [loss, aux_loss, norm, rate]] of trace.entries()) {
    const one = batch(`step${step}`);
    const result = await network.backward(one, pass(one));
    const computed = gradient_norm(parameters);
    const learning = learning_rate * schedule_at("cosine", step, { warmup: warmup_steps, total: trace.length });
    for (const [got, expected] of [
      [result.nll / result.labels, loss!],
      [result.aux_loss, aux_loss!],
      [computed, norm!],
      [learning, rate!],
    ] as const)
      assert.ok(Math.abs(got - expected) <= 2e-4 * Math.abs(expected), `step ${step}: ${got} ${expected}`);
    optimizer.step(learning, clip_scale(computed, max_grad_norm));
  }
}
