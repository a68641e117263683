/** A training run: from a recipe to an adapter, or to a model. `run_training` is the whole of it; what it needs is beside. */
import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { aborted, BimedixError } from "../errors.js";
import { file_hash, read_json } from "../files.js";
import { adapted_tensors, adapter_config, lora_scale, lora_shapes, write_adapter } from "../model/adapter.js";
import { expected_tensors } from "../model/checkpoint.js";
import { resolve_model } from "../model/hub.js";
import { copy_model_files } from "../model/merge.js";
import { write_shards } from "../model/safetensors.js";
import { open_store } from "../model/store.js";
import { fallback_template } from "../text/prompts.js";
import { load_tokenizer, type Tokenizer } from "../text/tokenizer.js";
import { BaseModel } from "./base.js";
import { checkpoints, load_checkpoint, save_checkpoint, type TrainerState } from "./checkpoint.js";
import { type DataReport, type Example, generator, pack, read_dataset, to_batch } from "./data.js";
import type { AdapterShape } from "./graphs.js";
import { type LogEntry, RunLog } from "./log.js";
import { type Batch, mix, Network, type Parameter, type PassResult } from "./network.js";
import { AdamW, clip_scale, gradient_norm, schedule_at } from "./optimizer.js";
import type { DatasetRecipe, Recipe } from "./recipe.js";

/** What a run tells while it goes. */
export type TrainEvent =
  | { kind: "loading"; done: number; total: number }
  | { kind: "data"; report: DataReport }
  | { kind: "begin"; steps: number; first: number; trained: number; parameters: number; resumed: string | null }
  | { kind: "step"; step: number; steps: number; entry: LogEntry; seconds_left: number }
  | { kind: "log"; entry: LogEntry }
  | { kind: "checkpoint"; dir: string };

export interface TrainOptions {
  /** Go on from the newest checkpoint in output_dir. Without it an output_dir that has one is refused. */
  resume?: boolean;
  on_event?: (event: TrainEvent) => void;
  /** Ends the run after the step that is being computed, with a checkpoint. */
  signal?: AbortSignal;
}

export interface TrainResult {
  output_dir: string;
  steps: number;
  skipped: number;
  /** In nats a token, on `eval_datasets`. */
  eval_loss: number | null;
}

/**
 * Trains as a recipe says and leaves the result in its output_dir: an adapter in PEFT's form, or with `adapter: none` a checkpoint.
 * @throws BimedixError aborted (with a checkpoint behind it), bad_data, bad_option, non_finite_gradients, disk_full and others
 */
export async function run_training(recipe: Recipe, options: TrainOptions = {}): Promise<TrainResult> {
  const { signal, on_event = () => {} } = options;
  const dir = await resolve_model(recipe.base_model, { on_progress: (one) => on_event({ kind: "loading", ...one }) });
  const dtype = ({ none: "fp32", nf4: "bnb4", nf4_double: "bnb4_double" } as const)[recipe.quantization];
  const store = await open_store(dir, { dtype, on_progress: (one) => on_event({ kind: "loading", ...one }) });
  const base = await BaseModel.open(store, { stream: recipe.stream_weights });
  const tokenizer = await training_tokenizer(dir, base.config.vocab_size);
  const data: Example[] = [];
  for (const dataset of recipe.datasets) {
    const examples = await read_examples(dataset, recipe, tokenizer, on_event);
    for (let i = 0; i < dataset.repeat; i++) for (const example of examples) data.push(example);
  }
  const held_out = new Map<string, Example[]>();
  for (const dataset of recipe.eval_datasets) {
    const name = basename(dataset.path).replace(/\.[^.]*$/, "");
    held_out.set(name, await read_examples(dataset, recipe, tokenizer, on_event));
  }
  const adapter = adapter_shape(recipe, base);
  const parameters = await make_parameters(recipe, base, adapter);
  const network = await Network.create(
    base,
    { adapter, batch: recipe.micro_batch_size, keep: !recipe.gradient_checkpointing },
    parameters,
    recipe.threads,
  );
  try {
    const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon, weight_decay } = recipe;
    const optimizer = new AdamW(parameters, { beta1, beta2, epsilon, weight_decay });
    const plan = new Plan(recipe, data);
    const state: TrainerState = {
      global_step: 0,
      skipped: 0,
      skipped_in_a_row: 0,
      tokens_seen: 0,
      pending: [],
      fingerprint: await fingerprint(recipe),
    };
    const [newest] = await checkpoints(recipe.output_dir);
    if (newest && !options.resume) throw unfinished(newest.dir);
    if (newest) Object.assign(state, await resumed(newest.dir, { parameters, optimizer }, state.fingerprint));
    const write_model = model_writer(recipe, dir, base, parameters);
    const save = async () => {
      const saved = await save_checkpoint(
        recipe.output_dir,
        { parameters, optimizer, state },
        write_model,
        recipe.save_total_limit,
      );
      on_event({ kind: "checkpoint", dir: saved });
    };
    const log = await RunLog.open(recipe.output_dir, state.global_step, (entry) => on_event({ kind: "log", entry }));
    const evaluate = async (): Promise<number | null> => {
      if (held_out.size === 0) return null;
      const began = performance.now();
      const results = new Map<string, Awaited<ReturnType<typeof measure>>>();
      for (const [name, examples] of held_out) {
        if (signal?.aborted) return null;
        results.set(name, await measure(network, examples, recipe));
      }
      const all = [...results.values()];
      const eval_loss = sum(all.map(({ nll }) => nll)) / sum(all.map(({ labels }) => labels));
      await log.add({
        step: state.global_step,
        epoch: plan.epoch_at(state.global_step),
        eval_loss,
        // As the Trainer does with several sets.
        ...Object.fromEntries([...results].map(([name, { nll, labels }]) => [`eval_${name}_loss`, nll / labels])),
        eval_runtime: (performance.now() - began) / 1000,
      });
      return eval_loss;
    };
    const count = (list: Iterable<{ shape: readonly number[] }>) =>
      [...list].reduce((sum, { shape }) => sum + shape.reduce((product, dim) => product * dim, 1), 0);
    on_event({
      kind: "begin",
      steps: plan.steps,
      first: state.global_step,
      trained: count(parameters.values()),
      parameters: count(expected_tensors(base.config)),
      resumed: newest?.dir ?? null,
    });

    let eval_loss = state.global_step === 0 ? await evaluate() : null;
    const began = performance.now();
    const first = state.global_step;
    while (state.global_step < plan.steps) {
      const step = state.global_step;
      const batches = plan.batches(step);
      const result = await train_step(network, parameters, optimizer, batches, recipe, step, plan.steps);
      state.global_step++;
      state.tokens_seen += result.tokens;
      state.skipped += Number(result.skipped);
      state.skipped_in_a_row = result.skipped ? state.skipped_in_a_row + 1 : 0;
      const entry = {
        ...result.entry,
        step: state.global_step,
        epoch: plan.epoch_at(state.global_step),
        num_input_tokens_seen: state.tokens_seen,
      };
      if (state.skipped > 0) entry.skipped_steps = state.skipped;
      state.pending.push({ entry, seconds: result.seconds, tokens: result.tokens });
      const left =
        ((performance.now() - began) / 1000 / (state.global_step - first)) * (plan.steps - state.global_step);
      on_event({ kind: "step", step: state.global_step, steps: plan.steps, entry, seconds_left: left });
      const last = state.global_step === plan.steps;
      if (last || state.global_step % recipe.logging_steps === 0) {
        await log.add(mean_entry(state.pending));
        state.pending = [];
      }
      if (state.skipped_in_a_row >= recipe.max_skipped_steps) throw non_finite(state, entry);
      if (last || (recipe.eval_steps && state.global_step % recipe.eval_steps === 0)) eval_loss = await evaluate();
      if (last || signal?.aborted || state.global_step % recipe.save_steps === 0) await save();
      if (signal?.aborted && !last) throw aborted();
    }
    await mkdir(recipe.output_dir, { recursive: true });
    await write_model(recipe.output_dir);
    return { output_dir: recipe.output_dir, steps: state.global_step, skipped: state.skipped, eval_loss };
  } finally {
    await network.release();
    await base.close();
  }
}

interface StepResult {
  entry: Omit<LogEntry, "step" | "epoch">;
  tokens: number;
  seconds: number;
  skipped: boolean;
}

/** One optimizer step: the gradients of its micro-batches, clipped, and what AdamW makes of them. */
async function train_step(
  network: Network,
  parameters: ReadonlyMap<string, Parameter>,
  optimizer: AdamW,
  batches: readonly Batch[],
  recipe: Recipe,
  step: number,
  steps: number,
): Promise<StepResult> {
  const began = performance.now();
  const items = sum(batches.map(labels_of));
  const aux_coefficient = recipe.router_aux_loss_coef / batches.length;
  const results: PassResult[] = [];
  for (const [i, batch] of batches.entries()) {
    const seed = mix(mix(recipe.seed, step), i);
    results.push(await network.backward(batch, { items, aux_coefficient, seed }));
  }
  const grad_norm = gradient_norm(parameters);
  const skipped = !Number.isFinite(grad_norm);
  const warmup = recipe.warmup_steps ?? Math.ceil((recipe.warmup_ratio ?? 0) * steps);
  const learning_rate = recipe.learning_rate * schedule_at(recipe.lr_scheduler, step, { warmup, total: steps });
  if (skipped) for (const { gradient } of parameters.values()) gradient.fill(0);
  else optimizer.step(learning_rate, clip_scale(grad_norm, recipe.max_grad_norm));
  const mean = (pick: (result: PassResult) => number) => sum(results.map(pick)) / results.length;
  const tokens = sum(batches.map(({ documents }) => documents.reduce((n, document) => n + Number(document > 0), 0)));
  const seconds = (performance.now() - began) / 1000;
  const { entropy, load } = results[0]!;
  return {
    entry: {
      loss: sum(results.map(({ nll }) => nll)) / items,
      aux_loss: mean(({ aux_loss }) => aux_loss),
      grad_norm,
      learning_rate,
      tokens_per_second: tokens / seconds,
      ...(entropy.length === 0
        ? {}
        : {
            router_entropy: entropy.map((_, layer) => mean((result) => result.entropy[layer]!)),
            expert_load: load.map((shares, layer) => shares.map((_, e) => mean((result) => result.load[layer]![e]!))),
          }),
    },
    tokens,
    seconds,
    skipped,
  };
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
const labels_of = ({ labels }: Batch) => labels.reduce((n, label) => n + Number(label >= 0), 0);

/** What one line of the log says about the steps since the last. */
function mean_entry(since: TrainerState["pending"]): LogEntry {
  const entries = since.map(({ entry }) => entry);
  const finite = entries.filter(({ grad_norm }) => Number.isFinite(grad_norm));
  const mean = (key: "loss" | "aux_loss" | "grad_norm") =>
    finite.length > 0 ? sum(finite.map((entry) => entry[key]!)) / finite.length : null;
  return {
    ...entries.at(-1)!,
    ...Object.fromEntries((["loss", "aux_loss", "grad_norm"] as const).map((key) => [key, mean(key)])),
    tokens_per_second: sum(since.map(({ tokens }) => tokens)) / sum(since.map(({ seconds }) => seconds)),
  };
}

/** Which examples each step sees: it depends on the recipe and the step alone. */
class Plan {
  readonly steps: number;
  private readonly lengths: number[];
  private readonly epochs = new Map<number, number[][]>();

  constructor(
    private readonly recipe: Recipe,
    private readonly data: readonly Example[],
  ) {
    this.lengths = data.map(({ input_ids }) => input_ids.length);
    this.steps = recipe.max_steps ?? 0;
    if (recipe.num_epochs === undefined) return;
    // Epochs differ a little in how well they pack.
    let steps = 0;
    for (let epoch = 0; epoch < Math.floor(recipe.num_epochs); epoch++) steps += this.steps_of(epoch);
    const part = recipe.num_epochs % 1;
    this.steps = steps + (part > 0 ? Math.ceil(part * this.steps_of(Math.floor(recipe.num_epochs))) : 0);
  }

  /** The micro-batches of a step. */
  batches(step: number): Batch[] {
    const { micro_batch_size, gradient_accumulation_steps } = this.recipe;
    const { epoch, first } = this.locate(step);
    const size = micro_batch_size * gradient_accumulation_steps;
    const rows = this.rows(epoch).slice((step - first) * size, (step - first + 1) * size);
    const batches: Batch[] = [];
    for (let at = 0; at < rows.length; at += micro_batch_size) {
      const own = rows.slice(at, at + micro_batch_size);
      batches.push(
        to_batch(
          own.map((row) => row.map((index) => this.data[index]!)),
          micro_batch_size,
        ),
      );
    }
    return batches;
  }

  epoch_at(step: number): number {
    const { epoch, first } = this.locate(step);
    return Number((epoch + (step - first) / this.steps_of(epoch)).toFixed(4));
  }

  private locate(step: number): { epoch: number; first: number } {
    let epoch = 0;
    let first = 0;
    for (; step >= first + this.steps_of(epoch); epoch++) first += this.steps_of(epoch);
    return { epoch, first };
  }

  private steps_of(epoch: number): number {
    const { micro_batch_size, gradient_accumulation_steps } = this.recipe;
    return Math.ceil(this.rows(epoch).length / (micro_batch_size * gradient_accumulation_steps));
  }

  private rows(epoch: number): number[][] {
    let rows = this.epochs.get(epoch);
    if (!rows) {
      rows = pack(this.lengths, this.recipe.sequence_len, this.recipe.sample_packing, mix(this.recipe.seed, epoch));
      this.epochs.set(epoch, rows);
    }
    return rows;
  }
}

/** The loss on data that is not learnt from: a sum in nats, and of how many tokens. */
async function measure(
  network: Network,
  examples: readonly Example[],
  recipe: Recipe,
): Promise<{ nll: number; labels: number }> {
  const lengths = examples.map(({ input_ids }) => input_ids.length);
  const rows = pack(lengths, recipe.sequence_len, true, 0);
  const total = { nll: 0, labels: 0 };
  for (let at = 0; at < rows.length; at += recipe.micro_batch_size) {
    const own = rows.slice(at, at + recipe.micro_batch_size).map((row) => row.map((index) => examples[index]!));
    const { nll, labels } = await network.evaluate(to_batch(own, recipe.micro_batch_size));
    total.nll += nll;
    total.labels += labels;
  }
  return total;
}

/** The tokenizer of a model that is trained, with a chat template. */
export async function training_tokenizer(dir: string, vocab_size: number): Promise<Tokenizer> {
  const tokenizer = await load_tokenizer(dir);
  tokenizer.chat_template ??= fallback_template(dir, "mixtral").chat_template;
  if (tokenizer.vocab_size > vocab_size) {
    throw new BimedixError("bad_tokenizer", {
      given: `a tokenizer with ${tokenizer.vocab_size} tokens for a model with ${vocab_size}`,
      expected: "the model's own tokenizer",
      todo: "correct the model's directory",
    });
  }
  return tokenizer;
}

async function read_examples(
  dataset: DatasetRecipe,
  recipe: Recipe,
  tokenizer: Tokenizer,
  on_event: (event: TrainEvent) => void,
): Promise<Example[]> {
  const { examples, report } = await read_dataset(dataset, tokenizer, recipe);
  on_event({ kind: "data", report });
  return examples;
}

function adapter_shape({ adapter }: Recipe, { config }: BaseModel): AdapterShape | null {
  if (adapter === "none") return null;
  if (config.num_local_experts === 0 && adapter.targets.includes("gate")) {
    throw new BimedixError("bad_option", {
      given: "the target gate on a model without experts",
      expected: "q, k, v, o, w1, w2, w3",
      todo: "leave gate out of adapter.targets",
    });
  }
  const tensors = new Map(adapted_tensors(config, adapter.targets).map(({ name, shape }) => [name, shape]));
  const { r: rank, lora_alpha, lora_dropout: dropout, use_rslora } = adapter;
  return { rank, scale: lora_scale(rank, lora_alpha, use_rslora), dropout, tensors };
}

/**
 * A as PEFT begins (Kaiming's uniform with a = sqrt(5), which is 1 / sqrt(columns)), B zero: the adapter changes nothing at first.
 * Source: reset_lora_parameters in peft/tuners/lora/layer.py
 */
async function make_parameters(
  recipe: Recipe,
  base: BaseModel,
  adapter: AdapterShape | null,
): Promise<Map<string, Parameter>> {
  const parameters = new Map<string, Parameter>();
  const add = (name: string, shape: readonly number[], data: Float32Array) =>
    parameters.set(name, { shape, data, gradient: new Float32Array(data.length) });
  if (!adapter) {
    for (const { name, shape } of expected_tensors(base.config)) add(name, shape, await base.tensor(name));
    return parameters;
  }
  let number = 0;
  for (const [tensor, dims] of adapter.tensors) {
    const random = generator(mix(recipe.seed, number++));
    const bound = 1 / Math.sqrt(dims[1]);
    const [a, b] = lora_shapes(tensor, dims, adapter.rank) as [
      { name: string; shape: number[] },
      { name: string; shape: number[] },
    ];
    add(
      a.name,
      a.shape,
      Float32Array.from({ length: adapter.rank * dims[1] }, () => (2 * random() - 1) * bound),
    );
    add(b.name, b.shape, new Float32Array(dims[0] * adapter.rank));
  }
  return parameters;
}

function model_writer(recipe: Recipe, dir: string, base: BaseModel, parameters: ReadonlyMap<string, Parameter>) {
  return async (target: string): Promise<void> => {
    const tensors = [...parameters].map(([name, { shape, data }]) => ({ name, shape, data }));
    if (recipe.adapter !== "none") {
      const { targets, ...adapter } = recipe.adapter;
      const config = adapter_config(base.config, { base_model_name_or_path: recipe.base_model, targets, ...adapter });
      return write_adapter(target, config, tensors);
    }
    const stored = await read_json(join(dir, "config.json"), "bad_config");
    const dtype = [stored.torch_dtype, stored.dtype].includes("bfloat16") ? ("BF16" as const) : undefined;
    await write_shards(
      target,
      tensors.map((tensor) => ({ ...tensor, dtype })),
    );
    await copy_model_files(dir, target);
  };
}

/** What must be the same for a run to go on: the recipe but for how it reports, and the data's bytes. */
async function fingerprint(recipe: Recipe): Promise<string> {
  const {
    output_dir,
    logging_steps,
    eval_steps,
    save_steps,
    save_total_limit,
    threads,
    max_skipped_steps,
    ...deciding
  } = recipe;
  const hash = createHash("sha256").update(JSON.stringify(deciding));
  for (const { path } of [...recipe.datasets, ...recipe.eval_datasets]) hash.update(await file_hash(path));
  return hash.digest("hex");
}

async function resumed(
  dir: string,
  training: { parameters: ReadonlyMap<string, Parameter>; optimizer: AdamW },
  expected: string,
): Promise<TrainerState> {
  const state = await load_checkpoint(dir, training);
  if (state.fingerprint === expected) return state;
  throw new BimedixError("bad_option", {
    given: `${dir}, which another recipe or other data made`,
    expected: "the recipe and data that the run began with",
    todo: "undo the change, or train into another output_dir",
  });
}

const unfinished = (dir: string) =>
  new BimedixError("bad_option", {
    given: `an output_dir that holds ${dir}`,
    expected: "an empty one, so that nothing is written over",
    todo: "add --resume to go on with that run, or choose another output_dir",
  });

const non_finite = ({ skipped_in_a_row }: TrainerState, { step }: LogEntry) =>
  new BimedixError("non_finite_gradients", {
    given: `${skipped_in_a_row} steps in a row, up to ${step}, with NaN or infinite gradients`,
    expected: "finite gradients",
    todo: "lower learning_rate and go on from the last checkpoint",
  });
