/** Recipes: what is refused and how, the recipes that are shipped, and what they are for Axolotl. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { parse } from "yaml";
import { BimedixError } from "../../src/errors.js";
import { adapted_tensors } from "../../src/model/adapter.js";
import { expected_tensors } from "../../src/model/checkpoint.js";
import { parse_config } from "../../src/model/config.js";
import { axolotl_config, write_axolotl } from "../../src/train/axolotl.js";
import { parse_recipe, read_recipe, recipe_keys } from "../../src/train/recipe.js";
import { rejects, root } from "../fixtures.js";

const nano = join(root, "models/nano");

const good = `
base_model: ./model
output_dir: out
adapter: { r: 8, lora_alpha: 16 }
datasets: [{ path: a.jsonl, type: chat }]
sequence_len: 128
max_steps: 3
learning_rate: 1e-4
`;

const problem = (text: string, overrides: string[] = []): string => {
  try {
    parse_recipe(text, "r.yaml", overrides);
  } catch (error) {
    assert.ok(error instanceof BimedixError);
    assert.equal(error.code, "bad_recipe");
    assert.ok(!error.message.includes("\n"));
    return error.message;
  }
  throw new Error("no problem was found");
};

const mixtral = parse_config(
  {
    model_type: "mixtral",
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
  },
  "config.json",
);

describe("a recipe", () => {
  test("has defaults, takes overrides, and finds its files beside it", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
    await writeFile(join(dir, "r.yaml"), good);
    const recipe = await read_recipe(join(dir, "r.yaml"), [
      "learning_rate=2e-3",
      "adapter.r=4",
      "datasets.0.repeat=2",
      "seed=7",
    ]);
    assert.equal(recipe.learning_rate, 2e-3);
    assert.equal(recipe.seed, 7);
    assert.ok(recipe.adapter !== "none" && recipe.adapter.r === 4 && recipe.adapter.targets.length === 8);
    assert.deepEqual(recipe.datasets, [{ path: join(dir, "a.jsonl"), type: "chat", repeat: 2 }]);
    assert.equal(recipe.base_model, join(dir, "model"));
    assert.equal(parse_recipe(good.replace("{ r: 8, lora_alpha: 16 }", "none"), "r").adapter, "none");
    assert.equal(parse_recipe(`${good}\nseed: 5`, "r", ["seed=~"]).seed, 0);
    assert.match(problem(good, ["learning-rate=1"]), /unknown key learning-rate \(did you mean learning_rate\?\)/);
    assert.match(problem(good, ["adapter.lora_alhpa=1"]), /lora_alhpa in adapter \(did you mean lora_alpha\?\)/);
  });

  test("reports all problems at once", () => {
    const text =
      `${good}lern_rate: 3\nwarmup_steps: -1\nmicro_batch_size: two\nadapter: { r: 0, lora_alpha: 1, targets: [q, x], alpha: 3 }\n`.replace(
        "adapter: { r: 8, lora_alpha: 16 }\n",
        "",
      );
    const message = problem(text);
    for (const part of [
      "unknown key lern_rate",
      "warmup_steps",
      "micro_batch_size",
      "adapter.r",
      "adapter.targets.1",
      "unknown key alpha in adapter",
    ])
      assert.ok(message.includes(part), `${part}: ${message}`);
    assert.match(message, /6 problems/);
  });

  test("refuses what cannot go together", () => {
    assert.match(problem(`${good}num_epochs: 1\n`), /both num_epochs and max_steps; .*; correct the recipe\.$/);
    assert.match(problem(good, ["num_epochs=1", "max_steps=2"]), /both num_epochs and max_steps.* keys set after it/);
    const { num_epochs, max_steps } = parse_recipe(good, "good.yaml", ["num_epochs=1"]);
    assert.deepEqual([num_epochs, max_steps], [1, undefined], "what is set by hand takes the other's place");
    assert.match(problem(good.replace("max_steps: 3\n", "")), /neither num_epochs nor max_steps/);
    assert.match(problem(good, ["warmup_steps=1", "warmup_ratio=0.1"]), /both warmup/);
    assert.match(problem(good, ["eval_steps=5"]), /eval_steps without eval_datasets/);
    assert.match(
      problem(good, ["adapter=none", "quantization=nf4", "stream_weights=true"]),
      /quantization nf4 with adapter none.*stream_weights with adapter none/,
    );
    assert.match(problem(good, ["adapter.targets=[q,q]"]), /names a target twice/);
    const measured = (...files: string[]) => `eval_datasets=[${files.map((path) => `{path: ${path}, type: chat}`)}]`;
    assert.match(problem(good, [measured("en/held.jsonl", "ar/held.json")]), /several eval_datasets named held/);
    assert.match(
      problem(good, ["eval_datasets=[{path: x, type: chat, repeat: 2}]"]),
      /unknown key repeat in eval_datasets\.0/,
    );
    assert.match(
      problem(good, ["num_epochs=1", "max_steps=3", "lern_rate=1"]),
      /unknown key lern_rate.*both num_epochs and max_steps/,
    );
    assert.match(problem(good, ["adapter=lora"]), /adapter/);
  });

  test("that is not YAML, or an override that is none, is said", () => {
    assert.match(problem(`${good}\nseed: *nobody`), /Unresolved alias.*nobody/);
    assert.match(problem("a: [1"), /r\.yaml with/);
    assert.match(problem("- 1\n- 2"), /expected object|the recipe/);
    assert.match(problem(""), /the recipe/);
    assert.match(problem(good, ["seed"]), /"seed" is not key=value/);
    assert.match(problem(good, ["seed.x=1"]), /seed/);
    assert.match(problem(good, ["learning_rate=fast"]), /learning_rate: expected number/);
  });

  test("is documented key by key", () => {
    const keys = recipe_keys();
    for (const key of ["base_model", "adapter.r", "quantization", "datasets[].type", "max_skipped_steps"])
      assert.ok(keys.includes(key), key);
    assert.ok(keys.split("\n").every((line) => line.length < 220));
  });
});

describe("the recipes that are shipped", async () => {
  for (const name of (await readdir(join(root, "recipes"))).filter((file) => file.endsWith(".yaml")))
    test(name, async () => {
      await read_recipe(join(root, "recipes", name));
    });

  test("bimedix-8x7b adapts 4.15 % of the parameters", async () => {
    const recipe = await read_recipe(join(root, "recipes/bimedix-8x7b.yaml"));
    assert.ok(recipe.adapter !== "none");
    const { r, targets } = recipe.adapter;
    const adapted = adapted_tensors(mixtral, targets).reduce(
      (sum, { shape: [rows, columns] }) => sum + r * (rows + columns),
      0,
    );
    const all = [...expected_tensors(mixtral)].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    assert.equal(all, 46_702_792_704);
    assert.equal(((100 * adapted) / all).toFixed(2), "4.15");
  });
});

/** Fields of Axolotl's schema, and of a data set in it: names as of its schemas/config.py, peft.py, training.py, model.py and datasets.py. */
const AXOLOTL = new Set(
  `base_model model_config adapter load_in_4bit load_in_8bit bnb_config_kwargs quantize_moe_experts lora_r lora_alpha lora_dropout peft_use_rslora
  lora_target_modules lora_target_parameters datasets test_datasets dataset_prepared_path val_set_size output_dir sequence_len sample_packing
  pad_to_sequence_len micro_batch_size gradient_accumulation_steps max_steps num_epochs optimizer adam_beta1 adam_beta2 adam_epsilon
  weight_decay learning_rate lr_scheduler warmup_steps warmup_ratio max_grad_norm gradient_checkpointing bf16 attn_implementation
  logging_steps eval_steps save_steps save_total_limit seed`.split(/\s+/),
);

describe("Axolotl", () => {
  test("gets the same recipe, in keys of its schema", async () => {
    const recipe = await read_recipe(join(root, "recipes/bimedix-8x7b.yaml"));
    const config = axolotl_config(recipe, mixtral, { train: ["t.jsonl"], test: [] });
    assert.deepEqual(
      Object.keys(config).filter((key) => !AXOLOTL.has(key)),
      [],
    );
    assert.equal(config.adapter, "qlora");
    const eight_bit = axolotl_config({ ...recipe, quantization: "int8" }, mixtral, { train: ["t.jsonl"], test: [] });
    assert.deepEqual(
      [eight_bit.adapter, eight_bit.load_in_8bit, eight_bit.load_in_4bit, AXOLOTL.has("load_in_8bit")],
      ["lora", true, false, true],
    );
    assert.equal(config.lora_r, 128);
    assert.deepEqual(config.lora_target_parameters, [
      "mlp.experts.gate_up_proj",
      "mlp.experts.down_proj",
      "mlp.gate.weight",
    ]);
    assert.deepEqual(config.lora_target_modules, ["q_proj", "k_proj", "v_proj", "o_proj"]);
    assert.deepEqual(config.model_config, { output_router_logits: true, router_aux_loss_coef: 0.02 });
    const change = (adapter: object) => () =>
      axolotl_config({ ...recipe, adapter: { ...(recipe.adapter as object), ...adapter } } as typeof recipe, mixtral, {
        train: [],
        test: [],
      });
    assert.throws(change({ lora_dropout: 0.1 }), /lora_dropout/);
    assert.throws(change({ targets: ["w1"] }), /w1 and w3/);
    const balanced = write_axolotl({ ...recipe, base_model: nano, router_aux_loss_per_layer: true }, () =>
      assert.fail(),
    );
    await rejects(balanced, "bad_option", /router_aux_loss_per_layer/);
  });

  test("gets the data as the tokens that this trainer would learn from", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
    await writeFile(
      join(dir, "a.jsonl"),
      `${JSON.stringify({ instruction: "What is fever?", output: "A high temperature." })}\n{}\n`,
    );
    const text = good
      .replace("./model", nano)
      .replace("a.jsonl", join(dir, "a.jsonl"))
      .replace("type: chat", "type: instruction, repeat: 2");
    const recipe = parse_recipe(text, "r.yaml", [`output_dir=${join(dir, "out")}`, "on_damaged_line=skip"]);
    const damaged: number[] = [];
    const command = await write_axolotl(recipe, (report) => damaged.push(...report.damaged.map(({ line }) => line)));
    assert.deepEqual(damaged, [2]);
    assert.deepEqual(command.slice(0, 4), ["accelerate", "launch", "-m", "axolotl.cli.train"]);
    const config = parse(await readFile(command[4]!, "utf8"));
    assert.equal(config.datasets.length, 1);
    const lines = (await readFile(config.datasets[0].path, "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    assert.equal(lines.length, 2);
    const { input_ids, labels, attention_mask } = lines[0];
    assert.deepEqual([labels.length, attention_mask.length], [input_ids.length, input_ids.length]);
    const { load_tokenizer } = await import("../../src/text/tokenizer.js");
    const tokenizer = await load_tokenizer(join(root, "models/nano"));
    assert.equal(tokenizer.decode(labels.filter((id: number) => id >= 0)), "A high temperature.</s>");
    const messages = [
      { role: "user", content: "What is fever?" },
      { role: "assistant", content: "A high temperature." },
    ] as const;
    assert.deepEqual(input_ids, tokenizer.apply_chat_template(messages, { add_generation_prompt: false }));
    await rm(config.datasets[0].path);
    await mkdir(config.datasets[0].path);
    await rejects(
      write_axolotl(recipe, () => {}),
      "file_unreadable",
      /train-0\.jsonl/,
    );
  });
});

test("a recipe from a device without an end is refused", async () => {
  await rejects(read_recipe("/dev/zero"), "file_unreadable", /\/dev\/zero, which has no end within \d+ MB/);
});
