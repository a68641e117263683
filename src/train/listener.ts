/** What a run tells, and whoever listens. */
import type { DataReport } from "./data.js";
import type { LogEntry } from "./log.js";

/** What a run tells while it goes. */
export type TrainEvent =
  | { kind: "waiting"; owner: string }
  | { kind: "loading"; done: number; total: number }
  | { kind: "data"; report: DataReport }
  | { kind: "begin"; steps: number; first: number; trained: number; parameters: number; resumed: string | null }
  | { kind: "step"; step: number; steps: number; entry: LogEntry; seconds_left: number }
  | { kind: "log"; entry: LogEntry }
  | { kind: "checkpoint"; dir: string };

export interface TrainOptions {
  /** Go on from the newest checkpoint in output_dir, which must have one. Without it an output_dir that has one is refused. */
  resume?: boolean;
  /** An error of its own ends the run as a signal does, with a checkpoint, and is what `run_training` throws. */
  on_event?: (event: TrainEvent) => void;
  /** Ends the run after the step or the part of a measurement that is being computed, with a checkpoint. */
  signal?: AbortSignal;
}

/** Whoever listens to a run, and may stop it. What goes wrong there does not tear a step from its line in the log. */
export class Listener {
  private readonly failure = new AbortController();
  /** Aborted when the run should end. */
  readonly signal: AbortSignal;

  constructor(private readonly options: Pick<TrainOptions, "on_event" | "signal">) {
    const { signal } = this.failure;
    this.signal = options.signal ? AbortSignal.any([options.signal, signal]) : signal;
  }

  readonly tell = (event: TrainEvent): void => {
    const { on_event } = this.options;
    const fail = (error: unknown) => this.failure.abort(error);
    try {
      const told: unknown = on_event?.(event);
      if (told instanceof Promise) told.catch(fail);
    } catch (error) {
      fail(error);
    }
  };

  /** What a run that ended with an error is to throw. */
  error_of(error: unknown): unknown {
    return this.failure.signal.aborted ? this.failure.signal.reason : error;
  }
}
