/**
 * LoRA adapters: what they are here, and how they are written, as PEFT writes them (adapter_config.json and adapter_model.safetensors).
 * A mixture is written in the classic layout, which names every expert, because it alone is unambiguous; read_adapter.ts reads both.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { file_error, write_atomically } from "../files.js";
import { expected_tensors } from "./checkpoint.js";
import type { ModelConfig } from "./config.js";
import { lora_a_name, lora_b_name } from "./lora.js";
import { write_safetensors } from "./safetensors.js";

/** What an adapter can be put on, in Mixtral's words; a dense model's gate_proj, down_proj and up_proj are w1, w2 and w3. */
export const lora_targets = ["q", "k", "v", "o", "w1", "w2", "w3", "gate"] as const;
export type LoraTarget = (typeof lora_targets)[number];

const module_names: Record<LoraTarget, readonly string[]> = {
  q: ["q_proj"],
  k: ["k_proj"],
  v: ["v_proj"],
  o: ["o_proj"],
  w1: ["w1", "gate_proj"],
  w2: ["w2", "down_proj"],
  w3: ["w3", "up_proj"],
  gate: ["gate"],
};

/** The tensors that `targets` stand for, with their shapes, in the order of the decoder. */
export function adapted_tensors(
  config: ModelConfig,
  targets: readonly LoraTarget[],
): { name: string; shape: [number, number] }[] {
  const modules = new Set(targets.flatMap((target) => module_names[target]));
  return [...expected_tensors(config)]
    .filter(({ name }) => modules.has(name.split(".").at(-2)!))
    .map(({ name, shape }) => ({ name, shape: shape as [number, number] }));
}

/** One matrix's share: it adds `scale * b a`, or is `scale * b a` where it takes the base's place. */
export interface LoraPair {
  rank: number;
  scale: number;
  /** `[rank, columns]` */
  a: Float32Array;
  /** `[rows, rank]` */
  b: Float32Array;
  /** Whether the base's own matrix counts no more. */
  replaces: boolean;
}

export interface Adapter {
  /**
   * By the classic name of the tensor that is adapted. `lm_head.weight` is the output layer, also where it is the table of embeddings
   * again; `model.embed_tokens.weight` is that table as an input.
   */
  pairs: Map<string, LoraPair>;
  /** What takes the place of a norm's weights. */
  vectors: Map<string, Float32Array>;
  /** adapter_config.json */
  config: Record<string, unknown>;
}

/** The shapes of what can be adapted, by name: the tensors of the checkpoint, and the output layer in any case. */
export function adaptable_tensors(config: ModelConfig): Map<string, number[]> {
  const shapes = new Map([...expected_tensors(config)].map(({ name, shape }) => [name, shape]));
  return shapes.set("lm_head.weight", [config.vocab_size, config.hidden_size]);
}

/** What some adapters change, all of them together. */
export interface Adapted {
  matrices: ReadonlySet<string>;
  vectors: ReadonlySet<string>;
  /** Those of the matrices whose place one of them takes. */
  replaced: ReadonlySet<string>;
}

export function adapted_by(adapters: readonly Adapter[]): Adapted | null {
  if (adapters.length === 0) return null;
  const pairs = adapters.flatMap(({ pairs }) => [...pairs]);
  return {
    matrices: new Set(pairs.map(([name]) => name)),
    vectors: new Set(adapters.flatMap(({ vectors }) => [...vectors.keys()])),
    replaced: new Set(pairs.filter(([, { replaces }]) => replaces).map(([name]) => name)),
  };
}

/** `lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA (https://arxiv.org/abs/2312.03732). */
export const lora_scale = (rank: number, alpha: number, rslora: boolean) => alpha / (rslora ? Math.sqrt(rank) : rank);

export interface AdapterSettings {
  base_model_name_or_path: string;
  r: number;
  lora_alpha: number;
  lora_dropout: number;
  use_rslora: boolean;
  targets: readonly LoraTarget[];
}

/** adapter_config.json in PEFT's words, for a model of this configuration. */
export function adapter_config(
  config: ModelConfig,
  { targets, ...settings }: AdapterSettings,
): Record<string, unknown> {
  const modules = adapted_tensors(config, targets).map(({ name }) => name.split(".").at(-2)!);
  return {
    peft_type: "LORA",
    task_type: "CAUSAL_LM",
    inference_mode: true,
    bias: "none",
    fan_in_fan_out: false,
    ...settings,
    target_modules: [...new Set(modules)],
  };
}

/** Writes an adapter in the classic layout; `tensors` are A and B under `lora_a_name` and `lora_b_name`. */
export async function write_adapter(
  dir: string,
  config: Record<string, unknown>,
  tensors: Iterable<{ name: string; shape: readonly number[]; data: Float32Array }>,
): Promise<void> {
  await mkdir(dir, { recursive: true }).catch((error) =>
    Promise.reject(file_error(error, dir, "a folder to write to")),
  );
  const named = [...tensors].map((tensor) => ({ ...tensor, name: `base_model.model.${tensor.name}` }));
  await write_safetensors(join(dir, "adapter_model.safetensors"), named);
  await write_atomically(join(dir, "adapter_config.json"), (handle) =>
    handle.writeFile(`${JSON.stringify(config, null, 2)}\n`),
  );
}

/** The shapes of A and B of a tensor `[rows, columns]`. */
export const lora_shapes = (name: string, [rows, columns]: readonly [number, number], rank: number) => [
  { name: lora_a_name(name), shape: [rank, columns] },
  { name: lora_b_name(name), shape: [rows, rank] },
];
