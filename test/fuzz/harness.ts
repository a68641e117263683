/**
 * Seeded fuzzing of a loader. Each case damages what the loader reads and asks what comes of it: the same as from a whole file, an error
 * for a person, or something else, which has to stand among what the target calls harmless. A thread watches time and memory, since
 * nothing within this one could end a loop that never ends.
 *
 * `BIMEDIX_FUZZ=seed:count:first` runs other cases, or one again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { BimedixError } from "../../src/errors.js";
import { type Random, seeded } from "./mutate.js";

export interface Case {
  /** What was damaged, for the message. */
  detail: string;
  /** Reads it. "same" when all is as it was, else a class of outcome, such as "other: hidden_size". */
  work(): string | Promise<string>;
}

export interface Target {
  name: string;
  /** Outcomes besides "same" that may be accepted, each with the reason. */
  harmless?: readonly (readonly [outcome: RegExp, why: string])[];
  /** Cases in `npm test`, where each takes long. */
  few?: number;
  make(): Promise<(random: Random) => Case>;
}

/** Of one case, far above what any needs on a busy machine. */
const LIMIT = { seconds: 20, megabytes: 1500 };

const full = process.env.BIMEDIX_FULL !== undefined;
const [seed = 1, asked, first = 0] = (process.env.BIMEDIX_FUZZ ?? "").split(":").filter(Boolean).map(Number);

/** Registers the test of a target. */
export function fuzz({ name, harmless = [], few = 100, make }: Target): void {
  const count = asked ?? (full ? 5000 : few);
  test(`fuzzing: ${name}`, async (t) => {
    const watch = watchdog(name);
    const found = new Map<string, { count: number; detail: string; at: number }>();
    const loose: unknown[] = [];
    const on_loose = (error: unknown): void => void loose.push(error);
    process.on("unhandledRejection", on_loose);
    try {
      const next = await make();
      for (let i = first; i < first + count; i++) {
        const { detail, work } = next(seeded(seed * 1_000_003 + i));
        watch.begin(`${seed}:1:${i} ${detail}`);
        let outcome = await outcome_of(work);
        // Rejections that nobody handles are told in a later turn.
        await new Promise((done) => setImmediate(done));
        if (loose.length > 0) outcome = `unhandled rejection: ${raw(loose.pop())}`;
        const known = found.get(outcome);
        const shorter = !known || detail.length < known.detail.length;
        found.set(outcome, { ...(shorter ? { detail, at: i } : known), count: (known?.count ?? 0) + 1 });
      }
    } finally {
      process.off("unhandledRejection", on_loose);
      await watch.end();
    }
    const fine = (outcome: string): boolean =>
      outcome === "same" || outcome.startsWith("refused: ") || harmless.some(([pattern]) => pattern.test(outcome));
    const wrong: string[] = [];
    for (const [outcome, { count, detail, at }] of found) {
      const line = `${count} x ${outcome}, as BIMEDIX_FUZZ=${seed}:1:${at}: ${detail.slice(0, 300)}`;
      if (fine(outcome)) t.diagnostic(line);
      else wrong.push(line);
    }
    if (wrong.length > 0) assert.fail(wrong.join("\n"));
  });
}

async function outcome_of(work: Case["work"]): Promise<string> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof BimedixError)) return `raw error: ${raw(error)}`;
    const unclear = /\n|\[object |Cannot read|is not a function|is not iterable/.test(error.message);
    return unclear ? `unclear error: ${error.message.slice(0, 200)}` : `refused: ${error.code}`;
  }
}

/** An error with the place in our files that it came from. */
function raw(error: unknown): string {
  const { message, stack = "" } = error instanceof Error ? error : new Error(String(error));
  const place = stack.split("\n").find((line) => line.includes("/dist/src/"));
  return `${message.slice(0, 120)} ${place?.trim().replace(/.*dist\/src\//, "") ?? ""}`;
}

/** Ends the process, with the case that it stood at, when that takes too long or too much memory. */
function watchdog(name: string): { begin(detail: string): void; end(): Promise<unknown> } {
  const shared = new Uint8Array(new SharedArrayBuffer(4 + 4 + 400));
  const numbers = new Int32Array(shared.buffer, 0, 2);
  const watcher = new Worker(WATCHER, { eval: true, workerData: { shared, name, ...LIMIT } });
  watcher.unref();
  return {
    begin(detail) {
      // TextEncoder writes into no shared memory.
      const bytes = Buffer.from(detail).subarray(0, 400);
      shared.set(bytes, 8);
      Atomics.store(numbers, 1, bytes.length);
      Atomics.add(numbers, 0, 1);
    },
    end: () => watcher.terminate(),
  };
}

const WATCHER = `
const { workerData: { shared, name, seconds, megabytes } } = require("node:worker_threads");
const numbers = new Int32Array(shared.buffer, 0, 2);
let [current, since, base] = [-1, 0, 0];
setInterval(() => {
  const memory = process.memoryUsage.rss() / 2 ** 20;
  const now = Atomics.load(numbers, 0);
  if (now !== current) [current, since, base] = [now, Date.now(), memory];
  const problem = Date.now() - since > 1000 * seconds ? "takes over " + seconds + " seconds"
    : memory - base > megabytes ? "takes over " + megabytes + " MB" : null;
  if (!problem || now === 0) return;
  const detail = Buffer.from(shared.slice(8, 8 + Atomics.load(numbers, 1))).toString();
  require("node:fs").writeSync(2, "fuzzing: " + name + " " + problem + ": BIMEDIX_FUZZ=" + detail + "\\n");
  process.kill(process.pid, "SIGKILL");
}, 50);
`;
