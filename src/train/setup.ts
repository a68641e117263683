/** What a run begins with, and the form in which it leaves what it learnt. */
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { make_folder, read_json } from "../files.js";
import { adapted_tensors, adapter_config, lora_scale, lora_shapes, write_adapter } from "../model/adapter.js";
import { expected_tensors } from "../model/checkpoint.js";
import type { ModelConfig } from "../model/config.js";
import { write_model } from "../model/write_model.js";
import { fallback_template } from "../text/prompts.js";
import { load_tokenizer, type Tokenizer } from "../text/tokenizer.js";
import type { BaseModel } from "./base.js";
import { generator } from "./data.js";
import type { AdapterShape } from "./graphs.js";
import { mix, type Parameter } from "./network.js";
import type { Recipe } from "./recipe.js";

/** The tokenizer of a model that is trained, with a chat template. */
export async function training_tokenizer(dir: string, vocab_size: number): Promise<Tokenizer> {
  const tokenizer = await load_tokenizer(dir);
  tokenizer.chat_template ??= fallback_template(dir, "mixtral").chat_template;
  if (tokenizer.vocab_size > vocab_size) {
    throw new BimedixError("bad_tokenizer", {
      given: `a tokenizer with ${tokenizer.vocab_size} tokens for a model with ${vocab_size}`,
      expected: "the model's own tokenizer",
      todo: "correct the model's directory",
    });
  }
  return tokenizer;
}

/** What the recipe adapts of this model; null where it trains every tensor. @throws BimedixError bad_option */
export function adapter_shape({ adapter }: Recipe, config: ModelConfig): AdapterShape | null {
  if (adapter === "none") return null;
  if (config.num_local_experts === 0 && adapter.targets.includes("gate")) {
    throw new BimedixError("bad_option", {
      given: "the target gate on a model without experts",
      expected: "q, k, v, o, w1, w2, w3",
      todo: "leave gate out of adapter.targets",
    });
  }
  const tensors = new Map(adapted_tensors(config, adapter.targets).map(({ name, shape }) => [name, shape]));
  const { r: rank, lora_alpha, lora_dropout: dropout, use_rslora } = adapter;
  return { rank, scale: lora_scale(rank, lora_alpha, use_rslora), dropout, tensors };
}

/**
 * A as PEFT begins (Kaiming's uniform with a = sqrt(5), which is 1 / sqrt(columns)), B zero: the adapter changes nothing at first.
 * Source: reset_lora_parameters in peft/tuners/lora/layer.py
 */
export async function make_parameters(
  recipe: Recipe,
  base: BaseModel,
  adapter: AdapterShape | null,
): Promise<Map<string, Parameter>> {
  const parameters = new Map<string, Parameter>();
  const add = (name: string, shape: readonly number[], data: Float32Array) =>
    parameters.set(name, { shape, data, gradient: new Float32Array(data.length) });
  if (!adapter) {
    for (const { name, shape } of expected_tensors(base.config))
      add(name, shape, (await base.tensor(name)) as Float32Array);
    return parameters;
  }
  let number = 0;
  for (const [tensor, dims] of adapter.tensors) {
    const random = generator(mix(recipe.seed, number++));
    const bound = 1 / Math.sqrt(dims[1]);
    const [a, b] = lora_shapes(tensor, dims, adapter.rank) as [
      { name: string; shape: number[] },
      { name: string; shape: number[] },
    ];
    add(
      a.name,
      a.shape,
      Float32Array.from({ length: adapter.rank * dims[1] }, () => (2 * random() - 1) * bound),
    );
    add(b.name, b.shape, new Float32Array(dims[0] * adapter.rank));
  }
  return parameters;
}

/** Writes an adapter in PEFT's form, or a checkpoint, into a folder. */
export function model_writer(recipe: Recipe, dir: string, base: BaseModel, parameters: ReadonlyMap<string, Parameter>) {
  return async (target: string): Promise<void> => {
    const tensors = [...parameters].map(([name, { shape, data }]) => ({ name, shape, data }));
    if (recipe.adapter !== "none") {
      const { targets, ...adapter } = recipe.adapter;
      const config = adapter_config(base.config, { base_model_name_or_path: recipe.base_model, targets, ...adapter });
      return write_adapter(target, config, tensors);
    }
    const stored = await read_json(join(dir, "config.json"), "bad_config");
    const dtype = [stored.torch_dtype, stored.dtype].includes("bfloat16") ? ("BF16" as const) : undefined;
    await make_folder(target);
    const sources = tensors.map((tensor) => ({ ...tensor, dtype }));
    await write_model(target, dir, sources);
  };
}
