// A model's folder with random weights, as transformers begins: matrices normal with initializer_range, norms one. Of a tied output
// there is no tensor.
import { copyFile, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { expected_tensors } from "../../dist/src/model/checkpoint.js";
import { read_config } from "../../dist/src/model/config.js";
import { write_shards } from "../../dist/src/model/safetensors.js";
import { generator } from "../../dist/src/train/data.js";

/** @param model whose configuration and tokenizer are copied */
export async function start(model, target, { std = 0.02, seed = 0 } = {}) {
  await mkdir(target, { recursive: true });
  for (const name of await readdir(model))
    if (/\.(json|jinja)$/.test(name)) await copyFile(join(model, name), join(target, name));
  const random = generator(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  const tensors = [...expected_tensors(await read_config(target))].map(({ name, shape }) => {
    const size = shape.reduce((product, dim) => product * dim, 1);
    const value = shape.length === 1 ? () => 1 : () => std * normal();
    return { name, shape, data: Float32Array.from({ length: size }, value) };
  });
  await write_shards(target, tensors);
}
