/** Adapters: files that PEFT wrote, in both layouts (tools/make_adapter_fixtures.py), and what the engine makes of them. */
import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { LocalEngine } from "../../src/engine/local.js";
import { write_adapter } from "../../src/model/adapter.js";
import { read_config } from "../../src/model/config.js";
import { lora_a_name, lora_b_name } from "../../src/model/lora.js";
import { merge_adapter } from "../../src/model/merge.js";
import { read_adapter } from "../../src/model/read_adapter.js";
import { write_safetensors } from "../../src/model/safetensors.js";
import { open_store } from "../../src/model/store.js";
import { max_difference, read_arrays, rejects, root, twins } from "../fixtures.js";

const base = join(root, "test/fixtures/train/base");
const made = (name: string) => join(root, "test/fixtures/train", name);
const names = ["peft4", "peft4-rslora", "peft5", "peft5-converted"];
const adapters = Object.fromEntries(names.map((name) => [name, made(name)]));
const temporary = () => mkdtemp(join(tmpdir(), "bimedix-"));

async function reference(name: string) {
  const arrays = await read_arrays(join(made(name), "reference.safetensors"));
  return { input_ids: arrays.get("input_ids")!.data, logits: arrays.get("logits")!.data };
}

describe("adapters", () => {
  test("each gives PEFT's logits, chosen by call among several on one base", async () => {
    const engine = await LocalEngine.create(await open_store(base, { dtype: "fp32" }), { adapters, adapter: "peft5" });
    const plain = await LocalEngine.create(await open_store(base, { dtype: "fp32" }));
    for (const name of [...names, ...names.toReversed()]) {
      const { input_ids, logits } = await reference(name);
      const result = await engine.forward([input_ids], { adapter: name });
      assert.ok(max_difference(result.logits[0]!, logits) < 1e-4, name);
      const without = await engine.forward([input_ids], { adapter: null });
      assert.equal(max_difference(without.logits[0]!, (await plain.forward([input_ids])).logits[0]!), 0);
      assert.ok(max_difference(without.logits[0]!, logits) > 0.01);
      // A continuation with one adapter does not see what another left in the cache.
      const tokens: number[] = [];
      for await (const { token_id } of engine.generate([input_ids], {
        adapter: name,
        max_new_tokens: 3,
        eos_token_id: null,
      }))
        tokens.push(token_id);
      const alone = await LocalEngine.create(await open_store(base, { dtype: "fp32" }), {
        adapters: { one: made(name) },
      });
      const expected: number[] = [];
      for await (const { token_id } of alone.generate([input_ids], {
        adapter: "one",
        max_new_tokens: 3,
        eos_token_id: null,
      }))
        expected.push(token_id);
      assert.deepEqual(tokens, expected);
      await alone.dispose();
    }
    const { input_ids, logits } = await reference("peft5");
    assert.ok(max_difference((await engine.forward([input_ids])).logits[0]!, logits) < 1e-4, "the default one");
    await rejects(
      engine.forward([input_ids], { adapter: "other" }),
      "bad_option",
      /"other".*peft4, peft4-rslora, peft5, peft5-converted/,
    );
    await engine.dispose();
    await plain.dispose();
  });

  for (const name of names)
    test(`${name} merged gives the same logits as unmerged`, async () => {
      // In float32: in the base's own bfloat16 the sum is rounded.
      const [exact, output] = [await temporary(), await temporary()];
      const arrays = await read_arrays(join(base, "model.safetensors"));
      const tensors = [...arrays].map(([key, { shape, data }]) => ({
        name: key,
        shape,
        data: Float32Array.from(data),
      }));
      await write_safetensors(join(exact, "model.safetensors"), tensors);
      await cp(join(base, "config.json"), join(exact, "config.json"));
      const { pairs } = await read_adapter(made(name), await read_config(base));
      assert.deepEqual(await merge_adapter(exact, made(name), output), { changed: pairs.size, unchanged: [] });
      const merged = await LocalEngine.create(await open_store(output, { dtype: "fp32" }));
      const { input_ids, logits } = await reference(name);
      assert.ok(max_difference((await merged.forward([input_ids])).logits[0]!, logits) < 1e-4);
      await merged.dispose();
    });

  test("what is written is read again, and both layouts of one adapter are the same pairs", async () => {
    const config = await read_config(base);
    const dir = await temporary();
    const { pairs, config: json } = await read_adapter(made("peft5"), config);
    const tensors = [...pairs].flatMap(([name, { rank, a, b }]) => [
      { name: lora_a_name(name), shape: [rank, a.length / rank], data: a },
      { name: lora_b_name(name), shape: [b.length / rank, rank], data: b },
    ]);
    const target_modules = [...(json.target_modules as string[]), "w1", "w2", "w3", "gate"];
    await write_adapter(dir, { ...json, target_modules, target_parameters: null }, tensors);
    const again = await read_adapter(dir, config);
    assert.deepEqual([...again.pairs], [...pairs]);
  });

  test("what does not fit is refused, not dropped", async () => {
    const config = await read_config(base);
    const changed = async (name: string, change: (json: Record<string, unknown>) => void) => {
      const dir = await temporary();
      await cp(made(name), dir, { recursive: true });
      const file = join(dir, "adapter_config.json");
      const json = JSON.parse(await readFile(file, "utf8"));
      change(json);
      await writeFile(file, JSON.stringify(json));
      return dir;
    };
    const refuses = async (name: string, mentions: RegExp, change: (json: Record<string, unknown>) => void) =>
      rejects(read_adapter(await changed(name, change), config), "bad_adapter", mentions);
    await refuses("peft4", /peft_type IA3/, (json) => (json.peft_type = "IA3"));
    await refuses("peft4", /use_dora/, (json) => (json.use_dora = true));
    await refuses("peft4", /alora_invocation_tokens/, (json) => (json.alora_invocation_tokens = [5]));
    await refuses(
      "peft4",
      /pissa_niter_4.*base that was changed/,
      (json) => (json.init_lora_weights = "pissa_niter_4"),
    );
    await refuses("peft4", /without lm_head.weight.*modules_to_save/, (json) => (json.modules_to_save = ["lm_head"]));
    await refuses("peft4", /rank 4 .*8, as adapter_config/, (json) => (json.r = 8));
    await refuses("peft4", /lora_alpha/, (json) => (json.lora_alpha = 0));
    await refuses("peft4", /lora_alpha 1e\+308.*float32/, (json) => (json.lora_alpha = 1e308));
    await refuses("peft4", /alpha_pattern.*lookbehind/, (json) => (json.alpha_pattern = { "(?<=q)_proj": 3 }));
    await refuses("peft5", /fused experts/, (json) => delete json.peft_version);
    const other = await read_config(join(twins, "mixtral-4-experts-fused"));
    await rejects(read_adapter(made("peft4"), other), "bad_adapter", /for a matrix \[/);
    await rejects(
      read_adapter(made("peft4"), await read_config(join(twins, "llama3-rope"))),
      "bad_adapter",
      /block_sparse_moe|q_proj/,
    );
    await rejects(read_adapter(base, config), "file_not_found", /adapter_config.*folder holds a model; /);
    const stopped = await temporary();
    await mkdir(join(stopped, "checkpoint-95"));
    for (const read of [() => read_adapter(stopped, config), () => read_config(stopped)])
      await rejects(read(), "file_not_found", /folder holds checkpoints of a training run; .* train --resume/);
  });

  test("whose share overflows float32 is refused, and nothing is written", async () => {
    const config = await read_config(base);
    const { pairs, config: json } = await read_adapter(made("peft4"), config);
    const filled = async (one: number, other: number) => {
      const dir = await temporary();
      const tensors = [...pairs].flatMap(([name, { rank, a, b }]) => [
        { name: lora_a_name(name), shape: [rank, a.length / rank], data: a.map(() => one) },
        { name: lora_b_name(name), shape: [b.length / rank, rank], data: b.map(() => other) },
      ]);
      await write_adapter(dir, { ...json, lora_alpha: 4e37, alpha_pattern: {} }, tensors);
      return dir;
    };
    await rejects(read_adapter(await filled(1, 1e10), config), "bad_adapter", /lora_B of .* times the scale .*float32/);
    const output = await temporary();
    await rejects(merge_adapter(base, await filled(1e10, 1), output), "bad_adapter", /infinite or not a number/);
    assert.deepEqual(await readdir(output), []);
  });

  test("an expert that no token reached is merged and told; an adapter that changes nothing is not, unless it may", async () => {
    const config = await read_config(base);
    const { pairs, config: json } = await read_adapter(made("peft4"), config);
    const untrained = async (which: RegExp) => {
      const dir = await temporary();
      const tensors = [...pairs].flatMap(([name, { rank, a, b }]) => [
        { name: lora_a_name(name), shape: [rank, a.length / rank], data: a },
        { name: lora_b_name(name), shape: [b.length / rank, rank], data: which.test(name) ? b.map(() => 0) : b },
      ]);
      await write_adapter(dir, json, tensors);
      return dir;
    };
    const unchanged = [0, 1].map((layer) => `model.layers.${layer}.block_sparse_moe.experts.2.w3.weight`);
    const result = await merge_adapter(base, await untrained(/experts\.2\.w3/), await temporary());
    assert.deepEqual(result, { changed: pairs.size - 2, unchanged });
    const [nothing, output] = [await untrained(/./), await temporary()];
    await rejects(merge_adapter(base, nothing, output), "bad_adapter", /all \d+ tensors.*--allow-unchanged/);
    assert.deepEqual(await readdir(output), []);
    const allowed = await merge_adapter(base, nothing, output, { allow_unchanged: true });
    assert.deepEqual([allowed.changed, allowed.unchanged.length], [0, pairs.size]);
  });

  test("a model is not written over itself, by whatever path", async () => {
    const dir = await temporary();
    await cp(base, join(dir, "base"), { recursive: true });
    await symlink("base", join(dir, "alias"));
    const bytes = await readFile(join(dir, "base", "model.safetensors"));
    for (const output of ["base", "alias", "base/../alias"])
      await rejects(merge_adapter(join(dir, "base"), made("peft4"), join(dir, output)), "bad_option", /own directory/);
    assert.deepEqual(await readFile(join(dir, "base", "model.safetensors")), bytes);
  });
});
