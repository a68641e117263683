// A training step of a model that no machine of this size holds: Mixtral-8x7B's own width, eight layers, random weights in NF4 on the
// disk, streamed layer by layer. Run: node bench/own_depth.mjs FOLDER [layers] [rank] [tokens]. Writes 6.3 GB once; prints one JSON object.
import { existsSync } from "node:fs";
import { mkdir, open, rename } from "node:fs/promises";
import { join } from "node:path";
import { expected_tensors } from "../dist/src/model/checkpoint.js";
import { parse_config } from "../dist/src/model/config.js";
import { nf4_name, scales_name } from "../dist/src/model/weights.js";
import { BaseModel } from "../dist/src/train/base.js";
import { generator } from "../dist/src/train/data.js";
import { Network } from "../dist/src/train/network.js";
import { AdamW, clip_scale, gradient_norm } from "../dist/src/train/optimizer.js";
import { adapters, random_batch } from "./train_common.mjs";

const [folder, layers = 8, rank = 16, tokens = 512, steps = 2] = process.argv.slice(2);
const config = parse_config(
  {
    model_type: "mixtral",
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: Number(layers),
    num_attention_heads: 32,
    num_key_value_heads: 8,
  },
  "config.json",
);
const location = `depth-${layers}.bin`;
const tensors = new Map();
let end = 0;
const place = (name, dtype, dims) => {
  const byte_length = dims.reduce((product, dim) => product * dim, dtype === "float32" ? 4 : 1);
  tensors.set(name, { dtype, dims, bytes: { location, offset: end, byte_length } });
  end += Math.ceil(byte_length / 64) * 64;
};
let parameters_of_model = 0;
for (const { name, shape } of expected_tensors(config)) {
  const count = shape.reduce((product, dim) => product * dim, 1);
  parameters_of_model += count;
  if (shape.length === 2 && name.includes(".layers.") && !name.endsWith("gate.weight")) {
    place(nf4_name(name), "uint8", [shape[0], shape[1] / 2]);
    place(scales_name(name), "float32", [count / 64]);
  } else place(name, "float32", shape);
}
await write();

/** Random codes, magnitudes that keep activations of size 1, norms of 1. */
async function write() {
  const file = join(folder, location);
  if (existsSync(file)) return;
  await mkdir(folder, { recursive: true });
  const random = generator(3);
  const codes = Uint8Array.from({ length: 2 ** 22 }, () => random() * 256);
  const floats = Float32Array.from({ length: 2 ** 20 }, () => (random() - 0.5) * 0.05);
  const handle = await open(`${file}.part`, "w");
  for (const [name, { dtype, dims, bytes }] of tensors) {
    const fill =
      dtype === "uint8"
        ? codes
        : dims.length === 1 && name.endsWith("norm.weight")
          ? floats.map(() => 1)
          : name.endsWith(".scales")
            ? floats.map(() => 0.03)
            : floats;
    const block = new Uint8Array(fill.buffer);
    for (let at = 0; at < bytes.byte_length; at += block.length)
      await handle.write(block, 0, Math.min(block.length, bytes.byte_length - at), bytes.offset + at);
  }
  await handle.close();
  await rename(`${file}.part`, file);
}

const base = await BaseModel.open({ config, tensors, folder }, { stream: true });
const { adapter, parameters } = adapters(config, Number(rank));
const network = await Network.create(base, { adapter, batch: 1, keep: false }, parameters);
const optimizer = new AdamW(parameters, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0 });
const times = [];
for (let step = 0; step < Number(steps); step++) {
  const batch = random_batch(config.vocab_size, 1, Number(tokens), step);
  const before = { ...base.traffic, ...network.times };
  const began = performance.now();
  const { nll, labels } = await network.backward(batch, {
    items: Number(tokens) - 1,
    aux_coefficient: 0.02,
    seed: step,
  });
  const passed = performance.now();
  optimizer.step(1e-4, clip_scale(gradient_norm(parameters), 1));
  times.push({
    seconds: (performance.now() - began) / 1000,
    optimizer_seconds: (performance.now() - passed) / 1000,
    waited_for_disk_seconds: (base.traffic.waited - before.waited) / 1000,
    read_bytes: base.traffic.bytes - before.bytes,
    forward_seconds: (network.times.forward - before.forward) / 1000,
    head_seconds: (network.times.head - before.head) / 1000,
    backward_seconds: (network.times.backward - before.backward) / 1000,
    loss: nll / labels,
  });
}
console.log(
  JSON.stringify(
    {
      parameters: parameters_of_model,
      trained: [...parameters.values()].reduce((sum, { data }) => sum + data.length, 0),
      tokens: Number(tokens),
      steps: times,
      peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
      file_bytes: end,
    },
    null,
    1,
  ),
);
await network.release();
await base.close();
