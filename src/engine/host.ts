/** The side of a `WorkerEngine` that runs the model: the first module of a thread or process that `link.ts` starts. */
import { isMainThread, parentPort, type Transferable, workerData } from "node:worker_threads";
import { error_message } from "../errors.js";
import type { StoreOptions } from "../model/store.js";
import type { ForwardResult } from "./engine.js";
import { type Call, ENGINE, type HostData, type Reply, type Request } from "./link.js";
import type { LocalEngine } from "./local.js";

type Post = (replies: readonly Reply[], transfer?: readonly Transferable[]) => void;

/** Answers requests until it is asked to leave. */
class Host {
  private engine: LocalEngine | undefined;
  /** The tokens of one step are one message: each costs about what a small model's next token does. */
  private waiting: Reply[] = [];
  private readonly running = new Map<number, AbortController>();
  private readonly work = new Set<Promise<void>>();

  constructor(
    private readonly send_all: Post,
    /** Called when nothing is under way any more. */
    private readonly on_left: () => void,
  ) {}

  readonly receive = (request: Request): void => {
    if (request.kind === "leave") return void this.leave();
    const { id } = request;
    if (request.kind === "abort") return void this.running.get(id)?.abort();
    const controller = new AbortController();
    this.running.set(id, controller);
    const done = this.handle(id, request, controller.signal)
      .then(
        (result) => {
          const { logits = [], router_logits = [] } = (result ?? {}) as Partial<ForwardResult>;
          const buffers = [...logits, ...router_logits].map(({ buffer }) => buffer as unknown as Transferable);
          this.post({ id, result }, [...new Set(buffers)]);
        },
        (error: unknown) => this.post({ id, error: error_message(error) }),
      )
      .finally(() => {
        this.running.delete(id);
        this.work.delete(done);
      });
    this.work.add(done);
  };

  /** Stops what is under way, which then gives back its locks and part files; nothing native runs after this. */
  async leave(): Promise<void> {
    for (const controller of this.running.values()) controller.abort();
    await Promise.all(this.work);
    await this.engine?.dispose().catch(() => {});
    this.on_left();
  }

  private async handle(id: number, call: Call, signal: AbortSignal): Promise<unknown> {
    const send = (event: unknown) => this.post({ id, event });
    if (call.kind === "load") {
      const { dtype, ...local } = call.options;
      let last = 0;
      const on_progress: NonNullable<StoreOptions["on_progress"]> = (progress) => {
        if (progress.done < progress.total && Date.now() - last < 50) return;
        last = Date.now();
        send(progress);
      };
      // Only here: who leaves at once need not wait until ONNX Runtime's library is read.
      const [{ open_store }, { LocalEngine }] = await Promise.all([import("../model/store.js"), import("./local.js")]);
      signal.throwIfAborted();
      const store = await open_store(call.dir, { dtype, on_progress, signal });
      signal.throwIfAborted();
      this.engine = await LocalEngine.create(store, local);
      return undefined;
    }
    const engine = this.engine!;
    if (call.kind === "generate") {
      for await (const token of engine.generate(call.prompts, { ...call.options, signal })) send(token);
      return undefined;
    }
    if (call.kind === "score") return engine.score(call.requests, { ...call.options, signal });
    if (call.kind === "forward") return engine.forward(call.sequences, { ...call.options, signal });
    if (call.kind === "state") return engine.state();
    return engine.dispose();
  }

  private post(reply: Reply, transfer: readonly Transferable[] = []): void {
    this.waiting.push(reply);
    if (transfer.length > 0) this.flush(transfer);
    else if (this.waiting.length === 1) setImmediate(() => this.flush());
  }

  private flush(transfer?: readonly Transferable[]): void {
    if (this.waiting.length > 0) this.send_all(this.waiting, transfer);
    this.waiting = [];
  }
}

const data = workerData as HostData | null;
if (!isMainThread && data?.engine === ENGINE) {
  const port = parentPort!;
  const host = new Host(
    (replies, transfer = []) => port.postMessage(replies, [...transfer]),
    () => process.exit(),
  );
  process.on("exit", () => {
    Atomics.store(data.left, 0, 1);
    Atomics.notify(data.left, 0);
  });
  port.on("message", host.receive);
} else if (isMainThread && process.argv[2] === ENGINE && process.send) {
  const host = new Host(
    // A parent that has just ended wants no reply.
    (replies) => void process.send!(replies, undefined, undefined, () => {}),
    () => process.exit(),
  );
  // The parent decides when this process ends; it ends with it in any case.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
  process.on("disconnect", () => void host.leave());
  process.on("message", host.receive);
}
