/**
 * Checkpoints of a run: a folder `checkpoint-STEP` with what is learnt, the optimizer's state and the place in the run. A folder is
 * written under another name and renamed when it is whole, so that one that can be seen can be loaded.
 */
import { mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { BimedixError } from "../errors.js";
import { file_error, file_hash, part_in, read_json, write_atomically } from "../files.js";
import type { Lock } from "../lock.js";
import { read_floats, read_safetensors_header, write_safetensors } from "../model/safetensors.js";
import { type Blame, sealed, shaped, unsealed } from "../shape.js";
import { entry_schema, type LogEntry } from "./log.js";
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
  lock: Lock,
): Promise<string> {
  const dir = join(output_dir, `checkpoint-${state.global_step}`);
  const part = part_in(output_dir);
  try {
    await lock.check();
    await mkdir(part, { recursive: true });
    await write_model(part);
    await write_safetensors(join(part, OPTIMIZER), moments(parameters, optimizer));
    const optimizer_sha256 = await file_hash(join(part, OPTIMIZER));
    const json = sealed({ ...state, optimizer_steps: optimizer.step_count, optimizer_sha256 });
    await write_atomically(join(part, STATE), (handle) => handle.writeFile(`${JSON.stringify(json, null, 2)}\n`));
    await lock.check();
    await discard(dir);
    await rename(part, dir);
  } catch (error) {
    await rm(part, { recursive: true, force: true }).catch(() => {});
    throw file_error(error, dir, "a place for a checkpoint");
  }
  for (const { dir: old } of (await checkpoints(output_dir)).slice(limit)) await discard(old);
  return dir;
}

/** Removes a checkpoint, of which nothing may be seen that is not whole: a kill on the way leaves a part, which the next start removes. */
async function discard(dir: string): Promise<void> {
  const part = part_in(dirname(dir));
  await rename(dir, part).catch((error) => (error.code === "ENOENT" ? undefined : Promise.reject(error)));
  await rm(part, { recursive: true, force: true });
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

const count = z.int().min(0);

/** What stands in trainer_state.json; the checksums are younger than the rest. */
const state_schema = z
  .strictObject({
    global_step: count,
    skipped: count,
    skipped_in_a_row: count,
    tokens_seen: count,
    pending: z.array(z.strictObject({ entry: entry_schema, seconds: z.number().min(0), tokens: count })),
    fingerprint: z.string().min(1),
    optimizer_steps: count,
    optimizer_sha256: z.string().optional(),
  })
  .refine(
    ({ global_step, skipped, skipped_in_a_row, optimizer_steps }) =>
      skipped_in_a_row <= skipped && optimizer_steps === global_step - skipped,
    "expected as many steps of the optimizer as steps that were not skipped",
  )
  .refine(
    ({ global_step, pending }) =>
      pending.every(({ entry }, i) => entry.step === global_step - pending.length + 1 + i) &&
      pending.length <= global_step,
    "expected the last steps in pending",
  );

/** Puts a checkpoint's values into the parameters and the optimizer. @throws BimedixError bad_checkpoint when they do not fit */
export async function load_checkpoint(
  dir: string,
  { parameters, optimizer }: Omit<TrainingState, "state">,
): Promise<TrainerState> {
  const blame: Blame = {
    where: join(dir, STATE),
    code: "bad_checkpoint",
    expected: "a checkpoint as it was written",
    todo: `go on from an earlier one by removing ${dir}, or train into another output_dir`,
  };
  const read = unsealed(await read_json(join(dir, STATE), "bad_checkpoint"), blame);
  const { optimizer_steps, optimizer_sha256, ...state } = shaped<z.infer<typeof state_schema>>(
    state_schema,
    read,
    blame,
  );
  const wrong = (given: string) => new BimedixError("bad_checkpoint", { ...blame, given });
  const named = Number(/checkpoint-(\d+)$/.exec(resolve(dir))?.[1] ?? state.global_step);
  if (named !== state.global_step) throw wrong(`${dir} with the state of step ${state.global_step}`);
  const file = join(dir, OPTIMIZER);
  const header = await read_safetensors_header(file);
  if (optimizer_sha256 !== undefined && (await file_hash(file)) !== optimizer_sha256)
    throw wrong(`${file}: not what its checksum says`);
  const handle = await open(file);
  try {
    let tensors = 0;
    for (const { name, data, shape } of moments(parameters, optimizer)) {
      tensors++;
      const tensor = header.get(name);
      if (tensor?.dtype !== "F32" || String(tensor.shape) !== String(shape))
        throw new BimedixError("bad_checkpoint", {
          given: `${file} ${tensor ? "with another shape of" : "without"} ${name}`,
          expected: "a checkpoint of this recipe",
          todo: "train into another output_dir, or use the recipe that the run began with",
        });
      data.set(await read_floats(handle, tensor, 0, data.length));
      if (name.startsWith("exp_avg_sq.") && data.some((square) => square < 0))
        throw wrong(`${file} with negative squares in ${name}`);
    }
    if (header.size !== tensors) throw wrong(`${file} with ${header.size} tensors instead of ${tensors}`);
  } finally {
    await handle.close();
  }
  optimizer.step_count = optimizer_steps;
  return state as unknown as TrainerState;
}
