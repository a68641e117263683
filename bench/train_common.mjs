// What the training benchmarks share: adapters as a run would begin with, and random tokens.
import { adapted_tensors, lora_scale, lora_shapes, lora_targets } from "../dist/src/model/adapter.js";
import { generator } from "../dist/src/train/data.js";

/** Adapters of one rank on attention, every expert and the router. */
export function adapters(config, rank) {
  const tensors = new Map(adapted_tensors(config, lora_targets).map(({ name, shape }) => [name, shape]));
  const random = generator(1);
  const parameters = new Map();
  for (const [tensor, dims] of tensors)
    for (const { name, shape } of lora_shapes(tensor, dims, rank)) {
      const data = new Float32Array(shape[0] * shape[1]);
      if (name.includes("lora_A")) for (let i = 0; i < data.length; i++) data[i] = (random() - 0.5) * 0.05;
      parameters.set(name, { shape, data, gradient: new Float32Array(data.length) });
    }
  return { adapter: { rank, scale: lora_scale(rank, rank, false), dropout: 0, tensors }, parameters };
}

/** `sequences` rows of `length` random tokens; all but the first are learnt. */
export function random_batch(vocab_size, sequences, length, seed) {
  const random = generator(seed);
  const input_ids = Int32Array.from({ length: sequences * length }, () => 3 + Math.floor(random() * (vocab_size - 3)));
  return {
    sequences,
    input_ids,
    position_ids: input_ids.map((_, i) => i % length),
    documents: new Int32Array(input_ids.length).fill(1),
    labels: input_ids.map((_, i) => (i % length === length - 1 ? -100 : input_ids[i + 1])),
  };
}
