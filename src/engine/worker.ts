/**
 * An engine in a thread or a process of its own: ONNX Runtime's run() blocks the event loop that calls it, and a server or a terminal
 * must go on. The other side loads the model and runs `LocalEngine`; this file is both ends of the conversation. A thread shares
 * this process's memory and its end; a process may crash, or run out of memory, without taking a server with it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { isMainThread, parentPort, type Transferable, Worker, workerData } from "node:worker_threads";
import { aborted, BimedixError, type ErrorMessage, error_from_message, error_message } from "../errors.js";
import { open_store, type StoreOptions } from "../model/store.js";
import { Channel } from "./channel.js";
import type {
  Abort,
  Engine,
  EngineState,
  ForwardOptions,
  ForwardResult,
  GeneratedToken,
  GenerateOptions,
  Score,
  ScoreOptions,
  ScoreRequest,
} from "./engine.js";
import { LocalEngine } from "./local.js";
import type { LocalOptions } from "./runner.js";

/** Where an engine runs. */
export type Isolation = "thread" | "process";

export interface WorkerOptions extends LocalOptions {
  /** Default thread. */
  isolation?: Isolation;
  dtype: StoreOptions["dtype"];
  on_progress?: NonNullable<StoreOptions["on_progress"]>;
}

type Call =
  | { kind: "load"; dir: string; options: Omit<WorkerOptions, "on_progress" | "isolation"> }
  | { kind: "generate"; prompts: readonly (readonly number[])[]; options: GenerateOptions }
  | { kind: "score"; requests: readonly ScoreRequest[]; options: Omit<ScoreOptions, "signal"> }
  | { kind: "forward"; sequences: readonly (readonly number[])[]; options: Omit<ForwardOptions, "signal"> }
  | { kind: "state" }
  | { kind: "dispose" };
/** An abort is read between two runs of the model. */
type Request = { id: number } & (Call | { kind: "abort" });
type Reply = { id: number } & ({ event: unknown } | { result: unknown } | { error: ErrorMessage });

interface Pending {
  on_event: (event: unknown) => void;
  resolve: (result: unknown) => void;
  reject: (error: unknown) => void;
}

export class WorkerEngine implements Engine {
  private readonly pending = new Map<number, Pending>();
  private readonly worker: Link;
  private next_id = 0;
  /** What calls end with once the thread has. */
  private crash: BimedixError | undefined;
  private disposed = false;
  private disposing: Promise<void> | undefined;
  readonly ended: Promise<BimedixError>;

  private constructor(isolation: Isolation) {
    let resolve: (error: BimedixError) => void;
    this.ended = new Promise((resolved) => {
      resolve = resolved;
    });
    const on_end = (cause?: string) => {
      this.crash ??= this.disposed ? disposed() : stopped(cause);
      for (const { reject } of this.pending.values()) reject(this.crash);
      this.pending.clear();
      resolve(this.crash);
    };
    const link = isolation === "thread" ? thread_link : process_link;
    this.worker = link((replies) => this.receive(replies), on_end);
    this.worker.unref();
  }

  get pid(): number | undefined {
    return this.worker.pid;
  }

  /** Loads the model directory `dir` in a new thread. @throws BimedixError as `open_store` does */
  static async create(
    dir: string,
    { on_progress, isolation = "thread", ...options }: WorkerOptions,
    signal?: AbortSignal,
  ): Promise<WorkerEngine> {
    const engine = new WorkerEngine(isolation);
    try {
      await engine.call({ kind: "load", dir, options }, signal, on_progress as Pending["on_event"]);
      return engine;
    } catch (error) {
      await engine.worker.terminate();
      throw error;
    }
  }

  async *generate(
    prompts: readonly (readonly number[])[],
    { signal, ...options }: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken> {
    const tokens = new Channel<GeneratedToken>();
    const stop = new AbortController();
    const own_signal = signal instanceof AbortSignal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    const work = this.call({ kind: "generate", prompts, options }, own_signal, (token) =>
      tokens.push(token as GeneratedToken),
    ).then(
      () => tokens.end(),
      (error: unknown) => tokens.end(error),
    );
    try {
      yield* tokens.read();
    } finally {
      stop.abort();
      await work;
    }
  }

  async score(requests: readonly ScoreRequest[], { signal, ...options }: ScoreOptions = {}): Promise<Score[]> {
    return (await this.call({ kind: "score", requests, options }, signal as AbortSignal | undefined)) as Score[];
  }

  async forward(
    sequences: readonly (readonly number[])[],
    { signal, ...options }: ForwardOptions = {},
  ): Promise<ForwardResult> {
    return (await this.call(
      { kind: "forward", sequences, options },
      signal as AbortSignal | undefined,
    )) as ForwardResult;
  }

  async state(): Promise<EngineState> {
    return (await this.call({ kind: "state" })) as EngineState;
  }

  /** However often it is called, at one time or later, it is done once. */
  dispose(): Promise<void> {
    this.disposing ??= this.end();
    return this.disposing;
  }

  private async end(): Promise<void> {
    if (this.crash) return;
    this.disposed = true;
    await this.call({ kind: "dispose" });
    // An idle worker does not keep the process alive, but the end of this one is waited for.
    this.worker.ref();
    await this.worker.terminate();
  }

  private call(call: Call, signal?: AbortSignal, on_event: Pending["on_event"] = () => {}): Promise<unknown> {
    if (this.crash) return Promise.reject(this.crash);
    if (signal?.aborted) return Promise.reject(aborted());
    const id = this.next_id++;
    return new Promise((resolve, reject) => {
      // The caller is answered at once; the worker stops at the end of its chunk and its late replies find nobody.
      const abort = () => {
        if (!this.crash) this.worker.post({ id, kind: "abort" });
        this.settle(id)?.reject(aborted());
      };
      signal?.addEventListener("abort", abort, { once: true });
      const end =
        <T>(settle: (value: T) => void) =>
        (value: T) => {
          signal?.removeEventListener("abort", abort);
          settle(value);
        };
      this.pending.set(id, {
        on_event,
        resolve: end(resolve),
        reject: end(reject),
      });
      this.worker.ref();
      this.worker.post({ ...call, id });
    });
  }

  private settle(id: number): Pending | undefined {
    const pending = this.pending.get(id);
    this.pending.delete(id);
    if (this.pending.size === 0) this.worker.unref();
    return pending;
  }

  private receive(replies: readonly Reply[]): void {
    // With --watch, Node's own reports of what the other side imports arrive here too.
    if (!Array.isArray(replies)) return;
    for (const reply of replies) {
      if ("event" in reply) this.pending.get(reply.id)?.on_event(reply.event);
      else if ("result" in reply) this.settle(reply.id)?.resolve(reply.result);
      else this.settle(reply.id)?.reject(error_from_message(reply.error));
    }
  }
}

const disposed = () =>
  new BimedixError("disposed", {
    given: "a call to a model after dispose()",
    expected: "a loaded model",
    todo: "load it again",
  });

const stopped = (cause = "") =>
  new BimedixError("engine_stopped", {
    given: `a model that ended by itself${cause && ` (${cause})`}`,
    expected: "it to answer",
    todo: "load it again, with more memory if that was short",
  });

/** The way to the other side. */
interface Link {
  /** Of a process. */
  pid?: number | undefined;
  post: (request: Request) => void;
  /** Whether this process waits for it before it ends. */
  ref: () => void;
  unref: () => void;
  terminate: () => Promise<unknown>;
}
type MakeLink = (on_replies: (replies: Reply[]) => void, on_end: (cause?: string) => void) => Link;

const ENGINE = "bimedix-engine";

const thread_link: MakeLink = (on_replies, on_end) => {
  const worker = new Worker(new URL(import.meta.url), {
    workerData: ENGINE,
    // Not this process's options: --input-type is about a text given with --eval and keeps a file from starting, and a module preloaded
    // with --import may be the very one that loads this model.
    execArgv: [],
    // What a token leaves behind is small. V8 would let a tenth of the embedded model's memory fill up before it looks.
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  });
  worker.on("message", on_replies);
  worker.on("error", (error: unknown) => on_end((error as Error).message));
  worker.on("exit", () => on_end());
  return {
    post: (request) => worker.postMessage(request),
    ref: () => worker.ref(),
    unref: () => worker.unref(),
    terminate: () => worker.terminate(),
  };
};

const process_link: MakeLink = (on_replies, on_end) => {
  const child: ChildProcess = fork(fileURLToPath(import.meta.url), [ENGINE], {
    serialization: "advanced",
    execArgv: ["--max-semi-space-size=4"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const ended = new Promise<void>((resolve) => {
    child.on("exit", (code, signal) => {
      on_end(signal ?? `status ${code}`);
      resolve();
    });
  });
  child.on("message", (replies) => on_replies(replies as Reply[]));
  child.on("error", (error) => on_end(error.message));
  return {
    pid: child.pid,
    // A message to a process that has just ended is answered by its end.
    post: (request) => void child.send(request, () => {}),
    ref: () => {
      child.ref();
      child.channel?.ref?.();
    },
    // Bun's channel has neither; there the child's own are enough.
    unref: () => {
      child.unref();
      child.channel?.unref?.();
    },
    terminate: () => {
      child.kill("SIGKILL");
      return ended;
    },
  };
};

/** The other side: answers requests until it is ended. */
function answer(on_request: (handle: (request: Request) => void) => void, send_all: Post): void {
  let engine: LocalEngine | undefined;
  // The tokens of one step are one message: each costs about what a small model's next token does.
  let waiting: Reply[] = [];
  const flush = (transfer?: readonly Transferable[]) => {
    if (waiting.length > 0) send_all(waiting, transfer);
    waiting = [];
  };
  const post = (reply: Reply, transfer: readonly Transferable[] = []) => {
    waiting.push(reply);
    if (transfer.length > 0) flush(transfer);
    else if (waiting.length === 1) setImmediate(() => flush());
  };
  const running = new Map<number, { aborted: boolean }>();
  const handle = async (id: number, call: Call, signal: Abort): Promise<unknown> => {
    const send = (event: unknown) => post({ id, event });
    if (call.kind === "load") {
      const { dtype, ...local } = call.options;
      let last = 0;
      const on_progress = (progress: { done: number; total: number }) => {
        if (progress.done < progress.total && Date.now() - last < 50) return;
        last = Date.now();
        send(progress);
      };
      engine = await LocalEngine.create(await open_store(call.dir, { dtype, on_progress }), local);
      return undefined;
    }
    if (call.kind === "generate") {
      for await (const token of engine!.generate(call.prompts, { ...call.options, signal })) send(token);
      return undefined;
    }
    if (call.kind === "score") return engine!.score(call.requests, { ...call.options, signal });
    if (call.kind === "forward") return engine!.forward(call.sequences, { ...call.options, signal });
    if (call.kind === "state") return engine!.state();
    return engine?.dispose();
  };
  on_request((request) => {
    const { id } = request;
    if (request.kind === "abort") {
      const signal = running.get(id);
      if (signal) signal.aborted = true;
      return;
    }
    const signal = { aborted: false };
    running.set(id, signal);
    void handle(id, request, signal)
      .then(
        (result) => {
          const { logits = [], router_logits = [] } = (result ?? {}) as Partial<ForwardResult>;
          const buffers = [...logits, ...router_logits].map(({ buffer }) => buffer as unknown as Transferable);
          post({ id, result }, [...new Set(buffers)]);
        },
        (error: unknown) => post({ id, error: error_message(error) }),
      )
      .finally(() => running.delete(id));
  });
}
type Post = (replies: readonly Reply[], transfer?: readonly Transferable[]) => void;

if (!isMainThread && workerData === ENGINE) {
  const port = parentPort!;
  answer(
    (handle) => port.on("message", handle),
    (replies, transfer = []) => port.postMessage(replies, [...transfer]),
  );
} else if (isMainThread && process.argv[2] === ENGINE && process.send) {
  // The parent decides when this process ends; it ends with it in any case.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => {});
  process.on("disconnect", () => process.exit());
  answer(
    (handle) => process.on("message", handle),
    // A parent that has just ended wants no reply.
    (replies) => void process.send!(replies, undefined, undefined, () => {}),
  );
}
