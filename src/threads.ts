/** What the project's own threads and processes have in common. */
import type { WorkerOptions } from "node:worker_threads";

/**
 * Node's options for a worker: this process's, which a worker takes by itself, unless they say how a text given with `--eval` is read;
 * a worker, which is a file, refuses to start with that. An explicit list must be free of everything that concerns the whole process,
 * so there it is empty.
 */
export const worker_options: Pick<WorkerOptions, "execArgv"> = process.execArgv.some((option) =>
  option.startsWith("--input-type"),
)
  ? { execArgv: [] }
  : {};
