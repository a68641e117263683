/**
 * Checkpoints of a run: a folder `checkpoint-STEP` with what is learnt, the optimizer's state and the place in the run. A folder is
 * written under another name and renamed when it is whole, so that one that can be seen can be loaded.
 */
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, read_json, write_atomically } from "../files.js";
import { read_floats, read_safetensors_header, write_safetensors } from "../model/safetensors.js";
import type { LogEntry } from "./log.js";
import type { Parameter } from "./network.js";
import type { AdamW } from "./optimizer.js";

/** Where a run is: all that its future depends on besides parameters, optimizer, recipe and data. */
export interface TrainerState {
  /** Optimizer steps that were made or skipped. */
  global_step: number;
  /** Steps whose gradients were not finite: in all, and in a row up to now. */
  skipped: number;
  skipped_in_a_row: number;
  tokens_seen: number;
  /** Steps since the last line of the log, which is their mean. */
  pending: { entry: LogEntry; seconds: number; tokens: number }[];
  /** A hash of the recipe and the data, which must be the same when the run goes on. */
  fingerprint: string;
}

export interface TrainingState {
  parameters: ReadonlyMap<string, Parameter>;
  optimizer: AdamW;
  state: TrainerState;
}

/** Writes what is learnt into a folder in the form in which it is used. */
export type WriteModel = (dir: string) => Promise<void>;

const STATE = "trainer_state.json";
const OPTIMIZER = "optimizer.safetensors";

/** The folders of whole checkpoints, the newest first. */
export async function checkpoints(output_dir: string): Promise<{ dir: string; step: number }[]> {
  const names: string[] = await readdir(output_dir).catch(() => []);
  const found = names.flatMap((name) => {
    const step = /^checkpoint-(\d+)$/.exec(name)?.[1];
    return step ? [{ dir: join(output_dir, name), step: Number(step) }] : [];
  });
  return found.sort((a, b) => b.step - a.step);
}

/** @throws BimedixError disk_full and others; earlier checkpoints stay as they are */
export async function save_checkpoint(
  output_dir: string,
  { parameters, optimizer, state }: TrainingState,
  write_model: WriteModel,
  limit: number,
): Promise<string> {
  const dir = join(output_dir, `checkpoint-${state.global_step}`);
  const part = `${dir}.part`;
  try {
    await rm(part, { recursive: true, force: true });
    await mkdir(part, { recursive: true });
    await write_model(part);
    await write_safetensors(join(part, OPTIMIZER), moments(parameters, optimizer));
    const json = { ...state, optimizer_steps: optimizer.step_count };
    await write_atomically(join(part, STATE), (handle) => handle.writeFile(`${JSON.stringify(json, null, 2)}\n`));
    await rm(dir, { recursive: true, force: true });
    await rename(part, dir);
  } catch (error) {
    await rm(part, { recursive: true, force: true }).catch(() => {});
    throw file_error(error, dir, "a place for a checkpoint");
  }
  for (const { dir: old } of (await checkpoints(output_dir)).slice(limit))
    await rm(old, { recursive: true, force: true });
  return dir;
}

/** The parameters are in it a second time, exact: a model's own files may round them. */
function* moments(parameters: ReadonlyMap<string, Parameter>, { moments }: AdamW) {
  for (const [name, { shape, data }] of parameters) {
    const { mean, square } = moments.get(name)!;
    yield { name: `parameter.${name}`, shape, data };
    yield { name: `exp_avg.${name}`, shape, data: mean };
    yield { name: `exp_avg_sq.${name}`, shape, data: square };
  }
}

/** Puts a checkpoint's values into the parameters and the optimizer. @throws BimedixError bad_checkpoint when they do not fit */
export async function load_checkpoint(
  dir: string,
  { parameters, optimizer }: Omit<TrainingState, "state">,
): Promise<TrainerState> {
  const { optimizer_steps, ...state } = await read_json(join(dir, STATE), "bad_checkpoint");
  const file = join(dir, OPTIMIZER);
  const header = await read_safetensors_header(file);
  const handle = await open(file);
  try {
    for (const { name, data } of moments(parameters, optimizer)) {
      const tensor = header.get(name);
      if (tensor?.byte_length !== data.byteLength)
        throw new BimedixError("bad_checkpoint", {
          given: `${file} ${tensor ? "with another shape of" : "without"} ${name}`,
          expected: "a checkpoint of this recipe",
          todo: "train into another output_dir, or use the recipe that the run began with",
        });
      data.set(await read_floats(handle, tensor, 0, data.length));
    }
  } finally {
    await handle.close();
  }
  optimizer.step_count = optimizer_steps as number;
  return state as unknown as TrainerState;
}
