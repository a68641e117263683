/** A training run: from a recipe to an adapter, or to a model. `run_training` is the whole of it; what it needs is beside. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { access, constants } from "node:fs/promises";
import { aborted, BimedixError } from "../errors.js";
import { expected_tensors } from "../model/checkpoint.js";
import { read_config } from "../model/config.js";
import { resolve_model } from "../model/hub.js";
import { refuse_own_base } from "../model/model_files.js";
import { open_store } from "../model/store.js";
import { BaseModel } from "./base.js";
import { checkpoints, load_checkpoint, save_checkpoint, type TrainerState, type WriteModel } from "./checkpoint.js";
import { type DataReport, type Example, pack, read_dataset, to_batch } from "./data.js";
import type { AdapterShape } from "./graphs.js";
import { type LogEntry, RunLog } from "./log.js";
import { type Batch, mix, Network, type Parameter, type PassResult } from "./network.js";
import { AdamW, clip_scale, gradient_norm, schedule_at } from "./optimizer.js";
import { Plan } from "./plan.js";
import { eval_name, type Recipe, type SourceRecipe } from "./recipe.js";
import { adapter_shape, make_parameters, model_writer, training_tokenizer } from "./setup.js";

/** What a run tells while it goes. */
export type TrainEvent =
  | { kind: "loading"; done: number; total: number }
  | { kind: "data"; report: DataReport }
  | { kind: "begin"; steps: number; first: number; trained: number; parameters: number; resumed: string | null }
  | { kind: "step"; step: number; steps: number; entry: LogEntry; seconds_left: number }
  | { kind: "log"; entry: LogEntry }
  | { kind: "checkpoint"; dir: string };

export interface TrainOptions {
  /** Go on from the newest checkpoint in output_dir, which must have one. Without it an output_dir that has one is refused. */
  resume?: boolean;
  on_event?: (event: TrainEvent) => void;
  /** Ends the run after the step or the part of a measurement that is being computed, with a checkpoint. */
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
 * @throws BimedixError aborted (with a checkpoint of the steps that were made), bad_data, bad_option, non_finite_gradients, disk_full and others
 */
export async function run_training(recipe: Recipe, options: TrainOptions = {}): Promise<TrainResult> {
  const run = await prepare(recipe, options);
  const { state, plan, log, network, base } = run;
  const stopped = () => options.signal?.aborted ?? false;
  try {
    const began = performance.now();
    const first = state.global_step;
    let saved = first;
    for (;;) {
      const last = state.global_step === plan.steps;
      const due = state.global_step % (recipe.eval_steps ?? plan.steps) === 0;
      if ((last || due) && log.evaluated_at !== state.global_step) await evaluate(run, stopped);
      if (stopped()) {
        if (state.global_step > saved) await save(run);
        throw aborted();
      }
      if (last) break;
      await step(run);
      const left = (performance.now() - began) / 1000 / (state.global_step - first);
      const { entry } = state.pending.at(-1)!;
      const seconds_left = left * (plan.steps - state.global_step);
      run.on_event({ kind: "step", step: state.global_step, steps: plan.steps, entry, seconds_left });
      const end = state.global_step === plan.steps;
      if (end || state.global_step % recipe.logging_steps === 0) await log.add(mean_entry(state.pending.splice(0)));
      if (state.skipped_in_a_row >= recipe.max_skipped_steps) throw non_finite(state);
      if (end || state.global_step % recipe.save_steps === 0) {
        await save(run);
        saved = state.global_step;
      }
    }
    await run.write_model(recipe.output_dir);
    return {
      output_dir: recipe.output_dir,
      steps: state.global_step,
      skipped: state.skipped,
      eval_loss: log.eval_loss,
    };
  } finally {
    await network.release();
    await base.close();
  }
}

/** All that a run works with. */
interface Run {
  recipe: Recipe;
  base: BaseModel;
  network: Network;
  parameters: ReadonlyMap<string, Parameter>;
  optimizer: AdamW;
  plan: Plan;
  held_out: ReadonlyMap<string, Example[]>;
  state: TrainerState;
  log: RunLog;
  write_model: WriteModel;
  on_event: (event: TrainEvent) => void;
}

async function prepare(recipe: Recipe, options: TrainOptions): Promise<Run> {
  const { resume = false, on_event = () => {}, signal } = options;
  const on_progress = (one: { done: number; total: number }) => on_event({ kind: "loading", ...one });
  const loading = { on_progress, ...(signal ? { signal } : {}) };
  const [newest] = await checkpoints(recipe.output_dir);
  if (newest && !resume) throw unfinished(newest.dir);
  if (resume && !newest) throw nothing_to_resume(recipe.output_dir);
  await check_readable([...recipe.datasets, ...recipe.eval_datasets]);
  const dir = await resolve_model(recipe.base_model, loading);
  if (recipe.adapter === "none") await refuse_own_base(recipe.output_dir, dir);
  const adapter = adapter_shape(recipe, await read_config(dir));
  const dtype = ({ none: "fp32", int8: "int8", nf4: "bnb4", nf4_double: "bnb4_double" } as const)[recipe.quantization];
  const base = await BaseModel.open(await open_store(dir, { dtype, ...loading }), { stream: recipe.stream_weights });
  try {
    return await assemble(recipe, { dir, base, adapter, newest: newest?.dir ?? null, on_event });
  } catch (error) {
    await base.close();
    throw error;
  }
}

interface Parts {
  dir: string;
  base: BaseModel;
  adapter: AdapterShape | null;
  /** The checkpoint to go on from. */
  newest: string | null;
  on_event: (event: TrainEvent) => void;
}

async function assemble(recipe: Recipe, { dir, base, adapter, newest, on_event }: Parts): Promise<Run> {
  const tokenizer = await training_tokenizer(dir, base.config.vocab_size);
  const read = async (source: SourceRecipe): Promise<Example[]> => {
    const { examples, report } = await read_dataset(source, tokenizer, recipe);
    on_event({ kind: "data", report });
    return examples;
  };
  const learnt: Example[][] = [];
  for (const source of recipe.datasets) learnt.push(await read(source));
  const held_out = new Map<string, Example[]>();
  for (const source of recipe.eval_datasets) held_out.set(eval_name(source.path), await read(source));
  const data: Example[] = [];
  for (const [i, { repeat }] of recipe.datasets.entries())
    for (let time = 0; time < repeat; time++) for (const example of learnt[i]!) data.push(example);

  const parameters = await make_parameters(recipe, base, adapter);
  const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon, weight_decay } = recipe;
  const optimizer = new AdamW(parameters, { beta1, beta2, epsilon, weight_decay });
  const plan = new Plan(recipe, data);
  const begin = { global_step: 0, skipped: 0, skipped_in_a_row: 0, tokens_seen: 0, pending: [] };
  const own = await fingerprint(recipe, base, [...learnt, ...held_out.values()]);
  const state = newest ? await resumed(newest, { parameters, optimizer }, own) : { ...begin, fingerprint: own };
  const log = await RunLog.open(recipe.output_dir, state.global_step, (entry) => on_event({ kind: "log", entry }));
  const shape = { adapter, batch: recipe.micro_batch_size, keep: !recipe.gradient_checkpointing };
  const network = await Network.create(base, shape, parameters, recipe.threads);
  const count = (list: Iterable<{ shape: readonly number[] }>) =>
    [...list].reduce((sum, { shape }) => sum + shape.reduce((product, dim) => product * dim, 1), 0);
  on_event({
    kind: "begin",
    steps: plan.steps,
    first: state.global_step,
    trained: count(parameters.values()),
    parameters: count(expected_tensors(base.config)),
    resumed: newest,
  });
  const write_model = model_writer(recipe, dir, base, parameters);
  return { recipe, base, network, parameters, optimizer, plan, held_out, state, log, write_model, on_event };
}

/** One step, and what it tells. */
async function step({ network, parameters, optimizer, plan, recipe, state }: Run): Promise<void> {
  const batches = plan.batches(state.global_step);
  const result = await train_step(network, parameters, optimizer, batches, recipe, state.global_step, plan.steps);
  state.global_step++;
  state.tokens_seen += result.tokens;
  state.skipped += Number(result.skipped);
  state.skipped_in_a_row = result.skipped ? state.skipped_in_a_row + 1 : 0;
  const entry: LogEntry = {
    ...result.entry,
    step: state.global_step,
    epoch: plan.epoch_at(state.global_step),
    num_input_tokens_seen: state.tokens_seen,
    ...(state.skipped > 0 ? { skipped_steps: state.skipped } : {}),
  };
  state.pending.push({ entry, seconds: result.seconds, tokens: result.tokens });
}

async function save({ recipe, parameters, optimizer, state, write_model, on_event }: Run): Promise<void> {
  const training = { parameters, optimizer, state };
  const dir = await save_checkpoint(recipe.output_dir, training, write_model, recipe.save_total_limit);
  on_event({ kind: "checkpoint", dir });
}

/** The loss on each of eval_datasets; nothing when the run is stopped meanwhile. */
async function evaluate({ recipe, network, held_out, state, plan, log }: Run, stopped: () => boolean): Promise<void> {
  if (held_out.size === 0) return;
  const began = performance.now();
  const results = new Map<string, { nll: number; labels: number }>();
  for (const [name, examples] of held_out) {
    results.set(name, await measure(network, examples, recipe, stopped));
    if (stopped()) return;
  }
  const all = [...results.values()];
  await log.add({
    step: state.global_step,
    epoch: plan.epoch_at(state.global_step),
    eval_loss: sum(all.map(({ nll }) => nll)) / sum(all.map(({ labels }) => labels)),
    // As the Trainer does with several sets.
    ...Object.fromEntries([...results].map(([name, { nll, labels }]) => [`eval_${name}_loss`, nll / labels])),
    eval_runtime: (performance.now() - began) / 1000,
  });
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
  const aux_per_layer = recipe.router_aux_loss_per_layer;
  const results: PassResult[] = [];
  for (const [i, batch] of batches.entries()) {
    const seed = mix(mix(recipe.seed, step), i);
    results.push(await network.backward(batch, { items, aux_coefficient, aux_per_layer, seed }));
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

/** What one line of the log says about the steps since the last: the means of those whose gradients were finite. */
function mean_entry(since: TrainerState["pending"]): LogEntry {
  const entries = since.map(({ entry }) => entry);
  const finite = entries.filter(({ grad_norm }) => Number.isFinite(grad_norm));
  const counted = finite.length > 0 ? finite : entries;
  const mean = (pick: (entry: LogEntry) => number) => sum(counted.map(pick)) / counted.length;
  const scalar = (key: "loss" | "aux_loss" | "grad_norm") => (finite.length > 0 ? mean((entry) => entry[key]!) : null);
  const { router_entropy, expert_load, ...last } = entries.at(-1)!;
  return {
    ...last,
    ...Object.fromEntries((["loss", "aux_loss", "grad_norm"] as const).map((key) => [key, scalar(key)])),
    ...(router_entropy && {
      router_entropy: router_entropy.map((_, layer) => mean((entry) => entry.router_entropy![layer]!)),
    }),
    ...(expert_load && {
      expert_load: expert_load.map((shares, layer) =>
        shares.map((_, e) => mean((entry) => entry.expert_load![layer]![e]!)),
      ),
    }),
    tokens_per_second: sum(since.map(({ tokens }) => tokens)) / sum(since.map(({ seconds }) => seconds)),
  };
}

/** The loss on data that is not learnt from: a sum in nats, and of how many tokens. */
async function measure(
  network: Network,
  examples: readonly Example[],
  recipe: Recipe,
  stopped: () => boolean,
): Promise<{ nll: number; labels: number }> {
  const lengths = examples.map(({ input_ids }) => input_ids.length);
  const rows = pack(lengths, recipe.sequence_len, true, 0);
  const total = { nll: 0, labels: 0 };
  for (let at = 0; at < rows.length && !stopped(); at += recipe.micro_batch_size) {
    const own = rows.slice(at, at + recipe.micro_batch_size).map((row) => row.map((index) => examples[index]!));
    const { nll, labels } = await network.evaluate(to_batch(own, recipe.micro_batch_size));
    total.nll += nll;
    total.labels += labels;
  }
  return total;
}

/** What must be the same for a run to go on: the recipe but for its paths and how it reports, the base, and the data's tokens. */
async function fingerprint(recipe: Recipe, base: BaseModel, data: readonly Example[][]): Promise<string> {
  const {
    base_model,
    eval_datasets,
    output_dir,
    logging_steps,
    eval_steps,
    save_steps,
    save_total_limit,
    threads,
    max_skipped_steps,
    datasets,
    ...deciding
  } = recipe;
  const repeats = datasets.map(({ repeat }) => repeat);
  const hash = createHash("sha256").update(JSON.stringify([deciding, repeats]));
  hash.update(await base.fingerprint());
  for (const examples of data) {
    hash.update(`${examples.length}\n`);
    for (const { input_ids, learnt } of examples) hash.update(`${input_ids.length}\n`).update(input_ids).update(learnt);
  }
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
    given: `${dir}, which another recipe, base or other data made`,
    expected: "the recipe, base and data that the run began with",
    todo: "undo the change, or train into another output_dir",
  });
}

/** @throws BimedixError file_not_found for all files of data that cannot be read, before anything long is begun */
async function check_readable(sources: readonly SourceRecipe[]): Promise<void> {
  const tried = sources.map(({ path }) =>
    access(path, constants.R_OK).then(
      () => [],
      () => [path],
    ),
  );
  const missing = (await Promise.all(tried)).flat();
  if (missing.length > 0)
    throw new BimedixError("file_not_found", {
      given: `${missing.join(", ")}, which cannot be read`,
      expected: "data in JSON lines",
      todo: "check the paths of datasets and eval_datasets, which are relative to the recipe; recipes/first-steps.yaml has data beside it",
    });
}

const unfinished = (dir: string) =>
  new BimedixError("bad_option", {
    given: `an output_dir that holds ${dir}`,
    expected: "an empty one, so that nothing is written over",
    todo: "add --resume to go on with that run, or choose another output_dir",
  });

const nothing_to_resume = (dir: string) =>
  new BimedixError("bad_option", {
    given: `nothing to resume: ${dir} ${existsSync(dir) ? "holds no checkpoint" : "does not exist"}`,
    expected: "an output_dir with a folder checkpoint-STEP",
    todo: "correct output_dir, or leave --resume out to begin",
  });

const non_finite = ({ skipped_in_a_row, global_step }: TrainerState) =>
  new BimedixError("non_finite_gradients", {
    given: `${skipped_in_a_row} steps in a row, up to ${global_step}, with NaN or infinite gradients`,
    expected: "finite gradients",
    todo: "train anew into another output_dir, with a lower learning_rate or a stricter max_grad_norm",
  });
