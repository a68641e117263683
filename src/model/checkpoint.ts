/**
 * A Hugging Face checkpoint directory: config.json and safetensors, one file or shards with an index.
 *
 * Three layouts exist in the wild: per-expert tensors (every published Mixtral), transformers 5's fused experts, and base
 * models saved without the `model.` prefix. All are read into the first one's names. The fused layout needs no copy:
 * an expert's matrix is a contiguous run of bytes inside it.
 */
import { access, readdir, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";
import { type ModelConfig, read_config } from "./config.js";
import { read_safetensors_header, type TensorInfo } from "./safetensors.js";

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
  const config = await read_config(dir);
  const stored = classic_names(await read_all_headers(dir), config);
  const tensors = new Map<string, TensorInfo>();
  for (const { name, shape } of expected_tensors(config)) {
    const tensor = stored.get(name);
    if (!tensor) throw bad(`${dir} has no tensor ${name}`, "every weight of the architecture");
    if (tensor.shape.join() !== shape.join()) {
      throw bad(`${name} in ${tensor.file} has shape [${tensor.shape}]`, `[${shape}], as config.json says`);
    }
    tensors.set(name, tensor);
  }
  return { dir, config, tensors };
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

async function read_all_headers(dir: string): Promise<Map<string, TensorInfo>> {
  const index_file = join(dir, "model.safetensors.index.json");
  const index = await read_json(index_file, "bad_checkpoint", true);
  if (!index) {
    const single = join(dir, "model.safetensors");
    if (await exists(single)) return read_safetensors_header(await realpath(single));
    const names: string[] = await readdir(dir).catch(() => []);
    if (names.some((name) => /^pytorch_model.*\.bin$/.test(name))) {
      throw bad(
        `${dir} has only pytorch_model.bin files`,
        "safetensors",
        "use a revision of the model that has safetensors files",
      );
    }
    throw bad(
      `${dir} has no model.safetensors and no index`,
      "a checkpoint in safetensors",
      "check the path or download the model again",
    );
  }
  const map = index.weight_map;
  if (typeof map !== "object" || map === null) throw bad(`${index_file} without weight_map`, "a safetensors index");
  const tensors = new Map<string, TensorInfo>();
  for (const shard of new Set(Object.values(map))) {
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
      if (tensors.has(name))
        throw bad(`${name} stands in ${tensors.get(name)!.file} and in ${file}`, "every tensor in one shard");
      tensors.set(name, tensor);
    }
  }
  for (const [name, shard] of Object.entries(map)) {
    if (!tensors.has(name))
      throw bad(`${name} is not in ${shard}, where ${index_file} puts it`, "shards that match their index");
  }
  return tensors;
}

function classic_names(stored: Map<string, TensorInfo>, config: ModelConfig): Map<string, TensorInfo> {
  const tensors = new Map<string, TensorInfo>();
  const prefixed = [...stored.keys()].some((name) => name.startsWith("model."));
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
      const classic = config.num_local_experts > 0 ? name.replace(".mlp.gate.", ".block_sparse_moe.gate.") : name;
      tensors.set(classic, { ...tensor, name: classic });
    }
  }
  return tensors;
}
