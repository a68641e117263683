/** Checkpoints and configurations that lie, are cut short or are not there: each ends in one typed line. */
import assert from "node:assert/strict";
import { chmod, mkdir, mkdtemp, readdir, readFile, rename, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { LocalEngine } from "../../src/engine/local.js";
import { BimedixError } from "../../src/errors.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { parse_config } from "../../src/model/config.js";
import { parse_dtype } from "../../src/model/convert.js";
import { open_store } from "../../src/model/store.js";
import { write_model } from "../../src/model/write_model.js";
import { copy_of, rejects, remove } from "../fixtures.js";

const SINGLE = "mixtral-2-experts";
const SHARDED = "mixtral-8-experts-sharded";
type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

/** Rewrites the header of model.safetensors, keeping the bytes behind it. */
async function with_header(change: (header: Header, name: string) => unknown): Promise<string> {
  const dir = await copy_of(SINGLE);
  const file = join(dir, "model.safetensors");
  const bytes = await readFile(file);
  const length = Number(bytes.readBigUInt64LE());
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Header;
  const changed = change(header, "model.norm.weight") ?? header;
  const text = Buffer.from(typeof changed === "string" ? changed : JSON.stringify(changed));
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(text.length));
  await writeFile(file, Buffer.concat([head, text, bytes.subarray(8 + length)]));
  return dir;
}

async function with_bytes(edit: (bytes: Buffer) => Buffer): Promise<string> {
  const dir = await copy_of(SINGLE);
  const file = join(dir, "model.safetensors");
  await writeFile(file, edit(await readFile(file)));
  return dir;
}

async function with_index(edit: (map: Record<string, string>) => void): Promise<string> {
  const dir = await copy_of(SHARDED);
  const file = join(dir, "model.safetensors.index.json");
  const index = JSON.parse(await readFile(file, "utf8")) as { weight_map: Record<string, string> };
  edit(index.weight_map);
  await writeFile(file, JSON.stringify(index));
  return dir;
}

const length_of_header = (value: bigint) => (bytes: Buffer) => {
  bytes.writeBigUInt64LE(value);
  return bytes;
};

const checkpoints: [string, () => Promise<string>, string, RegExp][] = [
  ["a missing directory", async () => "/nowhere/at/all", "file_not_found", /config\.json/],
  ["an empty directory", () => mkdtemp(join(tmpdir(), "bimedix-")), "file_not_found", /config\.json/],
  [
    "no weights",
    async () => remove(await copy_of(SINGLE), "model.safetensors"),
    "bad_checkpoint",
    /no model\.safetensors/,
  ],
  [
    "only PyTorch files",
    async () => renamed(await copy_of(SINGLE), "model.safetensors", "pytorch_model-00001-of-00019.bin"),
    "bad_checkpoint",
    /safetensors/,
  ],
  ["an empty file", () => with_bytes(() => Buffer.alloc(0)), "bad_checkpoint", /0 bytes/],
  ["seven bytes", () => with_bytes((bytes) => bytes.subarray(0, 7)), "bad_checkpoint", /7 bytes/],
  [
    "a header length of 2^63",
    () => with_bytes(length_of_header(2n ** 63n)),
    "bad_checkpoint",
    /header of 9223372036854775808/,
  ],
  [
    "a header longer than the file",
    () => with_bytes(length_of_header(10_000_000n)),
    "bad_checkpoint",
    /header of 10000000/,
  ],
  ["a header cut short", () => with_bytes(length_of_header(20n)), "bad_checkpoint", /not JSON/],
  [
    "a truncated file",
    () => with_bytes((bytes) => bytes.subarray(0, bytes.length - 100)),
    "bad_checkpoint",
    /cut short/,
  ],
  [
    "bytes after the end",
    () => with_bytes((bytes) => Buffer.concat([bytes, Buffer.alloc(8)])),
    "bad_checkpoint",
    /after the last tensor/,
  ],
  ["a header that is a list", () => with_header(() => "[1]"), "bad_checkpoint", /JSON/],
  [
    "an unknown dtype",
    () => with_header((header, name) => void (header[name]!.dtype = "F12")),
    "bad_checkpoint",
    /F12/,
  ],
  [
    "a dtype from the prototype",
    () => with_header((header, name) => void (header[name]!.dtype = "constructor")),
    "bad_checkpoint",
    /constructor/,
  ],
  [
    "an integer tensor",
    () => with_header((header, name) => void (header[name]!.dtype = "I32")),
    "bad_checkpoint",
    /I32/,
  ],
  [
    "a negative dimension",
    () => with_header((header, name) => void (header[name]!.shape = [-32])),
    "bad_checkpoint",
    /shape/,
  ],
  [
    "a shape beyond all numbers",
    () => with_header((header, name) => void (header[name]!.shape = [2 ** 52, 2 ** 52])),
    "bad_checkpoint",
    /takes/,
  ],
  [
    "a size that does not fit the shape",
    () => with_header((header, name) => void (header[name]!.shape = [31])),
    "bad_checkpoint",
    /takes/,
  ],
  [
    "offsets that overlap",
    () => with_header((header, name) => void (header[name]!.data_offsets = [0, 128])),
    "bad_checkpoint",
    /hole or an overlap/,
  ],
  [
    "reversed offsets",
    () => with_header((header, name) => void (header[name]!.data_offsets = [128, 0])),
    "bad_checkpoint",
    /takes/,
  ],
  [
    "a tensor named twice",
    () =>
      with_header((header) =>
        JSON.stringify(header).replace("{", '{"model.norm.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'),
      ),
    "bad_checkpoint",
    /twice/,
  ],
  [
    "a missing tensor",
    () =>
      with_header((header) => JSON.parse(JSON.stringify(header).replace("model.norm.weight", "model.other.weight"))),
    "bad_checkpoint",
    /model\.norm\.weight/,
  ],
  ["a tensor of another shape", () => with_config({ hidden_size: 64 }), "bad_checkpoint", /shape/],
  ["too many experts in the config", () => with_config({ num_local_experts: 4 }), "bad_checkpoint", /experts\.2|gate/],
  ["NaN weights", () => with_bytes((bytes) => bytes.fill(0xff, bytes.length - 64)), "nan_weights", /NaN/],
  [
    "infinite weights",
    () =>
      with_bytes((bytes) => {
        bytes.writeFloatLE(Number.POSITIVE_INFINITY, bytes.length - 4);
        return bytes;
      }),
    "nan_weights",
    /infinite/,
  ],
  [
    "an index that names ../",
    () => with_index((map) => void (map["model.norm.weight"] = "../x.safetensors")),
    "bad_checkpoint",
    /\.\.\/x/,
  ],
  [
    "an index that names an absolute file",
    () => with_index((map) => void (map["model.norm.weight"] = "/etc/passwd")),
    "bad_checkpoint",
    /passwd/,
  ],
  [
    "an index that names NUL",
    () => with_index((map) => void (map["model.norm.weight"] = "a\u0000.safetensors")),
    "bad_checkpoint",
    /shard/,
  ],
  [
    "an index that names a number",
    () => with_index((map) => void ((map as Record<string, unknown>)["model.norm.weight"] = 3)),
    "bad_checkpoint",
    /shard 3/,
  ],
  [
    "a missing shard",
    async () => remove(await copy_of(SHARDED), "model-00002-of-00002.safetensors"),
    "bad_checkpoint",
    /model-00002/,
  ],
  ["a dangling link", async () => dangling(await copy_of(SINGLE)), "bad_checkpoint", /no model\.safetensors/],
];

async function renamed(dir: string, from: string, to: string): Promise<string> {
  await rename(join(dir, from), join(dir, to));
  return dir;
}
async function dangling(dir: string): Promise<string> {
  await remove(dir, "model.safetensors");
  await symlink("/nowhere", join(dir, "model.safetensors"));
  return dir;
}
async function with_config(change: object): Promise<string> {
  const dir = await copy_of(SINGLE);
  const file = join(dir, "config.json");
  await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), ...change }));
  return dir;
}

describe("a checkpoint", () => {
  for (const [name, make, code, mentions] of checkpoints) {
    // q8 reads every byte, as fp32 only names them to the runtime.
    test(name, async () => rejects(open_store(await make(), { dtype: "q8" }), code, mentions));
  }

  test("NaN in float32 weights that are not copied, in the router too, whose choice would hide it", async () => {
    const last = await with_bytes((bytes) => bytes.fill(0xff, bytes.length - 64));
    await rejects(open_store(last, { dtype: "fp32" }), "nan_weights", /holds NaN/);
    const router = await copy_of(SINGLE);
    const { tensors } = await open_checkpoint(router);
    const { file, offset } = tensors.get("model.layers.1.block_sparse_moe.gate.weight")!;
    const bytes = await readFile(file);
    bytes.writeFloatLE(Number.NaN, offset);
    await writeFile(file, bytes);
    await rejects(open_store(router, { dtype: "fp32" }), "nan_weights", /gate\.weight.* holds NaN/);
  });

  test("weights so large that the logits overflow are found at the first token", async () => {
    // 0x7e7e7e7e is a finite float32.
    const dir = await with_bytes((bytes) => bytes.fill(0x7e, bytes.length - 20_000));
    const load = async () => LocalEngine.create(await open_store(dir, { dtype: "fp32" }), { threads: 1 });
    const run = async () => {
      for await (const _ of (await load()).generate([[1, 2]])) break;
    };
    await rejects(run(), "non_finite_logits", /NaN/);
  });

  test("an unreadable file", { skip: process.getuid?.() === 0 ? "root may read every file" : false }, async () => {
    const dir = await copy_of(SINGLE);
    await chmod(join(dir, "model.safetensors"), 0);
    await rejects(open_store(dir, { dtype: "q8" }), "file_unreadable", /permissions/);
  });
});

describe("config.json", () => {
  const good = {
    model_type: "mixtral",
    vocab_size: 100,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    num_local_experts: 4,
  };
  const cases: [object, string, RegExp][] = [
    [{ num_attention_heads: 0 }, "bad_config", /num_attention_heads 0/],
    [{ num_attention_heads: "4" }, "bad_config", /num_attention_heads "4"/],
    [{ num_attention_heads: 3 }, "bad_config", /num_key_value_heads/],
    [{ num_key_value_heads: 3 }, "bad_config", /divisor/],
    [{ num_hidden_layers: 1e9 }, "bad_config", /num_hidden_layers/],
    [{ num_hidden_layers: -1 }, "bad_config", /num_hidden_layers/],
    [{ num_hidden_layers: 1024, num_local_experts: 4096 }, "bad_config", /num_hidden_layers 1024.*4096 experts/],
    [{ num_hidden_layers: 128, num_local_experts: 32 }, "", /./],
    [{ num_experts_per_tok: 5 }, "bad_config", /num_experts_per_tok/],
    [{ num_local_experts: 0 }, "bad_config", /num_local_experts/],
    [{ hidden_size: 66 }, "bad_config", /multiple/],
    [{ head_dim: 15 }, "bad_config", /even/],
    [{ vocab_size: null }, "", /./],
    [{ vocab_size: 2.5 }, "bad_config", /vocab_size/],
    [{ eos_token_id: "2" }, "bad_config", /eos_token_id "2"/],
    [{ bos_token_id: 1.5 }, "bad_config", /bos_token_id 1.5/],
    [{ rms_norm_eps: 0 }, "bad_config", /rms_norm_eps/],
    [{ rope_theta: "x" }, "bad_config", /rope/],
    [{ rope_scaling: { rope_type: "longrope", factor: 4 } }, "bad_config", /rope_type default, linear/],
    [{ rope_parameters: { full_attention: { rope_type: "default" } } }, "bad_config", /full_attention/],
    [{ rope_scaling: { type: "linear", factor: 2 }, partial_rotary_factor: 0.5 }, "bad_config", /partial_rotary/],
    [{ rope_scaling: { rope_type: "linear" } }, "bad_config", /factor/],
    [{ rope_scaling: { rope_type: "linear", factor: 1e-320 } }, "bad_config", /finite angles/],
    [{ rope_scaling: 1e308 }, "bad_config", /rope_scaling.*an object/],
    [{ rope_parameters: true }, "bad_config", /rope_parameters.*an object/],
    [{ hidden_act: "gelu" }, "bad_config", /hidden_act/],
    [{ attention_bias: true }, "bad_config", /attention_bias/],
    [{ mlp_bias: true }, "bad_config", /mlp_bias/],
    [{ logits_scaling: 8 }, "bad_config", /logits_scaling 8/],
    [{ final_logit_softcapping: 30 }, "bad_config", /final_logit_softcapping/],
    [{ model_type: "mistral", sliding_window: 0 }, "bad_config", /sliding_window 0/],
    [{ model_type: "mistral", layer_types: ["full_attention", "sliding_attention"] }, "bad_config", /layer_types/],
    [{ tie_word_embeddings: "yes" }, "bad_config", /tie_word_embeddings/],
    [{ model_type: "qwen2", architectures: ["LlamaForCausalLM"] }, "unsupported_architecture", /qwen2/],
    [{ model_type: "bert", architectures: ["BertModel"] }, "unsupported_architecture", /Mixtral/],
    [{ model_type: "__proto__" }, "unsupported_architecture", /Mixtral/],
  ];
  for (const [change, code, mentions] of cases) {
    test(JSON.stringify(change), async () => {
      const parse = async () => parse_config({ ...good, ...change }, "config.json");
      if (code === "") await parse();
      else await rejects(parse(), code, mentions);
    });
  }
});

test("an unknown dtype", () => {
  assert.throws(
    () => parse_dtype("q3"),
    (error) => error instanceof BimedixError && error.code === "bad_option" && error.message.includes("fp32, q8, q4"),
  );
});

test("weights written over an earlier model's are the ones that are read", async () => {
  const dir = await copy_of(SHARDED);
  const { tensors } = await open_checkpoint(dir);
  const written = async (value: number, shard_bytes?: number) => {
    const filled = [...tensors.values()].map(({ name, shape }) => ({
      name,
      shape,
      data: new Float32Array(shape.reduce((product, dim) => product * dim, 1)).fill(value),
    }));
    await write_model(dir, dir, filled, { shard_bytes });
    const { name, file, offset } = (await open_checkpoint(dir)).tensors.get("model.norm.weight")!;
    assert.equal((await readFile(file)).readFloatLE(offset), value, name);
    return (await readdir(dir)).filter((file) => file.startsWith("model")).length;
  };
  await mkdir(join(dir, "onnx"));
  for (const name of ["model_q4.onnx", "model_q4.onnx_data"])
    await writeFile(join(dir, "onnx", name), "an earlier model's");
  assert.equal(await written(1), 1);
  assert.deepEqual(await readdir(join(dir, "onnx")), []);
  assert.ok((await written(2, 1e4)) > 4);
  assert.ok((await written(3, 1e5)) > 2);
  assert.equal(await written(4), 1);
});
