/**
 * A lock among processes that share a folder, in one container or in several: a file that its owner touches every second. Who waits
 * takes it over when it has stood untouched for ten, by the waiter's own clock: process ids mean nothing in another container,
 * and flock is not to be had in JavaScript, nor to be trusted on network file systems.
 *
 * An owner that only slept is robbed. So nothing may depend on the lock but work done twice: what it guards writes under
 * names of its own and renames.
 */
import { randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { readFile, rename, rm, stat, utimes, writeFile } from "node:fs/promises";
import { setTimeout as wait } from "node:timers/promises";

const BEAT = 1000;
const ABANDONED = 10_000;
/** By the clocks of two machines, which may differ: old enough to need no watching. */
const LONG_ABANDONED = 120_000;
const POLL = 200;

export interface LockOptions {
  signal?: AbortSignal;
  /** Called while another process has the lock. */
  on_wait?: () => void;
}

/** Does `work` alone among all who name this file, whose folder exists. */
export async function with_lock<T>(file: string, work: () => Promise<T>, options: LockOptions = {}): Promise<T> {
  const mine = randomBytes(8).toString("hex");
  await take(file, mine, options);
  held.add(file);
  if (held.size === 1) for (const signal of SIGNALS) process.on(signal, on_signal);
  const beat = setInterval(() => void utimes(file, new Date(), new Date()).catch(() => {}), BEAT);
  beat.unref();
  try {
    return await work();
  } finally {
    clearInterval(beat);
    held.delete(file);
    if (held.size === 0) for (const signal of SIGNALS) process.off(signal, on_signal);
    const owner = await readFile(file, "utf8").catch(() => "");
    if (owner === mine) await rm(file, { force: true }).catch(() => {});
  }
}

async function take(file: string, mine: string, { signal, on_wait }: LockOptions): Promise<void> {
  let seen = "";
  let since = 0;
  for (;;) {
    try {
      return await writeFile(file, mine, { flag: "wx" });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const found = await state_of(file);
    if (found === null) continue;
    if (found.state !== seen) [seen, since] = [found.state, performance.now()];
    if (performance.now() - since > ABANDONED || found.age > LONG_ABANDONED) await clear(file, seen, mine);
    else {
      on_wait?.();
      await wait(POLL, null, signal ? { signal } : {});
    }
  }
}

/** Removes an abandoned lock, and not one that somebody else has taken since. */
async function clear(file: string, state: string, mine: string): Promise<void> {
  const aside = `${file}.${mine}`;
  try {
    await rename(file, aside);
    if ((await state_of(aside))?.state === state) await rm(aside, { force: true });
    else await rename(aside, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

async function state_of(file: string): Promise<{ state: string; age: number } | null> {
  try {
    const { ino, mtimeMs } = await stat(file);
    return { state: `${ino} ${mtimeMs}`, age: Date.now() - mtimeMs };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** Ctrl-C must not make the next start wait: where a signal would end the process, its locks go first. */
const held = new Set<string>();
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

function on_signal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return;
  for (const file of held) rmSync(file, { force: true });
  process.off(signal, on_signal);
  process.kill(process.pid, signal);
}
