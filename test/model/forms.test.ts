/** Odd but published forms of checkpoints, beside transformers 5.17 (tools/make_checkpoint_fixtures.py). */
import assert from "node:assert/strict";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { LocalEngine } from "../../src/engine/local.js";
import { parse_json } from "../../src/files.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { parse_config } from "../../src/model/config.js";
import { write_safetensors } from "../../src/model/safetensors.js";
import { open_store } from "../../src/model/store.js";
import { write_model } from "../../src/model/write_model.js";
import { copy_of, max_difference, read_arrays, rejects, remove, root, warnings } from "../fixtures.js";

interface Fixture {
  ids: number[];
  defaults: Record<string, Record<string, unknown>>;
  cases: { name: string; twin: string; config: string; tensors: string | null; logits: number[] }[];
}
const fixture = parse_json(await readFile(join(root, "test/fixtures/checkpoints.json"), "utf8")) as Fixture;
const [EMBEDDING, HEAD] = ["model.embed_tokens.weight", "lm_head.weight"];
type Arrays = Map<string, { shape: number[]; data: number[] }>;

const changes: Record<string, (tensors: Arrays) => void> = {
  another_head: (tensors) => {
    const { shape, data } = tensors.get(EMBEDDING)!;
    tensors.set(HEAD, { shape, data: data.map((value) => value * 2) });
  },
  same_head: (tensors) => tensors.set(HEAD, tensors.get(EMBEDDING)!),
  head_alone: (tensors) => {
    tensors.set(HEAD, tensors.get(EMBEDDING)!);
    tensors.delete(EMBEDDING);
  },
  f64: () => {},
  inv_freq: (tensors) =>
    tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", { shape: [4], data: [1, 1, 1, 1] }),
};

/** A safetensors file in float64, which nothing here writes. */
async function write_f64(file: string, tensors: Arrays): Promise<void> {
  let at = 0;
  const entries = [...tensors].map(([name, { shape, data }]) => {
    return [name, { dtype: "F64", shape, data_offsets: [at, (at += data.length * 8)] }];
  });
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  const bytes = [...tensors.values()].map(({ data }) => Buffer.from(Float64Array.from(data).buffer));
  await writeFile(file, Buffer.concat([length, header, ...bytes]));
}

async function made({ twin, config, tensors }: Fixture["cases"][number]): Promise<string> {
  const dir = await copy_of(twin);
  await writeFile(join(dir, "config.json"), config);
  if (tensors === null) return dir;
  const file = join(dir, "model.safetensors");
  const arrays = await read_arrays(file);
  changes[tensors]!(arrays);
  if (tensors === "f64") await write_f64(file, arrays);
  else {
    const all = [...arrays].map(([name, { shape, data }]) => ({ name, shape, data: Float32Array.from(data) }));
    await write_safetensors(file, all);
  }
  return dir;
}

describe("transformers' logits of", () => {
  for (const one of fixture.cases)
    test(one.name, async () => {
      const dir = await made(one);
      const engine = await LocalEngine.create(await open_store(dir, { dtype: "fp32" }), { threads: 1 });
      const { logits } = await engine.forward([fixture.ids]);
      assert.ok(max_difference([...logits[0]!.slice(-one.logits.length)], one.logits) < 1e-4);
      await engine.dispose();
    });

  test("experts under the router's newer name", async () => {
    const [old, now] = [await copy_of("mixtral-2-experts"), await copy_of("mixtral-2-experts")];
    const arrays = await read_arrays(join(old, "model.safetensors"));
    const renamed = [...arrays].map(([name, { shape, data }]) => ({
      name: name.replace(".block_sparse_moe.", ".mlp."),
      shape,
      data: Float32Array.from(data),
    }));
    assert.ok(renamed.some(({ name }) => name.includes(".mlp.experts.1.w2.weight")));
    await write_safetensors(join(now, "model.safetensors"), renamed);
    const names = async (dir: string) => [...(await open_checkpoint(dir)).tensors.keys()];
    assert.deepEqual(await names(now), await names(old));
  });

  test("another head beside tied embeddings, converted and read again", async () => {
    const dir = await made(fixture.cases.find(({ tensors }) => tensors === "another_head")!);
    const heard = warnings();
    for (const round of ["converted", "from the cache"]) {
      const { config, tensors } = await open_store(dir, { dtype: "q8" });
      assert.equal(config.tie_word_embeddings, false, round);
      assert.ok([...tensors.keys()].some((name) => name.startsWith("lm_head.")));
    }
    assert.match((await heard())[0]!, /tie_word_embeddings is true, but lm_head.weight/);
  });
});

test("what a configuration leaves out is what transformers takes", () => {
  for (const [model_type, expected] of Object.entries(fixture.defaults)) {
    const { rope, eos_token_id, ...config } = parse_config({ model_type }, "config.json");
    const found: Record<string, unknown> = { ...config, rope_theta: rope.theta, eos_token_id: eos_token_id[0] };
    const wanted = model_type === "mixtral" ? {} : { num_local_experts: 0, num_experts_per_tok: 0 };
    const { num_key_value_heads, sliding_window = null, ...rest } = { ...expected, ...wanted } as typeof expected;
    for (const [key, value] of Object.entries({ num_key_value_heads, sliding_window, ...rest }))
      assert.deepEqual(found[key], value, `${model_type} ${key}`);
  }
});

describe("the files of a checkpoint", () => {
  const SHARDED = "mixtral-8-experts-sharded";

  test("one file is read before an older index, whole or in part", async () => {
    const dir = await copy_of(SHARDED);
    const { tensors } = await open_checkpoint(dir);
    const filled = [...tensors.values()].map(({ name, shape }) => ({
      name,
      shape,
      data: new Float32Array(shape.reduce((product, dim) => product * dim, 1)).fill(0.5),
    }));
    await write_safetensors(join(dir, "model.safetensors"), filled);
    const of = async () => new Set([...(await open_checkpoint(dir)).tensors.values()].map(({ file }) => file));
    assert.deepEqual(
      [...(await of())].map((file) => file.replace(/.*[\\/]/, "")),
      ["model.safetensors"],
    );
    await remove(dir, "model-00001-of-00002.safetensors");
    assert.equal((await of()).size, 1);
    // Shards that are written over it are what is read.
    await write_model(dir, dir, filled, { shard_bytes: 1e4 });
    assert.ok((await of()).size > 4);
  });

  test("an index may name a tensor that is nowhere; of two of one name the last shard's is used, and that is said", async () => {
    const dir = await copy_of(SHARDED);
    const file = join(dir, "model.safetensors.index.json");
    const index = JSON.parse(await readFile(file, "utf8")) as { weight_map: Record<string, string> };
    const [first, last] = [...new Set(Object.values(index.weight_map))].sort() as [string, string];
    index.weight_map["model.layers.9.gone"] = first;
    await writeFile(file, JSON.stringify(index));
    const twice = [...(await read_arrays(join(dir, first))).keys()].find((name) => name.includes("norm"))!;
    const shards = await Promise.all([first, last].map((shard) => read_arrays(join(dir, shard))));
    const again = new Map([...shards[1]!, [twice, shards[0]!.get(twice)!]]);
    const all = [...again].map(([name, { shape, data }]) => ({ name, shape, data: Float32Array.from(data) }));
    await write_safetensors(join(dir, last), all);
    const heard = warnings();
    const { tensors } = await open_checkpoint(dir);
    assert.ok(tensors.get(twice)!.file.endsWith(last));
    assert.match((await heard()).join("\n"), new RegExp(`${twice} stands in .*${first} and in .*${last}`));
  });

  test("tensors that are not of the architecture are told", async () => {
    const dir = await copy_of("mixtral-2-experts");
    const arrays = await read_arrays(join(dir, "model.safetensors"));
    const extra = ["model.layers.0.self_attn.q_proj.bias", "optimizer.step"];
    for (const name of extra) arrays.set(name, { shape: [2], data: [0, 0] });
    const all = [...arrays].map(([name, { shape, data }]) => ({ name, shape, data: Float32Array.from(data) }));
    await write_safetensors(join(dir, "model.safetensors"), all);
    const heard = warnings();
    await open_checkpoint(dir);
    assert.match((await heard()).join("\n"), /2 tensors are not of the architecture.*q_proj\.bias, optimizer\.step/);
  });

  test("keys of a rope that are not read are told", async () => {
    const dir = await copy_of("llama3-rope");
    const file = join(dir, "config.json");
    const { rope_parameters: _, ...json } = JSON.parse(await readFile(file, "utf8"));
    const rope_scaling = {
      type: "yarn",
      factor: 4,
      original_max_position_embeddings: 32,
      attn_factor: 0.9,
      finetuned: true,
    };
    await writeFile(file, JSON.stringify({ ...json, rope_scaling }));
    const heard = warnings();
    await open_checkpoint(dir);
    assert.match((await heard()).join(), /ignores: attn_factor, finetuned\./);
  });

  const foreign: [string, RegExp][] = [
    ["model-Q4_K_M.gguf", /holds a GGUF file.*llama\.cpp/],
    ["pytorch_model.bin", /pytorch_model\.bin.*refs\/pr/],
    ["consolidated.safetensors", /maker's own layout/],
    ["model.fp16.safetensors", /safetensors of another name.*name the file model\.safetensors/],
    ["tf_model.h5", /TensorFlow/],
  ];
  for (const [name, mentions] of foreign)
    test(`a folder with ${name} alone`, async () => {
      const dir = await remove(await copy_of("mixtral-2-experts"), "model.safetensors");
      await writeFile(join(dir, name), "");
      await rejects(open_checkpoint(dir), "bad_checkpoint", mentions);
    });

  test("a folder without config.json is called what it is", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
    await writeFile(join(dir, "model.gguf"), "");
    await rejects(open_checkpoint(dir), "file_not_found", /config\.json.*GGUF/);
    const adapter = join(root, "test/fixtures/train/peft4");
    await rejects(open_checkpoint(adapter), "file_not_found", /a PEFT adapter.*base model/);
  });

  test("names under a wrapper's prefix are called what they are", async () => {
    for (const [prefix, by] of [
      ["base_model.model.", "PEFT before merging"],
      ["_orig_mod.", "torch.compile"],
    ]) {
      const dir = await copy_of("mixtral-2-experts");
      const arrays = await read_arrays(join(dir, "model.safetensors"));
      const all = [...arrays].map(([name, { shape, data }]) => ({
        name: `${prefix}${name}`,
        shape,
        data: Float32Array.from(data),
      }));
      await write_safetensors(join(dir, "model.safetensors"), all);
      await rejects(open_checkpoint(dir), "bad_checkpoint", new RegExp(`begin with ${prefix}, as ${by}`));
    }
  });
});

describe("a quantised checkpoint is named as what it is", () => {
  const linear = "model.layers.0.self_attn.q_proj";
  const bytes = { U8: 1, I8: 1, F8_E4M3: 1, F16: 2, I32: 4, U32: 4, F32: 4, F4: 0.5 } as const;
  type Extra = [suffix: string, dtype: keyof typeof bytes, shape: number[]][];
  const cases: [object, Extra, RegExp][] = [
    [{ quantization_config: { quant_method: "awq", bits: 4 } }, [["qweight", "I32", [32, 4]]], /\(AWQ in 4 bits\)/],
    [
      { quantization_config: { quant_method: "gptq", bits: 4 } },
      [
        ["qweight", "I32", [4, 32]],
        ["g_idx", "I32", [32]],
      ],
      /\(GPTQ in 4 bits\)/,
    ],
    [
      {},
      [
        ["qweight", "I32", [4, 32]],
        ["g_idx", "I32", [32]],
      ],
      /\(GPTQ\)/,
    ],
    [
      { quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true } },
      [
        ["weight", "U8", [512, 1]],
        ["weight.absmax", "F32", [16]],
      ],
      /\(bitsandbytes in 4 bits\)/,
    ],
    [{ quantization_config: { quant_method: "fp8" } }, [["weight", "F8_E4M3", [32, 32]]], /\(FP8\).*F8_E4M3/],
    [
      {},
      [
        ["weight", "F8_E4M3", [32, 32]],
        ["weight_scale", "F32", [1]],
      ],
      /\(FP8 or int8\)/,
    ],
    [
      { quantization_config: { quant_method: "compressed-tensors" } },
      [["weight_packed", "I32", [32, 4]]],
      /\(compressed-tensors\)/,
    ],
    [
      { quantization: { group_size: 64, bits: 4 } },
      [
        ["weight", "U32", [32, 4]],
        ["biases", "F16", [32, 1]],
      ],
      /\(MLX in 4 bits\)/,
    ],
    [{ quantization_config: { quant_method: "mxfp4" } }, [["weight", "F4", [32, 32]]], /\(MXFP4\)/],
  ];
  for (const [change, extra, mentions] of cases)
    test(String(mentions), async () => {
      const dir = await copy_of("mixtral-2-experts");
      const file = join(dir, "model.safetensors");
      const whole = await readFile(file);
      const length = Number(whole.readBigUInt64LE());
      const header = JSON.parse(whole.toString("utf8", 8, 8 + length));
      let end = whole.length - 8 - length;
      // The matrix stays in the file under a name that nothing asks for.
      header[`${linear}.was`] = header[`${linear}.weight`];
      delete header[`${linear}.weight`];
      for (const [suffix, dtype, shape] of extra) {
        const size = shape.reduce((product, dim) => product * dim, bytes[dtype]);
        header[`${linear}.${suffix}`] = { dtype, shape, data_offsets: [end, (end += size)] };
      }
      const text = Buffer.from(JSON.stringify(header));
      const head = Buffer.alloc(8);
      head.writeBigUInt64LE(BigInt(text.length));
      const tail = Buffer.alloc(end - (whole.length - 8 - length));
      await writeFile(file, Buffer.concat([head, text, whole.subarray(8 + length), tail]));
      const config = join(dir, "config.json");
      await writeFile(config, JSON.stringify({ ...JSON.parse(await readFile(config, "utf8")), ...change }));
      await rejects(open_checkpoint(dir), "bad_checkpoint", mentions);
      await rejects(open_checkpoint(dir), "bad_checkpoint", /the model that it was made from/);
    });

  test("float weights with a quantization_config, as QLoRA leaves it, are read", async () => {
    const dir = await copy_of("mixtral-2-experts");
    const config = join(dir, "config.json");
    const json = JSON.parse(await readFile(config, "utf8"));
    const quantization_config = { quant_method: "bitsandbytes", load_in_4bit: true };
    await writeFile(config, JSON.stringify({ ...json, quantization_config }));
    assert.ok((await open_checkpoint(dir)).tensors.size > 20);
  });
});

test("JSON is read as Python writes it", () => {
  const text = '{"a": NaN, "b": [Infinity, -Infinity, 1e3], "c": "NaN \\"Infinity\\" \\\\", "d": {"NaN": null}}';
  const expected = { a: Number.NaN, b: [Infinity, -Infinity, 1000], c: 'NaN "Infinity" \\', d: { NaN: null } };
  assert.deepEqual(parse_json(text), expected);
  for (const bad of ["{", "{a: NaN}", '{"a": nan}', '{"a": NaNa}', "[NaN,]"])
    assert.throws(() => parse_json(bad), SyntaxError);
});
