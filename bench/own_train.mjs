// One training benchmark run of this project, in a process of its own: the counterpart of peer_peft.py.
// Run: node bench/own_train.mjs MODEL [rank] [sequences] [length] [steps] [keep|again] [dtype of the base]. Prints one JSON object.
import { open_store } from "../dist/src/model/store.js";
import { BaseModel } from "../dist/src/train/base.js";
import { Network } from "../dist/src/train/network.js";
import { AdamW, clip_scale, gradient_norm } from "../dist/src/train/optimizer.js";
import { adapters, random_batch } from "./train_common.mjs";

const [model, rank = 16, sequences = 4, length = 256, steps = 5, mode = "keep", dtype = "bnb4"] = process.argv.slice(2);
const base = await BaseModel.open(await open_store(model, { dtype }), { stream: true });
const { adapter, parameters } = adapters(base.config, Number(rank));
const network = await Network.create(base, { adapter, batch: Number(sequences), keep: mode === "keep" }, parameters);
const optimizer = new AdamW(parameters, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 });
const seconds = [];
let loss = 0;
for (let step = 0; step < Number(steps); step++) {
  const batch = random_batch(base.config.vocab_size, Number(sequences), Number(length), step + 1);
  const began = performance.now();
  const items = batch.labels.filter((label) => label >= 0).length;
  const { nll } = await network.backward(batch, { items, aux_coefficient: 0.02, seed: step });
  optimizer.step(1e-4, clip_scale(gradient_norm(parameters), 1));
  seconds.push((performance.now() - began) / 1000);
  loss = nll / items;
}
const median = seconds.slice(1).sort((a, b) => a - b)[Math.floor((seconds.length - 1) / 2)];
console.log(
  JSON.stringify({
    base: dtype,
    trained: [...parameters.values()].reduce((sum, { data }) => sum + data.length, 0),
    loss,
    tokens_per_second: (Number(sequences) * Number(length)) / median,
    seconds,
    peak_memory_bytes: process.resourceUsage().maxRSS * 1024,
    read_bytes_per_step: base.traffic.bytes / seconds.length,
  }),
);
await network.release();
await base.close();
