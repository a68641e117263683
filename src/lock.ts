/**
 * A lock among processes that share a folder, in one container or in several: a file that a thread of its owner touches every second.
 * Who waits takes it over when it has stood untouched for ten, by the waiter's own clock: process ids mean nothing in another
 * container, clocks of two machines differ, and flock is not to be had in JavaScript, nor to be trusted on network file systems.
 *
 * The beats come from a thread because training and evaluation hold this one in native calls for longer than that. An owner that only
 * slept (Ctrl-Z, a closed lid) is robbed, and finds out by `check`.
 */
import { randomBytes } from "node:crypto";
import { constants, rmSync } from "node:fs";
import { type FileHandle, lstat, open, rename, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { aborted, BimedixError } from "./errors.js";
import { file_error, make_folder, remove_parts } from "./files.js";

const BEAT = 1000;
const ABANDONED = 10_000;
/** So old that nobody sleeps in between: what does not beat while it is looked at is abandoned. */
const OLD = 120_000;
const OLD_ABANDONED = 2500;
const POLL = 200;

export interface Lock {
  /** Before what must be written by the owner alone. @throws BimedixError in_use when another process took the lock while this one slept */
  check(): Promise<void>;
}

interface LockOptions {
  signal?: AbortSignal;
  /** Called while another process, named here, has the lock. */
  on_wait?: (owner: string) => void;
  /** What its owner does, in the words that others read. Default "bimedix". */
  what?: string;
  /** Default true. Otherwise an owner that lives is an error, in_use. */
  wait?: boolean;
}

/** Does `work` alone among all who name this file, whose folder exists. @throws BimedixError in_use, aborted */
export async function with_lock<T>(
  file: string,
  work: (lock: Lock) => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  const id = randomBytes(8).toString("hex");
  const owner = { id, what: options.what ?? "bimedix", pid: process.pid, host: hostname(), since: new Date() };
  await take(file, JSON.stringify(owner), options);
  hold(file, id);
  const is_mine = async () => (await state_of(file))?.text.includes(id) ?? false;
  const check = async () => {
    if (!(await is_mine())) throw in_use(file, "which another process took while this one slept");
  };
  try {
    return await work({ check });
  } finally {
    give_back(file);
    if (await is_mine().catch(() => false)) await rm(file, { force: true }).catch(() => {});
  }
}

/**
 * Makes a folder and writes in it alone: what killed writers left there is removed first, and a living one is waited for, or refused.
 * @param what this process does, for the message to others
 * @throws BimedixError in_use; file_unreadable and others where nothing can be written
 */
export async function with_output<T>(
  folder: string,
  what: string,
  work: (lock: Lock) => Promise<T>,
  options: Omit<LockOptions, "what"> = {},
): Promise<T> {
  await make_folder(folder);
  const alone = async (lock: Lock) => {
    await remove_parts(folder);
    return work(lock);
  };
  return with_lock(join(folder, ".bimedix.lock"), alone, { ...options, what });
}

async function take(file: string, mine: string, { signal, on_wait, wait: waits = true }: LockOptions): Promise<void> {
  let seen: string | undefined;
  let since = 0;
  for (;;) {
    if (signal?.aborted) throw aborted();
    if (await created(file, mine)) return;
    const found = await state_of(file);
    if (found === null) continue;
    const owner = owner_of(found.text);
    // One that beats, or whose work is this process's own, lives.
    if (!waits && (held.has(file) || (seen !== undefined && seen !== found.state)))
      throw in_use(file, `where ${owner} writes`);
    if (found.state !== seen) [seen, since] = [found.state, performance.now()];
    // A link to nothing has no owner that could beat.
    const patience = found.age === Number.POSITIVE_INFINITY ? 0 : found.age > OLD ? OLD_ABANDONED : ABANDONED;
    const over = performance.now() - since - patience;
    if (over > 0 && (await take_over(file, seen, mine, over > ABANDONED))) return;
    on_wait?.(owner);
    await wait(POLL);
  }
}

/**
 * Puts a lock in the place of an abandoned one: whoever creates the file that is named after the abandoned state may, and renames that
 * file, so that there is a lock at every moment and no third comes in between. Whether it did.
 * @param stuck another has had that file for long: it was killed meanwhile
 */
async function take_over(file: string, state: string, mine: string, stuck: boolean): Promise<boolean> {
  const claim = `${file}.${state}`;
  if (stuck) await rm(claim, { force: true });
  if (!(await created(claim, mine))) return false;
  const abandoned = (await state_of(file))?.state === state;
  await (abandoned ? rename(claim, file) : rm(claim));
  return abandoned;
}

/** Creates a file with its content, and nothing where the disk is full. Whether there was none. */
async function created(file: string, content: string): Promise<boolean> {
  try {
    const handle = await open(file, "wx");
    try {
      await handle.writeFile(content);
    } catch (error) {
      await rm(file, { force: true });
      throw error;
    } finally {
      await handle.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw file_error(error, locked(file), "a place to write to");
  }
}

/** By an open file, as network file systems ask their server then, and answer a path from memory. */
async function state_of(file: string): Promise<{ state: string; age: number; text: string } | null> {
  let handle: FileHandle | undefined;
  try {
    // Not waiting for the writer of a pipe.
    handle = await open(file, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    const found = await handle.stat();
    if (!found.isFile()) throw no_lock(file);
    const { ino, mtimeMs } = found;
    return { state: `${ino}-${mtimeMs}`, age: Date.now() - mtimeMs, text: await handle.readFile("utf8") };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw file_error(error, file, "a lock");
    // A link to nothing is nobody's.
    const link = await lstat(file).catch(() => null);
    return link && { state: `${link.ino}-${link.mtimeMs}`, age: Number.POSITIVE_INFINITY, text: "" };
  } finally {
    await handle?.close();
  }
}

const no_lock = (file: string) =>
  new BimedixError("file_unreadable", { given: `${file}, which is no file`, expected: "a lock", todo: "remove it" });

function owner_of(text: string): string {
  try {
    const { what, pid, host, since } = JSON.parse(text) as Record<string, unknown>;
    return `${what} (process ${pid} on ${host}, since ${String(since).slice(0, 19).replace("T", " ")} UTC)`;
  } catch {
    return "another process";
  }
}

/** What a person knows of a lock: the folder or file that it is for. */
const locked = (file: string) => file.replace(/[/\\]\.bimedix\.lock$|\.lock$/, "");

const in_use = (file: string, why: string) =>
  new BimedixError("in_use", {
    given: `${locked(file)}, ${why}`,
    expected: "one writer at a time",
    todo: "wait until it has ended, or choose another output",
  });

/** The locks of this process, by file, and the thread that touches them. */
const held = new Map<string, string>();
let heart: Worker | undefined;
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

function hold(file: string, id: string): void {
  held.set(file, id);
  if (held.size === 1) {
    for (const signal of SIGNALS) process.on(signal, on_signal);
    process.on("exit", drop_locks);
    heart = new Worker(HEART, { eval: true, execArgv: [], workerData: BEAT });
    heart.unref();
  }
  heart!.postMessage([file, id]);
}

function give_back(file: string): void {
  held.delete(file);
  heart?.postMessage([file, null]);
  if (held.size > 0) return;
  for (const signal of SIGNALS) process.off(signal, on_signal);
  process.off("exit", drop_locks);
  void heart?.terminate();
  heart = undefined;
}

/** It lets go of a lock that another has taken: touched by this one as well, that would never look abandoned. */
const HEART = `
const { readFileSync, utimesSync } = require("node:fs");
const { parentPort, workerData } = require("node:worker_threads");
const files = new Map();
parentPort.on("message", ([file, id]) => (id === null ? files.delete(file) : files.set(file, id)));
setInterval(() => {
  for (const [file, id] of files) {
    try {
      if (readFileSync(file, "utf8").includes(id)) utimesSync(file, new Date(), new Date());
      else files.delete(file);
    } catch {}
  }
}, workerData);
`;

/** Where this process ends at once, its locks go first, so that the next start need not wait to see that they are abandoned. */
export function drop_locks(): void {
  for (const file of held.keys()) rmSync(file, { force: true });
}

function on_signal(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) > 1) return;
  drop_locks();
  process.off(signal, on_signal);
  process.kill(process.pid, signal);
}
