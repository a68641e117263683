/** The verbs train and merge. */
import { BimedixError } from "../errors.js";
import { resolve_adapter, resolve_model } from "../model/hub.js";
import { merge_adapter } from "../model/merge.js";
import { launch, write_axolotl } from "../train/axolotl.js";
import type { DataReport } from "../train/data.js";
import type { LogEntry } from "../train/log.js";
import { write_plot } from "../train/plot.js";
import { read_recipe, recipe_keys } from "../train/recipe.js";
import { run_training, type TrainEvent } from "../train/run.js";
import { print_json, progress_bar } from "./common.js";

export interface TrainCommand {
  resume?: boolean;
  keys?: boolean;
  engine: string;
  dryRun?: boolean;
  json?: boolean;
}

export async function train(
  recipe_file: string | undefined,
  overrides: string[],
  options: TrainCommand,
): Promise<void> {
  if (options.keys) {
    process.stdout.write(recipe_keys());
    return;
  }
  if (recipe_file === undefined)
    throw new BimedixError("bad_option", {
      given: "no recipe",
      expected: "bimedix train RECIPE.yaml [key=value ...]",
      todo: "name a recipe; --keys lists what stands in one",
    });
  const remote = options.engine === "axolotl";
  const misplaced = remote ? options.resume && "--resume" : options.dryRun && "--dry-run";
  if (misplaced)
    throw new BimedixError("bad_option", {
      given: `${misplaced} with --engine ${options.engine}`,
      expected: remote ? "Axolotl's own resume_from_checkpoint" : "--engine axolotl, which it belongs to",
      todo: `leave ${misplaced} out`,
    });
  const recipe = await read_recipe(recipe_file, overrides);
  if (remote) {
    const command = await write_axolotl(recipe, tell_data);
    process.stdout.write(`${command.join(" ")}\n`);
    if (!options.dryRun) await launch(command);
    return;
  }
  const stop = new AbortController();
  const on_signal = () => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write("\nStopping, with a checkpoint of what was learnt. Once more stops at once.\n");
    stop.abort();
  };
  process.on("SIGINT", on_signal);
  process.on("SIGTERM", on_signal);
  try {
    const result = await run_training(recipe, {
      signal: stop.signal,
      on_event: narrator(),
      ...(options.resume ? { resume: true } : {}),
    });
    const plot = await write_plot(result.output_dir);
    if (options.json) print_json({ ...result, plot });
    else process.stdout.write(`${result.output_dir}\n`);
    process.stderr.write(`curves: ${plot}\n`);
  } catch (error) {
    if (!(error instanceof BimedixError && (error.code === "aborted" || error.code === "non_finite_gradients")))
      throw error;
    // There is no log yet where loading was stopped; and what ended the run is what is to be read.
    await write_plot(recipe.output_dir).catch(() => {});
    if (error.code !== "aborted") throw error;
    process.stderr.write("Stopped. The same command with --resume goes on.\n");
    process.exitCode = 130;
  } finally {
    process.off("SIGINT", on_signal);
    process.off("SIGTERM", on_signal);
  }
}

export async function merge(model: string, adapter: string, { output }: { output: string }): Promise<void> {
  const dir = await resolve_model(model, { on_progress: progress_bar("downloading") });
  const adapter_dir = await resolve_adapter(adapter, { on_progress: progress_bar("downloading") });
  const changed = await merge_adapter(dir, adapter_dir, output, { on_progress: progress_bar("merging") });
  process.stdout.write(`${output}: ${changed} tensors changed\n`);
}

const line = (text: string) => process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}\n` : `${text}\n`);

/** What a data set holds, and what was lost of it. */
function tell_data({ path, examples, tokens, truncated, dropped, damaged, warnings }: DataReport): void {
  const lost = [
    truncated > 0 ? `${truncated} cut to a row` : "",
    dropped > 0 ? `${dropped} without an answer left` : "",
    damaged.length > 0 ? `${damaged.length} damaged` : "",
  ].filter(Boolean);
  line(
    `${path}: ${count(examples)} examples, ${count(tokens)} tokens${lost.length > 0 ? ` (${lost.join(", ")})` : ""}`,
  );
  for (const warning of warnings) line(`  ${warning}`);
  for (const { line: number, reason } of damaged.slice(0, 10)) line(`  line ${number} skipped: ${reason}`);
  if (damaged.length > 10) line(`  and ${damaged.length - 10} more`);
}

/** Tells a run on the terminal: one line that is written over, or where there is no terminal a line a log entry. */
function narrator(): (event: TrainEvent) => void {
  const { stderr } = process;
  const loading = progress_bar("loading");
  const skips = ({ skipped_steps = 0 }: LogEntry) => (skipped_steps > 0 ? ` ${skipped_steps} skipped` : "");
  return (event) => {
    if (event.kind === "loading") loading(event);
    else if (event.kind === "data") tell_data(event.report);
    else if (event.kind === "begin") {
      const share = ((100 * event.trained) / event.parameters).toFixed(2);
      const where = event.resumed ? `, from step ${event.first} (${event.resumed})` : "";
      line(
        `${count(event.trained)} trained of ${count(event.parameters)} parameters (${share} %), ${event.steps} steps${where}`,
      );
    } else if (event.kind === "step") {
      if (!stderr.isTTY) return;
      const { entry, step, steps, seconds_left } = event;
      const part = "█".repeat(Math.round((step / steps) * 16)).padEnd(16, "░");
      const numbers = `loss ${figure(entry.loss)} aux ${figure(entry.aux_loss)} lr ${entry.learning_rate?.toExponential(1)} norm ${figure(entry.grad_norm)}${skips(entry)}`;
      const memory = `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB`;
      stderr.write(
        `\r\x1b[K${part} ${step}/${steps} ${numbers} ${entry.tokens_per_second?.toFixed(0)} tok/s ${duration(seconds_left)} left ${memory}`,
      );
    } else if (event.kind === "log") {
      const { entry } = event;
      if (entry.eval_loss !== undefined)
        line(`step ${entry.step} held-out loss ${figure(entry.eval_loss)} in ${entry.eval_runtime?.toFixed(1)} s`);
      else if (!stderr.isTTY)
        line(
          `step ${entry.step} loss ${figure(entry.loss)} aux ${figure(entry.aux_loss)} norm ${figure(entry.grad_norm)}${skips(entry)} ${entry.tokens_per_second?.toFixed(0)} tok/s`,
        );
    } else line(`saved ${event.dir}`);
  };
}

const count = (n: number) => n.toLocaleString("en");
const figure = (x: number | undefined) => (x === undefined ? "-" : x === null ? "not finite" : x.toPrecision(4));

function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds % 60)];
  return h > 0 ? `${h} h ${m} min` : m > 0 ? `${m} min ${s} s` : `${s} s`;
}
