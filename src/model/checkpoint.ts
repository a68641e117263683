/**
 * A Hugging Face checkpoint directory: config.json and safetensors, one file or shards with an index.
 *
 * Three layouts exist in the wild: per-expert tensors (every published Mixtral), transformers 5's fused experts, and base
 * models saved without the `model.` prefix. All are read into the first one's names. The fused layout needs no copy:
 * an expert's matrix is a contiguous run of bytes inside it.
 */
import { access, open, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";
import { warn } from "../warnings.js";
import { type ModelConfig, parse_config, read_config_json } from "./config.js";
import { foreign_model, quantisation } from "./formats.js";
import { unread_rope_keys } from "./rope.js";
import { FLOATS, is_float, read_floats, read_safetensors_header, type TensorInfo } from "./safetensors.js";

export interface Checkpoint {
  dir: string;
  config: ModelConfig;
  /** Every tensor that the decoder needs, under its classic name, with the shape of `expected_tensors`. */
  tensors: Map<string, TensorInfo>;
}

/** The tensors of an architecture, in the order in which the decoder meets them: the one list of names and shapes. */
export function* expected_tensors(config: ModelConfig): Generator<{ name: string; shape: number[] }> {
  const { hidden_size: hidden, intermediate_size: ffn, head_dim, num_local_experts: experts, vocab_size } = config;
  const query = config.num_attention_heads * head_dim;
  const kv = config.num_key_value_heads * head_dim;
  yield { name: "model.embed_tokens.weight", shape: [vocab_size, hidden] };
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`;
    yield { name: `${at}.input_layernorm.weight`, shape: [hidden] };
    yield { name: `${at}.self_attn.q_proj.weight`, shape: [query, hidden] };
    yield { name: `${at}.self_attn.k_proj.weight`, shape: [kv, hidden] };
    yield { name: `${at}.self_attn.v_proj.weight`, shape: [kv, hidden] };
    yield { name: `${at}.self_attn.o_proj.weight`, shape: [hidden, query] };
    yield { name: `${at}.post_attention_layernorm.weight`, shape: [hidden] };
    if (experts > 0) yield { name: `${at}.block_sparse_moe.gate.weight`, shape: [experts, hidden] };
    for (let e = 0; e < Math.max(experts, 1); e++) {
      const mlp = experts > 0 ? `${at}.block_sparse_moe.experts.${e}` : `${at}.mlp`;
      const [w1, w3, w2] = experts > 0 ? ["w1", "w3", "w2"] : ["gate_proj", "up_proj", "down_proj"];
      yield { name: `${mlp}.${w1}.weight`, shape: [ffn, hidden] };
      yield { name: `${mlp}.${w3}.weight`, shape: [ffn, hidden] };
      yield { name: `${mlp}.${w2}.weight`, shape: [hidden, ffn] };
    }
  }
  yield { name: "model.norm.weight", shape: [hidden] };
  if (!config.tie_word_embeddings) yield { name: "lm_head.weight", shape: [vocab_size, hidden] };
}

/** @throws BimedixError file_not_found, file_unreadable, bad_config, bad_checkpoint, unsupported_architecture */
export async function open_checkpoint(dir: string): Promise<Checkpoint> {
  const json = await read_config_json(dir);
  const stored = await read_all_headers(dir);
  const named = parse_config(json, join(dir, "config.json"));
  const unread = unread_rope_keys(json);
  if (unread.length > 0)
    warn(`${dir}: keys of rope_scaling that its type does not know, and ignores: ${unread.join(", ")}.`);
  const classic = classic_names(stored, named);
  const config = await with_head(named, classic);
  const tensors = new Map<string, TensorInfo>();
  const wrong = (given: string, expected: string): BimedixError => {
    const quantised = quantisation(json, stored);
    if (!quantised) return bad(given, expected);
    const floats = "use the model that it was made from; dtype q8 or q4 quantises that one here";
    return bad(`${dir} is quantised (${quantised}): ${given}`, `weights in ${FLOATS.join(", ")}`, floats);
  };
  for (const { name, shape } of expected_tensors(config)) {
    const tensor = classic.get(name);
    if (!tensor) throw wrong(`${dir} has no tensor ${name}${prefix_hint(stored)}`, "every weight of the architecture");
    if (tensor.shape.join() !== shape.join())
      throw wrong(`${name} in ${tensor.file} has shape [${tensor.shape}]`, `[${shape}], as config.json says`);
    if (!is_float(tensor.dtype))
      throw wrong(`${name} in ${tensor.file} has dtype ${tensor.dtype}`, `weights in ${FLOATS.join(", ")}`);
    tensors.set(name, tensor);
  }
  tell_unused(
    dir,
    [...classic.keys()].filter((name) => !tensors.has(name)),
  );
  return { dir, config, tensors };
}

/** What a library leaves in a checkpoint that is no weight: tables of angles and masks, which are computed. */
const COMPUTED = /\.rotary_emb\.(inv_freq|cos_cached|sin_cached)$|\.self_attn\.(masked_)?bias$/;

function tell_unused(dir: string, names: readonly string[]): void {
  const unused = names.filter((name) => !COMPUTED.test(name) && name !== "lm_head.weight");
  if (unused.length === 0) return;
  const shown = `${unused.slice(0, 5).join(", ")}${unused.length > 5 ? ", …" : ""}`;
  warn(
    `${dir}: ${unused.length} tensors are not of the architecture that config.json names, and are not used: ${shown}`,
  );
}

/** What saved a model under longer names than its own. */
const wrappers: Record<string, string> = {
  "base_model.model.": "PEFT before merging",
  "module.": "a data-parallel wrapper",
  "_orig_mod.": "torch.compile",
  "language_model.": "a multimodal model",
};

function prefix_hint(stored: ReadonlyMap<string, TensorInfo>): string {
  for (const [prefix, by] of Object.entries(wrappers))
    if ([...stored.keys()].some((name) => name.startsWith(prefix)))
      return `, but names that begin with ${prefix}, as ${by} writes them`;
  return "";
}

/**
 * Whether the output layer is the table of embeddings again. As in transformers 5, a checkpoint that says so and has another lm_head keeps it,
 * and one that has lm_head alone takes it for both.
 */
async function with_head(config: ModelConfig, tensors: Map<string, TensorInfo>): Promise<ModelConfig> {
  const embedding = "model.embed_tokens.weight";
  const [table, head] = [tensors.get(embedding), tensors.get("lm_head.weight")];
  if (!config.tie_word_embeddings || !head) return config;
  if (!table) tensors.set(embedding, { ...head, name: embedding });
  else if (!(await equal_values(table, head))) {
    warn(
      `${head.file}: tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight; both are used.`,
    );
    return { ...config, tie_word_embeddings: false };
  }
  return config;
}

async function equal_values(one: TensorInfo, other: TensorInfo): Promise<boolean> {
  if (one.shape.join() !== other.shape.join() || !is_float(one.dtype) || !is_float(other.dtype)) return false;
  const handles = await Promise.all([open(one.file), open(other.file)]);
  try {
    const count = one.shape.reduce((product, dim) => product * dim, 1);
    const piece = 2 ** 20;
    for (let at = 0; at < count; at += piece) {
      const size = Math.min(piece, count - at);
      const [a, b] = await Promise.all([one, other].map((tensor, i) => read_floats(handles[i]!, tensor, at, size)));
      if (!a!.every((value, i) => value === b![i])) return false;
    }
    return true;
  } finally {
    for (const handle of handles) await handle.close();
  }
}

function bad(given: string, expected: string, todo = "download the checkpoint again"): BimedixError {
  return new BimedixError("bad_checkpoint", { given, expected, todo });
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

/** As transformers looks: a single file first, whatever index an older save left beside it, then the shards of the index. */
async function read_all_headers(dir: string): Promise<Map<string, TensorInfo>> {
  const single = join(dir, "model.safetensors");
  if (await exists(single)) return read_safetensors_header(await realpath(single));
  const index_file = join(dir, "model.safetensors.index.json");
  const index = await read_json(index_file, "bad_checkpoint", true);
  if (!index) {
    const foreign = await foreign_model(dir);
    throw bad(
      `${dir} has no model.safetensors and no index${foreign ? `; it holds ${foreign.what}` : ""}`,
      "a checkpoint in safetensors",
      foreign?.todo ?? "check the path or download the model again",
    );
  }
  const map = index.weight_map;
  if (typeof map !== "object" || map === null) throw bad(`${index_file} without weight_map`, "a safetensors index");
  const tensors = new Map<string, TensorInfo>();
  for (const shard of [...new Set(Object.values(map))].sort()) {
    // The index is outside text: a name that is more than a file's name would read anywhere on the disk.
    if (
      typeof shard !== "string" ||
      shard !== basename(shard) ||
      shard.includes("\\") ||
      !shard.endsWith(".safetensors")
    ) {
      throw bad(`${index_file} names the shard ${JSON.stringify(shard)}`, "a .safetensors file beside the index");
    }
    const file = join(dir, shard);
    if (!(await exists(file)))
      throw bad(`the shard ${shard} is missing from ${dir}`, "every shard that the index names");
    for (const [name, tensor] of await read_safetensors_header(await realpath(file))) {
      const other = tensors.get(name)?.file;
      if (other) warn(`${name} stands in ${other} and in ${file}; the last shard is used, as in transformers.`);
      tensors.set(name, tensor);
    }
  }
  return tensors;
}

/** The tensors of a file under their classic names. @param prefixed whether names begin with `model.`; default: if one does */
export function classic_names(
  stored: ReadonlyMap<string, TensorInfo>,
  config: ModelConfig,
  prefixed = [...stored.keys()].some((name) => name.startsWith("model.")),
): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  for (const [stored_name, tensor] of stored) {
    const name = prefixed || stored_name.startsWith("lm_head.") ? stored_name : `model.${stored_name}`;
    const fused = /^(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(gate_up_proj|down_proj)$/.exec(name);
    if (fused) {
      const parts = fused[2] === "gate_up_proj" ? ["w1", "w3"] : ["w2"];
      const [experts = 0, rows = 0, columns = 0] = tensor.shape;
      const slices = experts * parts.length;
      if (tensor.shape.length !== 3 || experts !== config.num_local_experts || rows % parts.length !== 0) {
        throw bad(`${stored_name} has shape [${tensor.shape}]`, `[${config.num_local_experts}, rows, columns]`);
      }
      for (let slice = 0; slice < slices; slice++) {
        const part = `${fused[1]}.block_sparse_moe.experts.${Math.floor(slice / parts.length)}.${parts[slice % parts.length]}.weight`;
        const byte_length = tensor.byte_length / slices;
        const shape = [rows / parts.length, columns];
        tensors.set(part, { ...tensor, name: part, shape, offset: tensor.offset + slice * byte_length, byte_length });
      }
    } else {
      const classic =
        config.num_local_experts > 0
          ? name.replace(/\.mlp\.(?=gate\.weight$|experts\.\d+\.w\d\.weight$)/, ".block_sparse_moe.")
          : name;
      tensors.set(classic, { ...tensor, name: classic });
    }
  }
  return tensors;
}
