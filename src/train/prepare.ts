/** From a recipe to a run that can take its first step, or the next after its newest checkpoint. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { access, constants, stat } from "node:fs/promises";
import { BimedixError } from "../errors.js";
import { same_folder } from "../files.js";
import type { Lock } from "../lock.js";
import { expected_tensors } from "../model/checkpoint.js";
import { read_config } from "../model/config.js";
import { resolve_model } from "../model/hub.js";
import { open_store } from "../model/store.js";
import { BaseModel } from "./base.js";
import { check_data, check_parameters } from "./bounds.js";
import { checkpoints, load_checkpoint, type TrainerState, type WriteModel } from "./checkpoint.js";
import { type Example, read_dataset } from "./data.js";
import type { AdapterShape } from "./graphs.js";
import type { Listener } from "./listener.js";
import { RunLog } from "./log.js";
import { Network, type Parameter } from "./network.js";
import { AdamW } from "./optimizer.js";
import { Plan } from "./plan.js";
import { eval_name, type Recipe, type SourceRecipe } from "./recipe.js";
import { adapter_shape, make_parameters, model_writer, training_tokenizer } from "./setup.js";

/** All that a run works with. */
export interface Run {
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
  listener: Listener;
  /** Of output_dir. */
  lock: Lock;
}

/** What must be so before anything is written. The newest checkpoint, where the run goes on from one. @throws BimedixError bad_option, file_not_found */
export async function check_start(recipe: Recipe, resume: boolean): Promise<string | null> {
  const [newest] = await checkpoints(recipe.output_dir);
  if (newest && !resume) throw unfinished(newest.dir);
  if (resume && !newest) throw nothing_to_resume(recipe.output_dir);
  await check_readable([...recipe.datasets, ...recipe.eval_datasets]);
  return newest?.dir ?? null;
}

export async function prepare(recipe: Recipe, resume: boolean, listener: Listener, lock: Lock): Promise<Run> {
  const on_progress = (one: { done: number; total: number }) => listener.tell({ kind: "loading", ...one });
  const loading = { on_progress, signal: listener.signal };
  const newest = await check_start(recipe, resume);
  const dir = await resolve_model(recipe.base_model, loading);
  if (recipe.adapter === "none" && (await same_folder(recipe.output_dir, dir))) throw own_base(dir);
  const config = await read_config(dir);
  const adapter = adapter_shape(recipe, config);
  check_parameters(adapter, config);
  const dtype = ({ none: "fp32", int8: "int8", nf4: "bnb4", nf4_double: "bnb4_double" } as const)[recipe.quantization];
  const base = await BaseModel.open(await open_store(dir, { dtype, ...loading }), { stream: recipe.stream_weights });
  try {
    return await assemble(recipe, { dir, base, adapter, newest, listener, lock });
  } catch (error) {
    await base.close().catch(() => {});
    throw error;
  }
}

interface Parts {
  dir: string;
  base: BaseModel;
  adapter: AdapterShape | null;
  /** The checkpoint to go on from. */
  newest: string | null;
  listener: Listener;
  lock: Lock;
}

async function assemble(recipe: Recipe, { dir, base, adapter, newest, listener, lock }: Parts): Promise<Run> {
  const tokenizer = await training_tokenizer(dir, base.config.vocab_size);
  const read = async (source: SourceRecipe): Promise<Example[]> => {
    const { examples, report } = await read_dataset(source, tokenizer, recipe);
    listener.tell({ kind: "data", report });
    return examples;
  };
  const learnt: Example[][] = [];
  for (const source of recipe.datasets) learnt.push(await read(source));
  const held_out = new Map<string, Example[]>();
  for (const source of recipe.eval_datasets) held_out.set(eval_name(source.path), await read(source));
  check_data(recipe, learnt, base.config);
  const data: Example[] = [];
  for (const [i, { repeat }] of recipe.datasets.entries())
    for (let time = 0; time < repeat; time++) for (const example of learnt[i]!) data.push(example);

  const parameters = await make_parameters(recipe, base, adapter);
  const { adam_beta1: beta1, adam_beta2: beta2, adam_epsilon: epsilon, weight_decay } = recipe;
  const optimizer = new AdamW(parameters, { beta1, beta2, epsilon, weight_decay });
  const plan = new Plan(recipe, data);
  const begin = { global_step: 0, skipped: 0, skipped_in_a_row: 0, tokens_seen: 0, pending: [] };
  const own = await fingerprint(recipe, base, [...learnt, ...held_out.values()]);
  const training = { parameters, optimizer };
  const state = newest ? await resumed(newest, training, own, plan.steps) : { ...begin, fingerprint: own };
  const log = await RunLog.open(recipe.output_dir, state.global_step, lock, (entry) => {
    listener.tell({ kind: "log", entry });
  });
  const shape = { adapter, batch: recipe.micro_batch_size, keep: !recipe.gradient_checkpointing };
  const network = await Network.create(base, shape, parameters, recipe.threads);
  const count = (list: Iterable<{ shape: readonly number[] }>) =>
    [...list].reduce((sum, { shape }) => sum + shape.reduce((product, dim) => product * dim, 1), 0);
  listener.tell({
    kind: "begin",
    steps: plan.steps,
    first: state.global_step,
    trained: count(parameters.values()),
    parameters: count(expected_tensors(base.config)),
    resumed: newest,
  });
  const write_model = model_writer(recipe, dir, base, parameters);
  return { recipe, base, network, parameters, optimizer, plan, held_out, state, log, write_model, listener, lock };
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
  steps: number,
): Promise<TrainerState> {
  const state = await load_checkpoint(dir, training);
  if (state.fingerprint === expected && state.global_step <= steps) return state;
  throw new BimedixError("bad_option", {
    given: `${dir}, which another recipe, base or other data made`,
    expected: "the recipe, base and data that the run began with",
    todo: "undo the change, or train into another output_dir",
  });
}

/** @throws BimedixError file_not_found for all files of data that cannot be read, before anything long is begun */
async function check_readable(sources: readonly SourceRecipe[]): Promise<void> {
  const tried = sources.map(async ({ path }) => {
    try {
      await access(path, constants.R_OK);
      // A pipe may never end, and is read more than once.
      return (await stat(path)).isFile() ? [] : [path];
    } catch {
      return [path];
    }
  });
  const missing = (await Promise.all(tried)).flat();
  if (missing.length > 0)
    throw new BimedixError("file_not_found", {
      given: `${missing.join(", ")}, which cannot be read`,
      expected: "files of data",
      todo: "check the paths of datasets and eval_datasets, which are relative to the recipe; recipes/first-steps.yaml has data beside it",
    });
}

const own_base = (dir: string) =>
  new BimedixError("bad_option", {
    given: `the base model's own directory ${dir} as output_dir`,
    expected: "another one, so that the base is not written over",
    todo: "choose another output_dir",
  });

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
