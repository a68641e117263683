/** The random Mixtral of tools/make_eval_fixtures.py: its weights follow from a formula, so that they need no file. */
import { copyFile, mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expected_tensors } from "../../src/model/checkpoint.js";
import { parse_config } from "../../src/model/config.js";
import { shared } from "../fixtures.js";

const CONFIG = {
  architectures: ["MixtralForCausalLM"],
  model_type: "mixtral",
  vocab_size: 32000,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  num_local_experts: 4,
  num_experts_per_tok: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 1e6,
  max_position_embeddings: 640,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "float32",
};

/** The order in which the formula counts the tensors of a layer. */
const ORDER = [
  ..."qkvo".split("").map((name) => `self_attn.${name}_proj.weight`),
  "block_sparse_moe.gate.weight",
  ...[0, 1, 2, 3].flatMap((e) => ["w1", "w3", "w2"].map((name) => `block_sparse_moe.experts.${e}.${name}.weight`)),
  "input_layernorm.weight",
  "post_attention_layernorm.weight",
];

/** Writes it with the real Mixtral tokenizer and returns its directory. */
export async function random_mixtral(): Promise<string> {
  const shapes = new Map([...expected_tensors(parse_config(CONFIG, "config"))].map(({ name, shape }) => [name, shape]));
  const names = ["model.embed_tokens.weight"];
  for (const layer of [0, 1]) names.push(...ORDER.map((name) => `model.layers.${layer}.${name}`));
  names.push("model.norm.weight", "lm_head.weight");
  const header: Record<string, unknown> = {};
  const parts: Float32Array[] = [];
  let at = 0;
  for (const name of names) {
    const shape = shapes.get(name)!;
    const values = new Float32Array(shape.reduce((product, dim) => product * dim, 1));
    const scale = Math.sqrt(3 / (shape[1] ?? 1));
    for (let i = 0; i < values.length; i++) {
      const uniform = (hash(at + i) >>> 8) / 2 ** 23 - 1;
      values[i] = shape.length === 1 ? 1 + 0.1 * uniform : uniform * scale;
    }
    header[name] = { dtype: "F32", shape, data_offsets: [at * 4, (at + values.length) * 4] };
    at += values.length;
    parts.push(values);
  }
  const dir = join(await mkdtemp(join(tmpdir(), "bimedix-")), "random-mixtral");
  await mkdir(dir);
  const text = JSON.stringify(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.length));
  const bodies = parts.map(({ buffer, byteLength }) => Buffer.from(buffer, 0, byteLength));
  await writeFile(join(dir, "model.safetensors"), Buffer.concat([head, Buffer.from(text), ...bodies]));
  await writeFile(join(dir, "config.json"), JSON.stringify(CONFIG));
  for (const file of ["tokenizer.json", "tokenizer_config.json", "tokenizer.model"])
    await copyFile(join(shared, "tokenizers/mixtral", file), join(dir, file));
  return dir;
}

function hash(i: number): number {
  let x = Math.imul(i ^ (i >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
