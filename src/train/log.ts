/**
 * What a run tells: `log.jsonl` with the names of Hugging Face's Trainer, TensorBoard's event files with the same, and whoever listens.
 */
import { appendFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, read_text, write_atomically } from "../files.js";
import { EventFile } from "./events.js";

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
    private readonly on_entry: (entry: LogEntry) => void,
  ) {
    for (const entry of before) this.remember(entry);
    this.events = new EventFile(
      join(file, "..", `events.out.tfevents.${Math.floor(Date.now() / 1000)}.bimedix.${process.pid}`),
    );
  }

  /** Opens the log of a run that goes on after `step`; what an interrupted run wrote behind it is taken out. */
  static async open(output_dir: string, step: number, on_entry: (entry: LogEntry) => void): Promise<RunLog> {
    await mkdir(output_dir, { recursive: true }).catch((error) =>
      Promise.reject(file_error(error, output_dir, "a folder to write to")),
    );
    const file = join(output_dir, "log.jsonl");
    const before = step === 0 ? [] : (await read_log(file)).filter((entry) => entry.step <= step);
    await write_atomically(file, (handle) =>
      handle.writeFile(before.map((entry) => `${JSON.stringify(entry)}\n`).join("")),
    );
    return new RunLog(file, before, on_entry);
  }

  async add(entry: LogEntry): Promise<void> {
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
  return lines.map((line, i) => {
    try {
      return JSON.parse(line) as LogEntry;
    } catch {
      throw new BimedixError("bad_data", {
        given: `line ${i + 1} of ${file}, which is not JSON`,
        expected: "the log of a run",
        todo: "correct the line, or take it out",
      });
    }
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
