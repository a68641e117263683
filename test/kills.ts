/** Commands that are killed at moments which a seed chooses, for the tests of what is left of them. */
import { spawn } from "node:child_process";
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { generator } from "../src/train/data.js";
import { root } from "./fixtures.js";

export interface Ended {
  /** Null where it was killed. */
  status: number | null;
  stderr: string;
}

/** Runs a command of the program, and kills it after so many milliseconds. */
export function command(args: readonly string[], kill_after?: number): Promise<Ended> {
  const env = { ...process.env, HF_HUB_OFFLINE: "1" };
  const child = spawn(process.execPath, [join(root, "dist/src/cli/main.js"), ...args], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const timer = kill_after === undefined ? undefined : setTimeout(() => child.kill("SIGKILL"), kill_after);
  let stderr = "";
  child.stderr.on("data", (text) => (stderr += text));
  return new Promise((done) =>
    child.once("close", (status) => {
      clearTimeout(timer);
      done({ status, stderr });
    }),
  );
}

/** Moments between two, in milliseconds. */
export function moments(seed: number, least: number, most: number): () => number {
  const random = generator(seed);
  return () => least + random() * (most - least);
}

/** Removes the locks of commands that are known to be dead: the next start would watch each for ten seconds. */
export async function forget_locks(folder: string): Promise<void> {
  for (const name of await readdir(folder).catch(() => []))
    if (name.includes(".lock")) await rm(join(folder, name), { force: true });
}

export const has_stack = (text: string): boolean => /\n\s+at /.test(text);
