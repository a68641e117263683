/** A training run: from a recipe to an adapter, or to a model. `run_training` is the whole of it; what it needs is beside. */
import { aborted, BimedixError } from "../errors.js";
import { type Lock, with_output } from "../lock.js";
import { save_checkpoint, type TrainerState } from "./checkpoint.js";
import { type Example, pack, to_batch } from "./data.js";
import { Listener, type TrainEvent, type TrainOptions } from "./listener.js";
import type { LogEntry } from "./log.js";
import { type Batch, mix, type Network, type Parameter, type PassResult } from "./network.js";
import { type AdamW, clip_scale, gradient_norm, schedule_at } from "./optimizer.js";
import { write_plot } from "./plot.js";
import { check_start, prepare, type Run } from "./prepare.js";
import type { Recipe } from "./recipe.js";

export type { TrainEvent, TrainOptions };

export interface TrainResult {
  output_dir: string;
  steps: number;
  skipped: number;
  /** In nats a token, on `eval_datasets`. */
  eval_loss: number | null;
  /** The curves, as a page. */
  plot: string;
}

/**
 * Trains as a recipe says and leaves the result in its output_dir: an adapter in PEFT's form, or with `adapter: none` a checkpoint.
 * @throws BimedixError aborted (with a checkpoint of the steps that were made), bad_data, bad_option, in_use, non_finite_gradients,
 * disk_full and others
 */
export async function run_training(recipe: Recipe, options: TrainOptions = {}): Promise<TrainResult> {
  const { resume = false, signal } = options;
  const listener = new Listener(options);
  const on_wait = (owner: string) => listener.tell({ kind: "waiting", owner });
  const alone = { wait: false, on_wait, ...(signal ? { signal } : {}) };
  try {
    await check_start(recipe, resume);
    return await with_output(
      recipe.output_dir,
      "bimedix train",
      (lock) => drawn(recipe, resume, listener, lock),
      alone,
    );
  } catch (error) {
    throw listener.error_of(error);
  }
}

/** A run with its curves, also where it was ended. One that could not begin leaves nothing. */
async function drawn(recipe: Recipe, resume: boolean, listener: Listener, lock: Lock): Promise<TrainResult> {
  const run = await prepare(recipe, resume, listener, lock);
  try {
    const result = await train(run);
    return { ...result, plot: await write_plot(recipe.output_dir) };
  } catch (error) {
    // What ended the run is what is to be read.
    if (!is_lost(error)) await write_plot(recipe.output_dir).catch(() => {});
    throw error;
  }
}

/** Whether nothing more can or may be written. */
const is_lost = (error: unknown): boolean =>
  error instanceof BimedixError && (error.code === "in_use" || error.code === "disk_full");

async function train(run: Run): Promise<Omit<TrainResult, "plot">> {
  const { recipe, state, plan, log, network, base, listener } = run;
  const stopped = () => listener.signal.aborted;
  let saved = state.global_step;
  try {
    const began = performance.now();
    const first = state.global_step;
    for (;;) {
      const last = state.global_step === plan.steps;
      const due = state.global_step % (recipe.eval_steps ?? plan.steps) === 0;
      if ((last || due) && log.evaluated_at !== state.global_step) await evaluate(run, stopped);
      if (stopped()) throw aborted();
      if (last) break;
      await step(run);
      const left = (performance.now() - began) / 1000 / (state.global_step - first);
      const { entry } = state.pending.at(-1)!;
      const seconds_left = left * (plan.steps - state.global_step);
      listener.tell({ kind: "step", step: state.global_step, steps: plan.steps, entry, seconds_left });
      const end = state.global_step === plan.steps;
      if (end || state.global_step % recipe.logging_steps === 0) {
        await log.add(mean_entry(state.pending));
        state.pending.length = 0;
      }
      if (state.skipped_in_a_row >= recipe.max_skipped_steps) throw non_finite(state);
      if (end || state.global_step % recipe.save_steps === 0) {
        await save(run);
        saved = state.global_step;
      }
    }
    await run.lock.check();
    await run.write_model(recipe.output_dir);
    return {
      output_dir: recipe.output_dir,
      steps: state.global_step,
      skipped: state.skipped,
      eval_loss: log.eval_loss,
    };
  } catch (error) {
    // Whatever ends a run, what it has learnt stays; but not a model that has left the numbers.
    const worthless = error instanceof BimedixError && error.code === "non_finite_gradients";
    if (state.global_step > saved && !worthless && !is_lost(error))
      await save(run).catch((failed) => {
        // Who stopped the run must hear that nothing was saved; elsewhere what ended it says more.
        if (stopped()) throw failed;
      });
    throw error;
  } finally {
    await Promise.allSettled([network.release(), base.close()]);
  }
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

async function save({ recipe, parameters, optimizer, state, write_model, listener, lock }: Run): Promise<void> {
  const training = { parameters, optimizer, state };
  const dir = await save_checkpoint(recipe.output_dir, training, write_model, recipe.save_total_limit, lock);
  listener.tell({ kind: "checkpoint", dir });
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

const non_finite = ({ skipped_in_a_row, global_step }: TrainerState) =>
  new BimedixError("non_finite_gradients", {
    given: `${skipped_in_a_row} steps in a row, up to ${global_step}, with NaN or infinite gradients`,
    expected: "finite gradients",
    todo: "train anew into another output_dir, with a lower learning_rate or a stricter max_grad_norm",
  });
