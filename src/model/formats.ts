/** What a folder or a file is that is no checkpoint in float weights: named, with what to do. */
import { readdir } from "node:fs/promises";
import { FLOATS, type TensorInfo } from "./safetensors.js";

export interface Foreign {
  what: string;
  todo: string;
}

const OTHER_REVISION =
  "use a revision of the model that has safetensors (on the hub often refs/pr/1), or save it again with transformers' save_pretrained";

/** What a training run leaves that has not ended. */
const STOPPED: [RegExp, Foreign] = [
  /^checkpoint-\d+$/,
  { what: "checkpoints of a training run", todo: "let the run end with train --resume, or name one of them" },
];

/** By the names of files, in the order in which they are looked for. */
const files: [RegExp, Foreign][] = [
  STOPPED,
  [
    /^adapter_(config\.json|model\.(safetensors|bin))$/,
    { what: "a PEFT adapter", todo: "give its base model as the model, and this folder as the adapter" },
  ],
  [
    /\.gguf$/i,
    {
      what: "a GGUF file, llama.cpp's format",
      todo: "use the safetensors that it was made from, or run it with llama.cpp",
    },
  ],
  [/^pytorch_model.*\.bin(\.index\.json)?$/, { what: "only pytorch_model.bin files", todo: OTHER_REVISION }],
  [/^tf_model\.h5$|^model\.ckpt/, { what: "TensorFlow's weights", todo: OTHER_REVISION }],
  [/^flax_model\.msgpack$/, { what: "Flax's weights", todo: OTHER_REVISION }],
  [
    /^consolidated.*\.(safetensors|pth)$|^params\.json$/,
    { what: "weights in their maker's own layout (consolidated)", todo: "use the same model in transformers' layout" },
  ],
  [
    /\.safetensors$/,
    {
      what: "safetensors of another name",
      todo: "name the file model.safetensors, or add the index that names the shards",
    },
  ],
];

/** What a folder holds instead of an adapter. */
const no_adapters: [RegExp, Foreign][] = [
  STOPPED,
  [/^config\.json$/, { what: "a model", todo: "give it as the model, and as the adapter what was trained on it" }],
];

/** What the folder holds instead of a checkpoint, or null. */
export const foreign_model = (dir: string): Promise<Foreign | null> => find(dir, files);

/** What the folder holds instead of an adapter, or null. */
export const foreign_adapter = (dir: string): Promise<Foreign | null> => find(dir, no_adapters);

async function find(dir: string, kinds: readonly [RegExp, Foreign][]): Promise<Foreign | null> {
  const names: string[] = await readdir(dir).catch(() => []);
  return kinds.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1] ?? null;
}

/** Methods of quantization_config whose names are written otherwise. */
const methods: Record<string, string> = {
  awq: "AWQ",
  gptq: "GPTQ",
  fp8: "FP8",
  fbgemm_fp8: "FP8",
  hqq: "HQQ",
  mxfp4: "MXFP4",
  aqlm: "AQLM",
  eetq: "EETQ",
};

/** By the names and types of tensors, for files whose configuration is silent. */
const traces: [RegExp, string][] = [
  [/\.g_idx$/, "GPTQ"],
  [/\.qweight$/, "AWQ or GPTQ"],
  [/\.weight\.(absmax|quant_state)|\.SCB$/, "bitsandbytes"],
  [/\.weight_packed$/, "compressed-tensors"],
  [/\.weight_scale(_inv)?$/, "FP8 or int8"],
  [/\.W_q$/, "HQQ"],
  [/\.q_weight$/, "EXL2"],
  [/\.biases$/, "MLX"],
];

/**
 * What the tensors are quantised with, or null. Only for tensors that are not what the architecture needs: a configuration may speak of a
 * quantisation that was only done while training.
 */
export function quantisation(config: Record<string, unknown>, stored: ReadonlyMap<string, TensorInfo>): string | null {
  const declared = (config.quantization_config ?? config.quantization ?? null) as Record<string, unknown> | null;
  const trace = traces.find(([pattern]) => [...stored.keys()].some((name) => pattern.test(name)))?.[1];
  const codes = [...stored.values()].find(({ dtype }) => !(FLOATS as readonly string[]).includes(dtype))?.dtype;
  if (!trace && !codes) return null;
  const { quant_method, bits, load_in_4bit, load_in_8bit } = declared ?? {};
  const method = typeof quant_method === "string" ? (methods[quant_method] ?? quant_method) : null;
  const width = bits ?? (load_in_4bit ? 4 : load_in_8bit ? 8 : null);
  const named = method ?? (config.quantization && !config.quantization_config ? "MLX" : (trace ?? codes!));
  return Number.isInteger(width) ? `${named} in ${width} bits` : named;
}
