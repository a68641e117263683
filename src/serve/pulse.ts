/**
 * Whether the model's process lives: it is asked for its state every few seconds. One that computes for long answers late, so there its
 * processor time counts (on Linux, where it can be read); one that was stopped, or waits for ever, uses none.
 */
import { readFileSync } from "node:fs";
import type { Engine, EngineState } from "../engine/engine.js";

/** Milliseconds. */
const EVERY = 2000;
const STILL = 5000;
/** Where processor time cannot be read. A step of a large model may take this long. */
const STILL_UNSEEN = 120_000;

export class Pulse {
  /** As it said last. */
  state: EngineState = { running: 0, waiting: 0, cached_tokens: 0 };
  private readonly timer: NodeJS.Timeout;
  private asked: Promise<void> | null = null;
  /** When it last gave a sign, and the processor time that it had used then. */
  private seen = performance.now();
  private used: number | null = null;

  constructor(
    private readonly engine: Pick<Engine, "state" | "pid">,
    private readonly still = STILL,
  ) {
    this.timer = setInterval(() => void this.ask(), EVERY).unref();
  }

  /** Resolves when it has said its state. */
  ask(): Promise<void> {
    if (this.asked) return this.asked;
    this.seen = performance.now();
    this.used = processor_time(this.engine.pid);
    this.asked = this.engine
      .state()
      .then((state) => {
        this.state = state;
      })
      .catch(() => {})
      .finally(() => {
        this.asked = null;
      });
    return this.asked;
  }

  /** Whether it has given no sign of life for some seconds. */
  get is_still(): boolean {
    if (!this.asked) return false;
    const used = processor_time(this.engine.pid);
    if (used !== this.used) [this.used, this.seen] = [used, performance.now()];
    return performance.now() - this.seen > (used === null ? STILL_UNSEEN : this.still);
  }

  stop(): void {
    clearInterval(this.timer);
  }
}

/** User and system time of a process, in the system's ticks; null where it cannot be read. */
function processor_time(pid: number | undefined): number | null {
  if (pid === undefined || process.platform !== "linux") return null;
  try {
    // Its name, in brackets, may hold anything.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)!.split(" ");
    return Number(fields[11]) + Number(fields[12]);
  } catch {
    return null;
  }
}
