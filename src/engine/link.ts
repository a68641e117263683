/**
 * The way from a `WorkerEngine` to the side that runs the model, `host.ts`, in a thread or a process of its own.
 *
 * No thread is ended from outside: Node then stops it as soon as it comes back from ONNX Runtime's native call, whose own code cannot
 * bear that and aborts the whole process. The other side is asked to leave, and ends itself when its call has returned. Where this
 * process ends before, by process.exit() or an error, its last act is to wait for that.
 */
import { type ChildProcess, fork } from "node:child_process";
import { setPriority } from "node:os";
import { fileURLToPath } from "node:url";
import { isMainThread, Worker } from "node:worker_threads";
import type { ErrorMessage } from "../errors.js";
// In this thread, before another reads the runtime.
import "../graph/telemetry.js";
import type { StoreOptions } from "../model/store.js";
import type { ForwardOptions, GenerateOptions, ScoreOptions, ScoreRequest } from "./engine.js";
import type { LocalOptions } from "./runner.js";

/**
 * Where an engine runs: in a thread, which shares this process's memory and its end, or in a process, which may crash without it. Threads
 * below a thread end with it in the middle of their work, so there "thread" is a process too.
 */
export type Isolation = "thread" | "process";

export interface HostOptions extends LocalOptions {
  dtype: StoreOptions["dtype"];
}

export type Call =
  | { kind: "load"; dir: string; options: HostOptions }
  | { kind: "generate"; prompts: readonly (readonly number[])[]; options: GenerateOptions }
  | { kind: "score"; requests: readonly ScoreRequest[]; options: Omit<ScoreOptions, "signal"> }
  | { kind: "forward"; sequences: readonly (readonly number[])[]; options: Omit<ForwardOptions, "signal"> }
  | { kind: "state" }
  | { kind: "dispose" };
/** An abort is read between two runs of the model. */
export type Request = ({ id: number } & (Call | { kind: "abort" })) | { kind: "leave" };
export type Reply = { id: number } & ({ event: unknown } | { result: unknown } | { error: ErrorMessage });

export interface Link {
  /** Of a process. */
  pid?: number | undefined;
  post: (request: Request) => void;
  /** Whether this process waits for it before it ends. */
  ref: () => void;
  unref: () => void;
  /** Asks the other side to stop what it does and to end itself; resolves when it has. */
  leave: () => Promise<void>;
}

/** What a thread gets to know about itself; a process finds `ENGINE` among its arguments. */
export const ENGINE = "bimedix-engine";
export interface HostData {
  engine: typeof ENGINE;
  /** One int32, shared: 1 once no native call is under way and none will be. */
  left: Int32Array;
}

type MakeLink = (on_replies: (replies: Reply[]) => void, on_end: (cause?: string) => void) => Link;

export const make_link = (isolation: Isolation, ...handlers: Parameters<MakeLink>): Link =>
  (isolation === "thread" && isMainThread ? thread_link : process_link)(...handlers);

const HOST = new URL("./host.js", import.meta.url);

const thread_link: MakeLink = (on_replies, on_end) => {
  const left = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(HOST, {
    workerData: { engine: ENGINE, left } satisfies HostData,
    // Not this process's options: --input-type is about a text given with --eval and keeps a file from starting, and a module preloaded
    // with --import may be the very one that loads this model.
    execArgv: [],
    // What a token leaves behind is small. V8 would let a tenth of the embedded model's memory fill up before it looks.
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  });
  const post = (request: Request) => worker.postMessage(request);
  const running = { leave: () => post({ kind: "leave" }), left };
  threads.add(running);
  // Bun ends its threads before it says so, and bears it.
  if (threads.size === 1 && !("Bun" in globalThis)) process.on("exit", wait_for_threads);
  const end = (cause?: string) => {
    threads.delete(running);
    if (threads.size === 0) process.off("exit", wait_for_threads);
    on_end(cause);
  };
  worker.on("message", on_replies);
  worker.on("error", (error: unknown) => end((error as Error).message));
  const ended = new Promise<void>((resolve) => {
    worker.on("exit", () => {
      end();
      resolve();
    });
  });
  return {
    post,
    ref: () => worker.ref(),
    unref: () => worker.unref(),
    leave: () => {
      running.leave();
      return ended;
    },
  };
};

/** Threads of this process that run a model. */
const threads = new Set<{ leave: () => void; left: Int32Array }>();

/** The longest native call that is waited for, in milliseconds: it reads the weights of a large model. */
const PATIENCE = 600_000;

function wait_for_threads(): void {
  const running = [...threads];
  for (const { leave } of running) leave();
  for (const { left } of running) Atomics.wait(left, 0, 0, PATIENCE);
}

/**
 * How much less urgent a model's process is than this one, in the system's own unit: where both want the same core, who answers
 * requests goes first.
 */
const NICE = 5;

/** Milliseconds that a process has to give back what it holds; in a native call it may take longer, and is killed. */
const GRACE = 3000;

const process_link: MakeLink = (on_replies, on_end) => {
  const child: ChildProcess = fork(fileURLToPath(HOST), [ENGINE], {
    serialization: "advanced",
    execArgv: ["--max-semi-space-size=4"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  try {
    if (child.pid !== undefined) setPriority(child.pid, NICE);
  } catch {
    // It has ended already, or the system has no such thing.
  }
  const ended = new Promise<void>((resolve) => {
    const end = (cause: string) => {
      on_end(cause);
      resolve();
    };
    child.on("exit", (code, signal) => end(signal ?? `status ${code}`));
    // One that could not be started has no exit.
    child.on("error", (error) => (child.pid === undefined ? end(error.message) : on_end(error.message)));
  });
  child.on("message", (replies) => on_replies(replies as Reply[]));
  // A message to a process that has just ended is answered by its end.
  const post = (request: Request) => void child.send(request, () => {});
  return {
    pid: child.pid,
    post,
    ref: () => {
      child.ref();
      child.channel?.ref?.();
    },
    // Bun's channel has neither; there the child's own are enough.
    unref: () => {
      child.unref();
      child.channel?.unref?.();
    },
    leave: async () => {
      if (child.connected) post({ kind: "leave" });
      const timer = setTimeout(() => child.kill("SIGKILL"), GRACE);
      timer.unref();
      await ended;
      clearTimeout(timer);
    },
  };
};
