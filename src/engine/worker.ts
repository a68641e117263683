/**
 * An engine in a thread of its own: ONNX Runtime's run() blocks the event loop that calls it, and a server or a terminal
 * must go on. The worker loads the model and runs `LocalEngine`; this file is both ends of the conversation.
 * An abort travels in shared memory, so that it is seen between two chunks although the worker's event loop is busy.
 */
import { isMainThread, parentPort, type Transferable, Worker, workerData } from "node:worker_threads";
import { aborted, BimedixError, type ErrorMessage, error_from_message, error_message } from "../errors.js";
import { open_store, type StoreOptions } from "../model/store.js";
import type {
  Abort,
  Engine,
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

export interface WorkerOptions extends LocalOptions {
  dtype: StoreOptions["dtype"];
  on_progress?: NonNullable<StoreOptions["on_progress"]>;
}

type Call =
  | { kind: "load"; dir: string; options: Omit<WorkerOptions, "on_progress"> }
  | { kind: "generate"; prompts: readonly (readonly number[])[]; options: GenerateOptions }
  | { kind: "score"; requests: readonly ScoreRequest[]; options: Omit<ScoreOptions, "signal"> }
  | { kind: "forward"; sequences: readonly (readonly number[])[]; options: Omit<ForwardOptions, "signal"> }
  | { kind: "dispose" };
type Request = Call & { id: number; flag: Int32Array };
type Reply = { id: number } & ({ event: unknown } | { result: unknown } | { error: ErrorMessage });

interface Pending {
  on_event: (event: unknown) => void;
  resolve: (result: unknown) => void;
  reject: (error: unknown) => void;
}

export class WorkerEngine implements Engine {
  private readonly pending = new Map<number, Pending>();
  private readonly worker = new Worker(new URL(import.meta.url), {
    workerData: WORKER,
    // What a token leaves behind is small. V8 would let a tenth of the embedded model's memory fill up before it looks.
    resourceLimits: { maxYoungGenerationSizeMb: 4 },
  });
  private next_id = 0;
  /** What calls end with once the thread has. */
  private crash: BimedixError | undefined;
  private disposed = false;
  readonly ended: Promise<BimedixError>;

  private constructor() {
    this.worker.unref();
    this.worker.on("message", (reply: Reply) => this.receive(reply));
    this.ended = new Promise((resolve) => {
      const fail = (cause?: Error) => {
        this.crash ??= this.disposed ? disposed() : stopped(cause);
        for (const { reject } of this.pending.values()) reject(this.crash);
        this.pending.clear();
        resolve(this.crash);
      };
      this.worker.on("error", fail);
      this.worker.on("exit", () => fail());
    });
  }

  /** Loads the model directory `dir` in a new thread. @throws BimedixError as `open_store` does */
  static async create(
    dir: string,
    { on_progress, ...options }: WorkerOptions,
    signal?: AbortSignal,
  ): Promise<WorkerEngine> {
    const engine = new WorkerEngine();
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
    const tokens: GeneratedToken[] = [];
    const stop = new AbortController();
    let wake = (): void => {};
    let end: { error?: unknown } | undefined;
    const finish = (error?: unknown) => {
      end = error === undefined ? {} : { error };
      wake();
    };
    const own_signal = signal instanceof AbortSignal ? AbortSignal.any([signal, stop.signal]) : stop.signal;
    const work = this.call({ kind: "generate", prompts, options }, own_signal, (token) => {
      tokens.push(token as GeneratedToken);
      wake();
    }).then(() => finish(), finish);
    try {
      for (;;) {
        const token = tokens.shift();
        if (token) yield token;
        else if (end?.error) throw end.error;
        else if (end) return;
        else {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
        }
      }
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

  async dispose(): Promise<void> {
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
    const flag = new Int32Array(new SharedArrayBuffer(4));
    return new Promise((resolve, reject) => {
      // The caller is answered at once; the worker stops at the end of its chunk and its late replies find nobody.
      const abort = () => {
        Atomics.store(flag, 0, 1);
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
      this.worker.postMessage({ ...call, id, flag } satisfies Request);
    });
  }

  private settle(id: number): Pending | undefined {
    const pending = this.pending.get(id);
    this.pending.delete(id);
    if (this.pending.size === 0) this.worker.unref();
    return pending;
  }

  private receive(reply: Reply): void {
    if ("event" in reply) this.pending.get(reply.id)?.on_event(reply.event);
    else if ("result" in reply) this.settle(reply.id)?.resolve(reply.result);
    else this.settle(reply.id)?.reject(error_from_message(reply.error));
  }
}

const disposed = () =>
  new BimedixError("disposed", {
    given: "a call to a model after dispose()",
    expected: "a loaded model",
    todo: "load it again",
  });

const stopped = (cause?: Error) =>
  new BimedixError(
    "engine_stopped",
    {
      given: `a model whose thread ended${cause ? ` (${cause.message})` : ""}`,
      expected: "it to answer",
      todo: "load it again, with more memory if that was short",
    },
    cause,
  );

const WORKER = "bimedix-engine";

if (!isMainThread && workerData === WORKER) {
  const port = parentPort!;
  let engine: LocalEngine | undefined;
  const handle = async ({ id, flag, ...call }: Request): Promise<unknown> => {
    const signal: Abort = {
      get aborted() {
        return Atomics.load(flag, 0) === 1;
      },
    };
    const send = (event: unknown) => port.postMessage({ id, event } satisfies Reply);
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
    return engine?.dispose();
  };
  port.on("message", (request: Request) => {
    handle(request).then(
      (result) => {
        const { logits = [], router_logits = [] } = (result ?? {}) as Partial<ForwardResult>;
        const buffers = [...logits, ...router_logits].map(({ buffer }) => buffer as unknown as Transferable);
        port.postMessage({ id: request.id, result } satisfies Reply, [...new Set(buffers)]);
      },
      (error: unknown) => port.postMessage({ id: request.id, error: error_message(error) } satisfies Reply),
    );
  });
}
