/**
 * An engine in a thread or a process of its own: ONNX Runtime's run() blocks the event loop that calls it, and a server or a terminal
 * must go on. The other side (`host.ts`) loads the model and runs `LocalEngine`.
 */
import { aborted, BimedixError, error_from_message } from "../errors.js";
import type { StoreOptions } from "../model/store.js";
import { Channel } from "./channel.js";
import type {
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
import { type Call, type HostOptions, type Isolation, type Link, make_link, type Reply } from "./link.js";
import { shown } from "./options.js";

export interface WorkerOptions extends HostOptions {
  /** Default thread. */
  isolation?: Isolation;
  on_progress?: NonNullable<StoreOptions["on_progress"]>;
}

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
    this.worker = make_link(isolation, (replies) => this.receive(replies), on_end);
    this.worker.unref();
  }

  get pid(): number | undefined {
    return this.worker.pid;
  }

  /** Loads the model directory `dir` in a new thread or process. @throws BimedixError as `open_store` does */
  static async create(
    dir: string,
    { on_progress, isolation = "thread", ...options }: WorkerOptions,
    signal?: AbortSignal,
  ): Promise<WorkerEngine> {
    if (signal?.aborted) throw aborted();
    const engine = new WorkerEngine(isolation);
    try {
      await engine.call({ kind: "load", dir, options }, signal, on_progress as Pending["on_event"]);
      return engine;
    } catch (error) {
      engine.disposed = true;
      const left = engine.worker.leave();
      // Who stops it is answered at once: what ONNX Runtime is loading cannot be interrupted.
      if (!signal?.aborted) {
        // An idle worker does not keep the process alive, which would end without the error.
        engine.worker.ref();
        await left;
      }
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
    await this.worker.leave();
  }

  private call(call: Call, signal?: AbortSignal, on_event: Pending["on_event"] = () => {}): Promise<unknown> {
    if (this.crash) return Promise.reject(this.crash);
    if (signal?.aborted) return Promise.reject(aborted());
    if (signal !== undefined && typeof signal?.addEventListener !== "function") {
      const parts = { given: `signal ${shown(signal)}`, expected: "an AbortSignal", todo: "change it or leave it out" };
      return Promise.reject(new BimedixError("bad_option", parts));
    }
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
      try {
        this.worker.post({ ...call, id });
      } catch {
        // A function or a symbol among them, which no thread takes over.
        this.settle(id)?.reject(
          new BimedixError("bad_option", {
            given: `a value of ${call.kind} that cannot be given to another thread`,
            expected: "numbers, texts and lists of them",
            todo: "leave functions out",
          }),
        );
      }
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
