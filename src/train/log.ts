/**
 * What a run tells: `log.jsonl` with the names of Hugging Face's Trainer, TensorBoard's event files with the same, and whoever listens.
 */
import { randomBytes } from "node:crypto";
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { BimedixError } from "../errors.js";
import { file_error, read_text, write_atomically } from "../files.js";
import type { Lock } from "../lock.js";
import { type Blame, shaped } from "../shape.js";
import { EventFile } from "./events.js";

const figure = z.number();
/** Null stands for what is not finite. */
const loss = figure.nullable().optional();

/** Anything else that a line holds is a figure too. */
export const entry_schema = z
  .object({
    step: z.int().min(0),
    epoch: figure.min(0),
    loss,
    aux_loss: loss,
    grad_norm: loss,
    num_input_tokens_seen: z.int().min(0).optional(),
    skipped_steps: z.int().min(0).optional(),
    router_entropy: z.array(figure.nullable()).optional(),
    expert_load: z
      .array(z.array(figure.min(0).nullable()).min(1))
      .min(1)
      .refine(
        (rows) => rows.every(({ length }) => length === rows[0]!.length),
        "expected as many experts in each layer",
      )
      .optional(),
  })
  .catchall(figure.nullable());

/** A line of log.jsonl. Losses are in nats a token. */
export interface LogEntry {
  step: number;
  epoch: number;
  loss?: number;
  aux_loss?: number;
  grad_norm?: number;
  learning_rate?: number;
  tokens_per_second?: number;
  num_input_tokens_seen?: number;
  /** Steps that were left out because their gradients were not finite, up to now. */
  skipped_steps?: number;
  /** A layer: the mean entropy of the router in nats, and each expert's share of the choices. */
  router_entropy?: number[];
  expert_load?: number[][];
  /** Over all of eval_datasets; each alone is `eval_NAME_loss`, after its file. */
  eval_loss?: number;
  [each: `eval_${string}_loss`]: number;
  eval_runtime?: number;
}

export class RunLog {
  private readonly events: EventFile;
  /** The step and the loss of the last measurement on held-out data. */
  evaluated_at: number | null = null;
  eval_loss: number | null = null;

  private constructor(
    readonly file: string,
    before: readonly LogEntry[],
    private readonly lock: Lock,
    private readonly on_entry: (entry: LogEntry) => void,
  ) {
    for (const entry of before) this.remember(entry);
    const name = `events.out.tfevents.${Math.floor(Date.now() / 1000)}.bimedix.${randomBytes(4).toString("hex")}`;
    this.events = new EventFile(join(file, "..", name));
  }

  /** Opens the log of a run that goes on after `step`; what an interrupted run wrote behind it is taken out. */
  static async open(
    output_dir: string,
    step: number,
    lock: Lock,
    on_entry: (entry: LogEntry) => void,
  ): Promise<RunLog> {
    const file = join(output_dir, "log.jsonl");
    const before = step === 0 ? [] : (await read_log(file)).filter((entry) => entry.step <= step);
    await write_atomically(file, (handle) =>
      handle.writeFile(before.map((entry) => `${JSON.stringify(entry)}\n`).join("")),
    );
    return new RunLog(file, before, lock, on_entry);
  }

  /** @throws BimedixError in_use, disk_full */
  async add(entry: LogEntry): Promise<void> {
    await this.lock.check();
    await appendFile(this.file, `${JSON.stringify(entry)}\n`).catch((error) =>
      Promise.reject(file_error(error, this.file, "a place for the log")),
    );
    await this.events.add(entry.step, scalars(entry));
    this.remember(entry);
    this.on_entry(entry);
  }

  private remember({ step, eval_loss }: LogEntry): void {
    if (eval_loss !== undefined) [this.evaluated_at, this.eval_loss] = [step, eval_loss];
  }
}

/** The entries of a log, none where there is no file; a last line that was cut short is left out. @throws BimedixError bad_data */
export async function read_log(file: string): Promise<LogEntry[]> {
  const text = await read_text(file, "the log of a run").catch((error) => {
    if (error.code === "file_not_found") return "";
    throw error;
  });
  const lines = text.split("\n");
  lines.pop();
  let step = 0;
  return lines.map((line, i) => {
    const blame: Blame = {
      where: `${file} line ${i + 1}`,
      code: "bad_data",
      expected: "the log of a run",
      todo: "correct the line, or take it out",
    };
    const wrong = (given: string) => new BimedixError("bad_data", { ...blame, given: `${blame.where}: ${given}` });
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch {
      throw wrong("not JSON");
    }
    const entry = shaped<LogEntry>(entry_schema, value, blame);
    if (entry.step < step) throw wrong(`step ${entry.step} after step ${step}`);
    step = entry.step;
    return entry;
  });
}

/** TensorBoard's tags: `train/loss`, `eval/loss` and so on, and a router's figures by layer. */
function scalars(entry: LogEntry): Record<string, number> {
  const tags: Record<string, number> = {};
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value === "number" && key !== "step")
      tags[key.startsWith("eval_") ? `eval/${key.slice(5)}` : `train/${key}`] = value;
  }
  for (const [layer, entropy] of (entry.router_entropy ?? []).entries())
    tags[`router_entropy/layer_${layer}`] = entropy;
  for (const [layer, shares] of (entry.expert_load ?? []).entries())
    for (const [expert, load] of shares.entries()) tags[`expert_load/layer_${layer}/expert_${expert}`] = load;
  return tags;
}
