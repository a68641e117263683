/**
 * LoRA adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors.
 *
 * Two layouts exist for a mixture of experts. The classic one names every expert (`block_sparse_moe.experts.3.w1`); transformers 5
 * fused the experts, and PEFT's keys with them (`mlp.experts.base_layer` is gate_up_proj, `mlp.experts` is down_proj). Both are
 * read; the classic one is written, because it alone is unambiguous: a fused lora_B is `[out, r * experts]` with the rank outside in
 * PEFT and inside in other tools, and its shape does not tell which.
 * Source: https://github.com/huggingface/peft/blob/v0.21.0/src/peft/tuners/lora/layer.py (ParamWrapper)
 */
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, read_json, write_atomically } from "../files.js";
import { expected_tensors } from "./checkpoint.js";
import type { ModelConfig } from "./config.js";
import { lora_a_name, lora_b_name } from "./lora.js";
import { read_floats, read_safetensors_header, write_safetensors } from "./safetensors.js";

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

/** One tensor's share: it adds `scale * b a`. */
export interface LoraPair {
  rank: number;
  scale: number;
  /** `[rank, columns]` */
  a: Float32Array;
  /** `[rows, rank]` */
  b: Float32Array;
}

export interface Adapter {
  /** By the classic name of the tensor that is adapted. */
  pairs: Map<string, LoraPair>;
  /** adapter_config.json */
  config: Record<string, unknown>;
}

/** `lora_alpha / r`, or `lora_alpha / sqrt(r)` with rsLoRA (https://arxiv.org/abs/2312.03732). */
export const lora_scale = (rank: number, alpha: number, rslora: boolean) => alpha / (rslora ? Math.sqrt(rank) : rank);

const bad = (given: string, expected: string, todo = "use an adapter that was made for this model"): BimedixError =>
  new BimedixError("bad_adapter", { given, expected, todo });

/** Keys of PEFT 0.21's LoraConfig (src/peft/tuners/lora/config.py) under which an adapter computes more than B A x. */
const MORE_THAN_LORA =
  `use_dora modules_to_save trainable_token_indices layer_replication lora_bias alora_invocation_tokens use_qalora
  use_bdlora arrow_config kasa_config monteclora_config`.split(/\s+/);
/** Values of init_lora_weights with which training begins by changing the base, so that the adapter fits that base alone. */
const CHANGES_BASE = /^(pissa|corda|olora|loftq|lora_ga)/i;

/**
 * Reads an adapter for a model of this configuration.
 * @throws BimedixError file_not_found, bad_adapter for anything that would be dropped or put in the wrong place
 */
export async function read_adapter(dir: string, config: ModelConfig): Promise<Adapter> {
  const json = await read_json(join(dir, "adapter_config.json"), "bad_adapter");
  if ((json.peft_type ?? "LORA") !== "LORA") throw bad(`${dir} with peft_type ${json.peft_type}`, "LORA");
  for (const key of MORE_THAN_LORA)
    if (json[key] && !(Array.isArray(json[key]) && json[key].length === 0))
      throw bad(`${dir} with ${key}`, "an adapter of A and B matrices alone");
  if (CHANGES_BASE.test(String(json.init_lora_weights)))
    throw bad(
      `${dir} with init_lora_weights ${json.init_lora_weights}, which is for a base that was changed`,
      "an adapter for the unchanged base",
      "convert it with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)",
    );
  const file = join(dir, "adapter_model.safetensors");
  const header = await read_safetensors_header(file);
  const handle = await open(file).catch((error) => Promise.reject(file_error(error, file, "an adapter")));
  const shapes = new Map([...expected_tensors(config)].map(({ name, shape }) => [name, shape]));
  const pairs = new Map<string, LoraPair>();
  try {
    const halves = new Map<string, { a?: Matrix; b?: Matrix }>();
    for (const [key, tensor] of header) {
      const match = /^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight$/.exec(key);
      if (!match || tensor.shape.length !== 2) throw bad(`${key} in ${file}`, "lora_A and lora_B matrices");
      const [rows, columns] = tensor.shape as [number, number];
      const half = halves.get(match[1]!) ?? {};
      half[match[2] === "A" ? "a" : "b"] = {
        rows,
        columns,
        data: await read_floats(handle, tensor, 0, rows * columns),
      };
      halves.set(match[1]!, half);
    }
    for (const [module, { a, b }] of halves) {
      if (!a || !b) throw bad(`only one half of ${module} in ${file}`, "lora_A and lora_B");
      for (const { name, ...pair } of placed(module, a, b, json, config, file)) {
        const shape = shapes.get(name);
        if (shape?.length !== 2) throw bad(`${module} in ${file}`, "a matrix of the model");
        const given = `[${pair.b.length / pair.rank}, ${pair.a.length / pair.rank}]`;
        if (pair.a.length !== pair.rank * shape[1]! || pair.b.length !== pair.rank * shape[0]!)
          throw bad(`${module} in ${file} for a matrix ${given}`, `one for [${shape.join(", ")}]`);
        pairs.set(name, pair);
      }
    }
  } finally {
    await handle.close();
  }
  if (pairs.size === 0) throw bad(`${file} without tensors`, "lora_A and lora_B matrices");
  return { pairs, config: json };
}

interface Matrix {
  rows: number;
  columns: number;
  data: Float32Array;
}

/** One module of a file as pairs of the tensors that it adapts: one, or in the fused layout one or two an expert. */
function placed(
  module: string,
  a: Matrix,
  b: Matrix,
  json: Record<string, unknown>,
  { num_local_experts: experts, hidden_size, intermediate_size }: ModelConfig,
  file: string,
): (LoraPair & { name: string })[] {
  const fused = /^(.*\.layers\.\d+)\.mlp\.experts(?:\.base_layer)?$/.exec(module);
  if (!fused) {
    const name = experts > 0 ? module.replace(".mlp.gate", ".block_sparse_moe.gate") : module;
    const rank = a.rows;
    if (b.columns !== rank) throw bad(`ranks ${rank} and ${b.columns} of ${module} in ${file}`, "equal ranks");
    return [{ name: `${name}.weight`, rank, scale: scale_of(module, rank, json), a: a.data, b: b.data }];
  }
  const rank = a.rows / experts;
  if (!Number.isInteger(rank) || b.columns !== a.rows)
    throw bad(
      `shapes [${a.rows}, ${a.columns}] and [${b.rows}, ${b.columns}] of ${module}`,
      `${experts} experts of one rank`,
    );
  if (!("peft_version" in json))
    throw bad(
      `fused experts in ${file} that do not say that PEFT wrote them`,
      "PEFT's order of lora_B",
      "convert the adapter to the per-expert layout",
    );
  // Which of the two wrappers is the outer one depends on the order of an unordered set: the shapes tell.
  const down = a.columns === intermediate_size && b.rows === hidden_size;
  const parts = down ? ["w2"] : ["w1", "w3"];
  const rows = b.rows / parts.length;
  const scale = scale_of(`${fused[1]}.mlp.experts.${down ? "down_proj" : "gate_up_proj"}`, rank, json);
  return Array.from({ length: experts }, (_, e) =>
    parts.map((part, half) => {
      const own = new Float32Array(rows * rank);
      // [out, rank, experts]
      for (let row = 0; row < rows; row++)
        for (let r = 0; r < rank; r++) own[row * rank + r] = b.data[((half * rows + row) * rank + r) * experts + e]!;
      const matrix = a.data.slice(e * rank * a.columns, (e + 1) * rank * a.columns);
      return { name: `${fused[1]}.block_sparse_moe.experts.${e}.${part}.weight`, rank, scale, a: matrix, b: own };
    }),
  ).flat();
}

/** PEFT's patterns may be any regular expression; ends of a module's name are what occurs, and all that an outside file may ask for. */
function scale_of(module: string, rank: number, json: Record<string, unknown>): number {
  const pattern = (field: string): number | undefined => {
    for (const [key, value] of Object.entries((json[field] ?? {}) as Record<string, number>)) {
      const plain = key.replace(/^(\^|\.\*\\?\.)/, "").replaceAll("\\.", ".");
      if (/[^\w.]/.test(plain)) throw bad(`${field} ${JSON.stringify(key)}`, "the end of a module's name");
      if (module === plain || module.endsWith(`.${plain}`)) return value;
    }
    return undefined;
  };
  const stated = pattern("rank_pattern") ?? json.r;
  const alpha = pattern("alpha_pattern") ?? json.lora_alpha;
  if (typeof alpha !== "number" || !(alpha > 0)) throw bad(`lora_alpha ${JSON.stringify(alpha)}`, "a positive number");
  if (stated !== rank) throw bad(`rank ${rank} of ${module}`, `${JSON.stringify(stated)}, as adapter_config.json says`);
  return lora_scale(rank, alpha, json.use_rslora === true);
}

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
