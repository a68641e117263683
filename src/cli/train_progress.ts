/** What a training run tells while it goes. */
import type { DataReport } from "../train/data.js";
import type { LogEntry } from "../train/log.js";
import type { TrainEvent } from "../train/run.js";
import { progress_bar } from "./common.js";
import { bar, is_screen, show_state } from "./terminal.js";

const line = (text: string) => {
  show_state("");
  process.stderr.write(`${text}\n`);
};

/** What a data set holds, and what was lost of it. */
export function tell_data({ path, examples, tokens, truncated, dropped, damaged, warnings }: DataReport): void {
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
export function narrator(): (event: TrainEvent) => void {
  const loading = progress_bar("loading");
  const skips = ({ skipped_steps = 0 }: LogEntry) => (skipped_steps > 0 ? ` ${skipped_steps} skipped` : "");
  let waiting = false;
  return (event) => {
    if (event.kind === "waiting") {
      if (!waiting) line(`waiting to see whether ${event.owner} still writes there`);
      waiting = true;
    } else if (event.kind === "loading") loading(event);
    else if (event.kind === "data") tell_data(event.report);
    else if (event.kind === "begin") {
      const share = ((100 * event.trained) / event.parameters).toFixed(2);
      const where = event.resumed ? `, from step ${event.first} (${event.resumed})` : "";
      line(
        `${count(event.trained)} trained of ${count(event.parameters)} parameters (${share} %), ${event.steps} steps${where}`,
      );
    } else if (event.kind === "step") {
      if (!is_screen(process.stderr)) return;
      const { entry, step, steps, seconds_left } = event;
      const numbers = `loss ${figure(entry.loss)} aux ${figure(entry.aux_loss)} lr ${entry.learning_rate?.toExponential(1)} norm ${figure(entry.grad_norm)}${skips(entry)}`;
      const memory = `${(process.memoryUsage.rss() / 1e6).toFixed(0)} MB`;
      show_state(
        `${bar(step / steps, 16)} ${step}/${steps} ${numbers} ${entry.tokens_per_second?.toFixed(0)} tok/s ${duration(seconds_left)} left ${memory}`,
      );
    } else if (event.kind === "log") {
      const { entry } = event;
      if (entry.eval_loss !== undefined)
        line(`step ${entry.step} held-out loss ${figure(entry.eval_loss)} in ${entry.eval_runtime?.toFixed(1)} s`);
      else if (!is_screen(process.stderr))
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
