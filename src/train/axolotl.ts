/**
 * The same recipe for Axolotl (https://github.com/axolotl-ai-cloud/axolotl), where one machine is outgrown: its configuration, and the
 * data as token ids, so that what is learnt is the same to the token. Keys are those of its schema (src/axolotl/utils/schemas/) and of
 * examples/mistral/mixtral/mixtral.yml. Written for versions on transformers 5, where experts are fused parameters: PEFT adapts those
 * without dropout, and w1 and w3 only together. The adapter comes back through `read_adapter`, as any of PEFT's.
 *
 * Not tried: a run, for want of the GPUs; nor does Axolotl compute the padding's share of the load-balancing loss as this trainer does.
 */
import { spawn } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { stringify } from "yaml";
import { BimedixError } from "../errors.js";
import { write_atomically } from "../files.js";
import { with_output } from "../lock.js";
import type { ModelConfig } from "../model/config.js";
import { read_config } from "../model/config.js";
import { resolve_tokenizer } from "../model/hub.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type DataReport, type Example, read_dataset } from "./data.js";
import type { Recipe, SourceRecipe } from "./recipe.js";
import { training_tokenizer } from "./setup.js";

const bad = (given: string, expected: string, todo: string): BimedixError =>
  new BimedixError("bad_option", { given, expected, todo });

/** Axolotl's configuration of a recipe, as an object. @throws BimedixError bad_option for what PEFT cannot do with fused experts */
export function axolotl_config(
  recipe: Recipe,
  config: ModelConfig,
  data: { train: string[]; test: string[] },
): Record<string, unknown> {
  if (recipe.router_aux_loss_per_layer)
    throw bad(
      "router_aux_loss_per_layer true",
      "false with --engine axolotl: transformers balances all layers together",
      "set router_aux_loss_per_layer=false",
    );
  const tokens = (path: string) => ({ path, ds_type: "json", split: "train" });
  return {
    base_model: recipe.base_model,
    ...adapter_keys(recipe, config),
    ...(config.num_local_experts > 0
      ? {
          model_config: {
            output_router_logits: recipe.router_aux_loss_coef > 0,
            router_aux_loss_coef: recipe.router_aux_loss_coef,
          },
        }
      : {}),
    datasets: data.train.map(tokens),
    ...(data.test.length > 0 ? { test_datasets: data.test.map(tokens) } : {}),
    dataset_prepared_path: join(recipe.output_dir, "axolotl", "prepared"),
    val_set_size: 0,
    output_dir: recipe.output_dir,
    sequence_len: recipe.sequence_len,
    sample_packing: recipe.sample_packing,
    pad_to_sequence_len: recipe.sample_packing,
    micro_batch_size: recipe.micro_batch_size,
    gradient_accumulation_steps: recipe.gradient_accumulation_steps,
    ...(recipe.num_epochs === undefined ? { max_steps: recipe.max_steps } : { num_epochs: recipe.num_epochs }),
    optimizer: "adamw_torch",
    adam_beta1: recipe.adam_beta1,
    adam_beta2: recipe.adam_beta2,
    adam_epsilon: recipe.adam_epsilon,
    weight_decay: recipe.weight_decay,
    learning_rate: recipe.learning_rate,
    lr_scheduler: recipe.lr_scheduler === "constant" ? "constant_with_warmup" : recipe.lr_scheduler,
    ...(recipe.warmup_ratio === undefined
      ? { warmup_steps: recipe.warmup_steps ?? 0 }
      : { warmup_ratio: recipe.warmup_ratio }),
    max_grad_norm: recipe.max_grad_norm,
    gradient_checkpointing: recipe.gradient_checkpointing,
    bf16: "auto",
    attn_implementation: "flash_attention_2",
    logging_steps: recipe.logging_steps,
    ...(recipe.eval_steps === undefined ? {} : { eval_steps: recipe.eval_steps }),
    save_steps: recipe.save_steps,
    save_total_limit: recipe.save_total_limit,
    seed: recipe.seed,
  };
}

function adapter_keys({ adapter, quantization }: Recipe, { num_local_experts }: ModelConfig): Record<string, unknown> {
  if (adapter === "none") return {};
  const has = new Set<string>(adapter.targets);
  const attention = ["q", "k", "v", "o"].filter((target) => has.has(target)).map((target) => `${target}_proj`);
  const dense = { w1: "gate_proj", w2: "down_proj", w3: "up_proj" };
  const moe = num_local_experts > 0;
  const modules = moe
    ? attention
    : [...attention, ...Object.entries(dense).flatMap(([target, name]) => (has.has(target) ? [name] : []))];
  const parameters: string[] = [];
  if (moe) {
    if (has.has("w1") !== has.has("w3"))
      throw bad(
        "only one of the targets w1 and w3",
        "both, which transformers 5 has fused",
        "add the other to adapter.targets",
      );
    if (has.has("w1")) parameters.push("mlp.experts.gate_up_proj");
    if (has.has("w2")) parameters.push("mlp.experts.down_proj");
    if (has.has("gate")) parameters.push("mlp.gate.weight");
    if (parameters.length > 0 && adapter.lora_dropout > 0)
      throw bad(
        `lora_dropout ${adapter.lora_dropout} on experts or router`,
        "0 with --engine axolotl: PEFT has none for fused parameters",
        "set adapter.lora_dropout=0",
      );
  }
  const four_bit = quantization === "nf4" || quantization === "nf4_double";
  return {
    adapter: four_bit ? "qlora" : "lora",
    load_in_4bit: four_bit,
    ...(quantization === "int8" ? { load_in_8bit: true } : {}),
    ...(four_bit
      ? { bnb_config_kwargs: { bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: quantization === "nf4_double" } }
      : {}),
    ...(quantization !== "none" && moe ? { quantize_moe_experts: true } : {}),
    lora_r: adapter.r,
    lora_alpha: adapter.lora_alpha,
    lora_dropout: adapter.lora_dropout,
    ...(adapter.use_rslora ? { peft_use_rslora: true } : {}),
    ...(modules.length > 0 ? { lora_target_modules: modules } : {}),
    ...(parameters.length > 0 ? { lora_target_parameters: parameters } : {}),
  };
}

/** Writes `output_dir/axolotl`: config.yaml and the data, each of which is told to `on_data`. Returns the command that trains. */
export async function write_axolotl(recipe: Recipe, on_data: (report: DataReport) => void): Promise<string[]> {
  const folder = join(recipe.output_dir, "axolotl");
  const dir = await resolve_tokenizer(recipe.base_model);
  const config = await read_config(dir);
  // What cannot be done is said before the data is read.
  axolotl_config(recipe, config, { train: [], test: [] });
  const tokenizer = await training_tokenizer(dir, config.vocab_size);
  return with_output(folder, "bimedix train", () => write_files(recipe, config, tokenizer, folder, on_data), {
    wait: false,
  });
}

async function write_files(
  recipe: Recipe,
  config: ModelConfig,
  tokenizer: Tokenizer,
  folder: string,
  on_data: (report: DataReport) => void,
): Promise<string[]> {
  const write = async (name: string, source: SourceRecipe, repeat: number) => {
    const { examples, report } = await read_dataset(source, tokenizer, recipe);
    on_data(report);
    const file = join(folder, `${name}.jsonl`);
    await write_tokens(file, examples, repeat);
    return file;
  };
  const train: string[] = [];
  for (const [i, source] of recipe.datasets.entries()) train.push(await write(`train-${i}`, source, source.repeat));
  const test: string[] = [];
  for (const [i, source] of recipe.eval_datasets.entries()) test.push(await write(`test-${i}`, source, 1));
  const file = join(folder, "config.yaml");
  const text = stringify(axolotl_config(recipe, config, { train, test }));
  await write_atomically(file, (handle) => handle.writeFile(text));
  return ["accelerate", "launch", "-m", "axolotl.cli.train", resolve(file)];
}

/** A line an example, in Axolotl's form of tokenised data. */
async function write_tokens(file: string, examples: readonly Example[], repeat: number): Promise<void> {
  function* lines() {
    for (let time = 0; time < repeat; time++)
      for (const { input_ids, learnt } of examples) {
        const labels = Array.from(input_ids, (id, i) => (i > 0 && learnt[i] ? id : -100));
        yield `${JSON.stringify({ input_ids: [...input_ids], attention_mask: labels.map(() => 1), labels })}\n`;
      }
  }
  await write_atomically(file, (handle) => writeFile(handle, lines()));
}

/** Starts the command and waits for its end. @throws BimedixError bad_option when it is not there or fails */
export async function launch([program, ...args]: string[]): Promise<void> {
  const child = spawn(program!, args, { stdio: "inherit" });
  const code = await new Promise<number | null>((done, fail) => {
    child.on("error", () =>
      fail(
        bad(
          `no ${program} on this machine`,
          "Axolotl and accelerate, as on the machine that trains",
          "use --dry-run and start the printed command there",
        ),
      ),
    );
    child.on("exit", done);
  });
  if (code !== 0) throw bad(`${program} ended with ${code}`, "0", "see its own messages above");
}
