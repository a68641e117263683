/** Adapters in PEFT 0.21's own forms, beside the logits that it computes with them (tools/make_peft_fixtures.py). */
import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { LocalEngine } from "../../src/engine/local.js";
import { AdapterConfig, lora_keys } from "../../src/model/adapter_config.js";
import { read_config } from "../../src/model/config.js";
import { merge_adapter } from "../../src/model/merge.js";
import { Pattern } from "../../src/model/pattern.js";
import { read_adapter } from "../../src/model/read_adapter.js";
import { write_safetensors } from "../../src/model/safetensors.js";
import { open_store } from "../../src/model/store.js";
import { max_difference, read_arrays, rejects, root, twins, warnings } from "../fixtures.js";

const folder = join(root, "test/fixtures/peft");
interface Reference {
  ids: number[];
  cases: { name: string; twin: string; logits: number[] }[];
}
const { ids, cases } = JSON.parse(await readFile(join(folder, "reference.json"), "utf8")) as Reference;
const temporary = () => mkdtemp(join(tmpdir(), "bimedix-"));

/** A twin in float32, so that merging rounds nothing. */
async function exact(twin: string): Promise<string> {
  const dir = await temporary();
  await cp(join(twins, twin, "config.json"), join(dir, "config.json"));
  const arrays = await read_arrays(join(twins, twin, "model.safetensors"));
  const tensors = [...arrays].map(([name, { shape, data }]) => ({ name, shape, data: Float32Array.from(data) }));
  await write_safetensors(join(dir, "model.safetensors"), tensors);
  return dir;
}

async function last_logits(dir: string, adapters: Record<string, string> = {}, adapter?: string): Promise<number[]> {
  const engine = await LocalEngine.create(await open_store(dir, { dtype: "fp32" }), { threads: 1, adapters });
  const { logits } = await engine.forward([ids], adapter === undefined ? {} : { adapter });
  await engine.dispose();
  return [...logits[0]!.slice(-96)];
}

async function changed(name: string, change: (json: Record<string, unknown>) => void): Promise<string> {
  const dir = await temporary();
  await cp(join(folder, name), dir, { recursive: true });
  const file = join(dir, "adapter_config.json");
  const json = JSON.parse(await readFile(file, "utf8"));
  change(json);
  await writeFile(file, JSON.stringify(json));
  return dir;
}

/** With its tensors under other names; null leaves one out. */
async function renamed(name: string, rename: (key: string) => string | null): Promise<string> {
  const dir = await changed(name, () => {});
  const file = join(dir, "adapter_model.safetensors");
  const tensors = [...(await read_arrays(file))].flatMap(([key, { shape, data }]) => {
    const to = rename(key);
    return to === null ? [] : [{ name: to, shape, data: Float32Array.from(data) }];
  });
  await write_safetensors(file, tensors);
  return dir;
}

describe("PEFT's logits, unmerged and merged:", () => {
  for (const { name, twin, logits } of cases)
    test(name, async () => {
      const adapter = join(folder, name);
      assert.ok(max_difference(await last_logits(join(twins, twin), { one: adapter }, "one"), logits) < 1e-4);
      const [base, output] = [await exact(twin), await temporary()];
      const { unchanged } = await merge_adapter(base, adapter, output);
      assert.deepEqual(unchanged, []);
      assert.ok(max_difference(await last_logits(output), logits) < 1e-4, "merged");
    });

  test("several on one base, and the base itself", async () => {
    const twin = "mixtral-2-experts";
    const own = cases.filter((one) => one.twin === twin);
    const adapters = Object.fromEntries(own.map(({ name }) => [name, join(folder, name)]));
    const store = await open_store(join(twins, twin), { dtype: "fp32" });
    const engine = await LocalEngine.create(store, { threads: 1, adapters });
    const of = async (adapter: string | null) => [...(await engine.forward([ids], { adapter })).logits[0]!.slice(-96)];
    for (const { name, logits } of own.toReversed()) assert.ok(max_difference(await of(name), logits) < 1e-4, name);
    assert.equal(max_difference(await of(null), await last_logits(join(twins, twin))), 0);
    await engine.dispose();
  });

  test("a module that the file holds whole does not feel the base's quantisation", async () => {
    const { twin, name } = cases.find(({ name }) => name === "both-saved")!;
    const store = await open_store(join(twins, twin), { dtype: "q8" });
    const engine = await LocalEngine.create(store, {
      threads: 1,
      adapters: { one: join(folder, name) },
      adapter: "one",
    });
    assert.ok((await engine.forward([ids])).logits[0]!.every(Number.isFinite));
    await engine.dispose();
  });
});

describe("what a configuration and a file do not agree on is told", () => {
  const told = async (name: string, twin = "mistral-window") => {
    const heard = warnings();
    await read_adapter(await changed(name, () => {}), await read_config(join(twins, twin)));
    return (await heard()).join("\n");
  };
  test("not targeted, not in the file, and not known", async () => {
    assert.match(await told("fewer-targets"), /does not target.*\(2\): model\.layers\.0\.self_attn\.q_proj/);
    assert.match(await told("fewer-layers"), /does not target.*\(2\): model\.layers\.1/);
    assert.match(await told("more-targets"), /targets modules that are not in the file.*\(2\): .*0\.self_attn\.k_proj/);
    assert.match(await told("unknown-key"), /PEFT 0\.21 does not know, and ignores \(1\): unsloth_fixed/);
    assert.equal(await told("head", "mixtral-2-experts"), "");
    assert.equal(await told("ranks"), "");
    const heard = warnings();
    const dir = await changed("ranks", (json) => {
      json.rank_pattern = { ...(json.rank_pattern as object), "^q_proj": 64, "self_attn.k_proj": 3 };
    });
    await read_adapter(dir, await read_config(join(twins, "mistral-window")));
    assert.match((await heard()).join(), /patterns .* no module has.*\(2\): \^q_proj, self_attn\.k_proj/);
  });
});

describe("the names of tensors", async () => {
  const config = await read_config(join(twins, "mistral-window"));
  const read = async (rename: (key: string) => string | null, name = "more-targets") =>
    read_adapter(await renamed(name, rename), config);

  test("with and without PEFT's prefix and the name of the adapter `default`", async () => {
    const { pairs } = await read((key) => key);
    for (const rename of [
      (key: string) => key.replace("base_model.model.", ""),
      (key: string) => key.replace(".weight", ".default.weight"),
    ])
      assert.deepEqual((await read(rename)).pairs, pairs);
  });

  /** The pair of layer 0 is one tensor of this name instead. */
  const one = (name: string) => (key: string) =>
    key.includes("layers.1.") ? key : key.includes("lora_A") ? `base_model.model.${name}` : null;
  // PEFT leaves the base as it is with each of these, and warns; a person who gives an adapter wants it.
  const refused: [string, (key: string) => string | null, RegExp][] = [
    ["torch.compile", (key) => key.replace("base_model.model.", "base_model.model._orig_mod."), /torch\.compile/],
    ["a data-parallel wrapper", (key) => `module.${key}`, /data-parallel/],
    ["a base model", (key) => key.replace("model.model.", "model."), /without its output layer/],
    ["another adapter's name", (key) => key.replace(".weight", ".doctor.weight"), /the name doctor/],
    ["half a pair", (key) => (key.includes("lora_B") ? null : key), /only one half/],
    ["nothing of the model", (key) => key.replace("q_proj", "c_attn"), /c_attn.*a matrix of the model/],
    ["DoRA", (key) => key.replace("lora_B.weight", "lora_magnitude_vector"), /DoRA/],
    ["a bias of LoRA", (key) => key.replace("lora_B.weight", "lora_B.bias"), /lora_bias/],
    ["single rows", one("model.embed_tokens.token_adapter.trainable_tokens_delta"), /trainable_token/],
    ["a classifier", one("score.weight"), /score\.weight.*a tensor of the model/],
    ["another vocabulary", one("lm_head.weight"), /lm_head\.weight.*shape.*same size/],
  ];
  for (const [name, rename, mentions] of refused)
    test(`${name}: refused`, async () => rejects(read(rename), "bad_adapter", mentions));

  test("a module that modules_to_save names and the file has not", async () => {
    const dir = await changed("more-targets", (json) => (json.modules_to_save = ["lm_head"]));
    await rejects(read_adapter(dir, config), "bad_adapter", /without lm_head\.weight/);
    // What the model has not is no fault, as in PEFT: it names a classifier's layers itself.
    const other = await changed("more-targets", (json) => (json.modules_to_save = ["classifier", "score"]));
    assert.equal((await read_adapter(other, config)).pairs.size, 2);
  });

  test("weights in Python's pickle alone", async () => {
    const dir = await temporary();
    await cp(join(folder, "regex", "adapter_config.json"), join(dir, "adapter_config.json"));
    await writeFile(join(dir, "adapter_model.bin"), "");
    await rejects(read_adapter(dir, config), "bad_adapter", /adapter_model\.bin alone.*save_pretrained/);
  });
});

describe("adapter_config.json", () => {
  test("every key of PEFT 0.21 is known, and those of its defaults are off", async () => {
    for (const name of (await readdir(folder)).filter((name) => !name.includes("."))) {
      const json = JSON.parse(await readFile(join(folder, name, "adapter_config.json"), "utf8"));
      assert.deepEqual(new AdapterConfig(json, name).unknown, name === "unknown-key" ? ["unsloth_fixed"] : []);
    }
  });

  const on: Record<string, unknown> = {
    ...{
      alora_invocation_tokens: [5],
      arrow_config: { top_k: 2 },
      ensure_weight_tying: true,
      kasa_config: { beta: 1 },
    },
    ...{
      layer_replication: [[0, 2]],
      lora_bias: true,
      megatron_config: { a: 1 },
      monteclora_config: { num_samples: 2 },
    },
    ...{ trainable_token_indices: [3], use_bdlora: { nblocks: 2 }, use_dora: true, use_qalora: true },
  };
  test("each that computes more is refused by name, and no other", () => {
    const refused = Object.keys(lora_keys).filter((key) => lora_keys[key]!.is === "refused");
    assert.deepEqual(Object.keys(on).sort(), refused.sort());
    for (const [key, value] of Object.entries(on))
      assert.throws(() => new AdapterConfig({ r: 2, [key]: value }, "here"), new RegExp(`here with ${key} \\(`));
    for (const [key, value] of [
      ["peft_type", "IA3"],
      ["task_type", "SEQ_CLS"],
      ["init_lora_weights", "pissa"],
    ])
      assert.throws(() => new AdapterConfig({ r: 2, [key!]: value }, "here"), new RegExp(`${key} ${value}`));
    const both = { target_modules: ".*q_proj", layers_to_transform: [0] };
    assert.throws(() => new AdapterConfig(both, "here"), /a list of names beside layers_to_transform/);
  });

  test("docs/adapters.md has the table of keys", async () => {
    const text = await readFile(join(root, "docs/adapters.md"), "utf8");
    const rows = [...text.matchAll(/^\| `(\w+)` \| ([\w ]+) \| (.+) \|$/gm)].map(([, key, is, why]) => [
      key,
      { is, why },
    ]);
    assert.deepEqual(Object.fromEntries(rows), lora_keys);
  });
});

describe("patterns", async () => {
  const file = await readFile(join(folder, "patterns.json"), "utf8");
  const { names, patterns } = JSON.parse(file) as { names: string[]; patterns: [string, number[], number[]][] };
  const matches = (holds: (name: string) => boolean) => [...names.keys()].filter((i) => holds(names[i]!));

  test(`${patterns.length} patterns match what Python's re and PEFT's get_pattern_key match`, () => {
    for (const [source, full, suffix] of patterns) {
      const pattern = new Pattern(source, "a test");
      assert.deepEqual(
        matches((name) => pattern.full(name)),
        full,
        `full ${source}`,
      );
      assert.deepEqual(
        matches((name) => pattern.suffix(name)),
        suffix,
        `suffix ${source}`,
      );
    }
  });

  test("what cannot be read is refused by name", () => {
    const bad: [string, RegExp][] = [
      ["(a", /not closed/],
      ["a)", /too many/],
      ["[a", /too early/],
      ["*a", /nothing to repeat/],
      ["a**", /repetition of a repetition/],
      ["a++", /possessive/],
      [String.raw`(a)\1`, /\\1/],
      ["(?<=a)b", /\(\?<=/],
      ["(?>a)b", /\(\?>/],
      ["(?i)a", /\(\?i/],
      ["(?P=a)", /\(\?P=/],
      [String.raw`\q`, /\\q/],
      ["[z-a]", /range/],
      ["a{3,1}", /\{3,1\}/],
      ["((((a{99}){99}){99}){99})", /too many repetitions/],
      ["a".repeat(5000), /5000 characters/],
    ];
    for (const [source, mentions] of bad)
      assert.throws(
        () => new Pattern(source, "rank_pattern"),
        (error: Error) => {
          assert.match(error.message, mentions, source);
          return /of rank_pattern with/.test(error.message);
        },
      );
  });

  test("no pattern keeps the process busy", () => {
    const name = `${"a".repeat(200)}b`;
    for (const source of ["(a+)+$", "(a|a)*$", "(.*)*(.*)*x", "(a?){50}a{50}$", "(?=(a+)+$)a"])
      assert.equal(new Pattern(source, "a test").full(name), false);
    const pattern = new Pattern("(?:(?!.*x).)*".repeat(40), "a test");
    assert.throws(() => pattern.full("a".repeat(4000)), /too much work/);
  });
});
