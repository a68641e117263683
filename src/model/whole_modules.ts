/** Modules that an adapter's file holds whole, and that take the place of the base's: which they are, and as what they are computed. */
import { adaptable_tensors, type LoraPair } from "./adapter.js";
import { type AdapterConfig, bad_adapter } from "./adapter_config.js";
import { classic_names } from "./checkpoint.js";
import type { ModelConfig } from "./config.js";
import type { TensorInfo } from "./safetensors.js";

const EMBEDDING = "model.embed_tokens.weight";
const HEAD = "lm_head.weight";

/** Why a name is none of the model's, where that can be told. */
export function misnamed(name: string): string {
  if (name.startsWith("_orig_mod.")) return " under the prefix of torch.compile, which PEFT does not read";
  if (name.startsWith("module.")) return " under the prefix of a data-parallel wrapper, which PEFT does not read";
  if (/^(layers|embed_tokens|norm)\b/.test(name)) return ", of a model without its output layer";
  return "";
}

/** Only what PEFT's own reading would put into the model, in the classic names. */
export function whole_tensors(
  stored: ReadonlyMap<string, TensorInfo>,
  settings: AdapterConfig,
  config: ModelConfig,
  file: string,
): Map<string, TensorInfo> {
  const shapes = adaptable_tensors(config);
  const found = classic_names(new Map(stored), config, true);
  for (const [name, tensor] of found) {
    const shape = shapes.get(name);
    if (!shape) throw bad_adapter(`${name} in ${file}${misnamed(name)}`, "a tensor of the model");
    if (tensor.shape.join() !== shape.join())
      throw bad_adapter(
        `${name} in ${file} with shape [${tensor.shape}]`,
        `[${shape}]`,
        "use the base whose vocabulary has the same size, as the adapter was trained on",
      );
  }
  // PEFT finds a module by the end of its name, and everything below it with it.
  for (const saved of settings.saved_modules)
    for (const name of shapes.keys()) {
      if (name === HEAD && config.tie_word_embeddings) continue;
      const paths = [name, name.replace(".block_sparse_moe.", ".mlp.")].flatMap((one) =>
        [...one.matchAll(/\./g)].map(({ index }) => one.slice(0, index)),
      );
      if (paths.some((path) => path.endsWith(saved)) && !found.has(name))
        throw bad_adapter(`${file} without ${name}`, `the modules that modules_to_save names (${saved})`);
    }
  // What is loaded into one of two tied matrices, and is not a copy that was trained apart, is in both.
  const apart = (name: string) => settings.saved_modules.some((saved) => name.replace(/\.weight$/, "").endsWith(saved));
  if (config.tie_word_embeddings)
    for (const [one, other] of [
      [EMBEDDING, HEAD],
      [HEAD, EMBEDDING],
    ] as const)
      if (found.has(one) && !apart(one) && !found.has(other)) found.set(other, found.get(one)!);
  return found;
}

/** A matrix as a pair that takes the base's place: it times the identity. */
export function whole(values: Float32Array, [rows, columns]: [number, number]): LoraPair {
  const rank = Math.min(rows, columns);
  const identity = new Float32Array(rank * rank);
  for (let i = 0; i < rank; i++) identity[i * rank + i] = 1;
  const [a, b] = rows < columns ? [values, identity] : [identity, values];
  return { rank, scale: 1, a, b, replaces: true };
}

/** A pair on a matrix that was replaced, as one pair. */
export function over(base: LoraPair, pair: LoraPair | undefined): LoraPair {
  if (!pair) return base;
  const rank = base.rank + pair.rank;
  const rows = base.b.length / base.rank;
  const a = new Float32Array(base.a.length + pair.a.length);
  a.set(base.a);
  a.set(pair.a, base.a.length);
  const b = new Float32Array(rows * rank);
  for (let row = 0; row < rows; row++) {
    b.set(base.b.subarray(row * base.rank, (row + 1) * base.rank), row * rank);
    for (let r = 0; r < pair.rank; r++) b[row * rank + base.rank + r] = pair.b[row * pair.rank + r]! * pair.scale;
  }
  return { rank, scale: 1, a, b, replaces: true };
}
