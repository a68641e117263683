// Writes random weights of a shape as GGUF in Q4_0, as llama.cpp names and orders them. Run: node bench/gguf.mjs A FILE
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The tokenizer is 32,000 dummy pieces: peers get token ids.
import { closeSync, openSync, renameSync, writeSync } from "node:fs";
import { shapes } from "./shapes.mjs";

const F32 = 0;
const Q4_0 = 2;
const ALIGNMENT = 32;

function tensors_of({
  hidden_size: h,
  intermediate_size: f,
  num_hidden_layers,
  num_attention_heads,
  num_key_value_heads,
  num_local_experts: e,
  vocab_size: v,
}) {
  const kv = (h / num_attention_heads) * num_key_value_heads;
  const list = [["token_embd.weight", [h, v], Q4_0]];
  for (let n = 0; n < num_hidden_layers; n++) {
    const add = (name, dims, type) => list.push([`blk.${n}.${name}.weight`, dims, type]);
    add("attn_norm", [h], F32);
    add("attn_q", [h, h], Q4_0);
    add("attn_k", [h, kv], Q4_0);
    add("attn_v", [h, kv], Q4_0);
    add("attn_output", [h, h], Q4_0);
    add("ffn_norm", [h], F32);
    add("ffn_gate_inp", [h, e], F32);
    add("ffn_gate_exps", [h, f, e], Q4_0);
    add("ffn_down_exps", [f, h, e], Q4_0);
    add("ffn_up_exps", [h, f, e], Q4_0);
  }
  list.push(["output_norm.weight", [h], F32], ["output.weight", [h, v], Q4_0]);
  return list.map(([name, dims, type]) => {
    const count = dims.reduce((a, b) => a * b);
    return { name, dims, type, bytes: type === F32 ? 4 * count : (count / 32) * 18 };
  });
}

const u32 = (n) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n) => Buffer.from(BigUint64Array.of(BigInt(n)).buffer);
const f32 = (x) => Buffer.from(Float32Array.of(x).buffer);
const string = (text) => Buffer.concat([u64(Buffer.byteLength(text)), Buffer.from(text)]);
const array = (type, items) => Buffer.concat([u32(9), u32(type), u64(items.length), ...items]);

function metadata(shape) {
  const piece = (i) =>
    i < 3
      ? ["<unk>", "<s>", "</s>"][i]
      : i < 259
        ? `<0x${(i - 3).toString(16).toUpperCase().padStart(2, "0")}>`
        : `▁t${i}`;
  const type = (i) => (i === 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1);
  const ids = Array.from({ length: shape.vocab_size }, (_, i) => i);
  const text = (value) => Buffer.concat([u32(8), string(value)]);
  const number = (value) => Buffer.concat([u32(4), u32(value)]);
  const float = (value) => Buffer.concat([u32(6), f32(value)]);
  return {
    "general.architecture": text("llama"),
    "general.name": text("random"),
    "general.file_type": number(2),
    "llama.vocab_size": number(shape.vocab_size),
    "llama.context_length": number(shape.max_position_embeddings),
    "llama.embedding_length": number(shape.hidden_size),
    "llama.block_count": number(shape.num_hidden_layers),
    "llama.feed_forward_length": number(shape.intermediate_size),
    "llama.attention.head_count": number(shape.num_attention_heads),
    "llama.attention.head_count_kv": number(shape.num_key_value_heads),
    "llama.attention.layer_norm_rms_epsilon": float(shape.rms_norm_eps),
    "llama.rope.freq_base": float(shape.rope_theta),
    "llama.rope.dimension_count": number(shape.hidden_size / shape.num_attention_heads),
    "llama.expert_count": number(shape.num_local_experts),
    "llama.expert_used_count": number(shape.num_experts_per_tok),
    "tokenizer.ggml.model": text("llama"),
    "tokenizer.ggml.tokens": array(
      8,
      ids.map((i) => string(piece(i))),
    ),
    "tokenizer.ggml.scores": array(
      6,
      ids.map((i) => f32(-i)),
    ),
    "tokenizer.ggml.token_type": array(
      5,
      ids.map((i) => u32(type(i))),
    ),
    "tokenizer.ggml.bos_token_id": number(1),
    "tokenizer.ggml.eos_token_id": number(2),
    "tokenizer.ggml.unknown_token_id": number(0),
  };
}

export function write_gguf(shape, file) {
  const tensors = tensors_of(shape);
  const pairs = Object.entries(metadata(shape));
  let offset = 0;
  const infos = tensors.map(({ name, dims, type, bytes }) => {
    const info = Buffer.concat([string(name), u32(dims.length), ...dims.map(u64), u32(type), u64(offset)]);
    offset += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    return info;
  });
  const head = Buffer.concat([
    Buffer.from("GGUF"),
    u32(3),
    u64(tensors.length),
    u64(pairs.length),
    ...pairs.flatMap(([key, value]) => [string(key), value]),
    ...infos,
  ]);
  // Q4_0: a float16 scale (0.0045, for values near 0.02) and 16 bytes of random codes.
  const blocks = Buffer.alloc(18 * 2 ** 18);
  for (let at = 0; at < blocks.length; at++) blocks[at] = Math.random() * 256;
  for (let at = 0; at < blocks.length; at += 18) blocks.writeUInt16LE(0x1c9c, at);
  const floats = Buffer.from(new Float32Array(2 ** 16).fill(1).buffer);
  const router = Buffer.from(Float32Array.from({ length: 2 ** 16 }, () => 0.1 * (Math.random() - 0.5)).buffer);
  const fd = openSync(`${file}.part`, "w");
  const pad = (n) => writeSync(fd, Buffer.alloc(-n & (ALIGNMENT - 1)));
  writeSync(fd, head);
  pad(head.length);
  for (const { name, type, bytes } of tensors) {
    const from = type === Q4_0 ? blocks : name.includes("gate_inp") ? router : floats;
    for (let done = 0; done < bytes; ) done += writeSync(fd, from, 0, Math.min(from.length, bytes - done));
    pad(bytes);
  }
  closeSync(fd);
  renameSync(`${file}.part`, file);
}

if (process.argv[1]?.endsWith("gguf.mjs")) write_gguf(shapes[process.argv[2]], process.argv[3]);
