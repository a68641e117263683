/**
 * Prompts as tokens. A short text takes less than a millisecond here; a long one would hold up every other request, so a thread of its
 * own renders and tokenizes it, and refuses what the context cannot hold before that.
 */
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { aborted, BimedixError, type ErrorMessage, error_from_message, error_message } from "../errors.js";
import { load_tokenizer, type Tokenizer } from "../text/tokenizer.js";

/** Characters. */
const LONG = 8192;

/** Seconds after which the thread is given up when nothing long comes. */
const IDLE = 60;

/** Megabytes that the thread may take, the tokenizer's own among them. */
const MEMORY = 1024;

/** What is tokenized: texts, or one conversation through the model's template. */
export type Text =
  | { texts: readonly string[]; add_special_tokens?: boolean }
  | { messages: { role: string; content: string }[]; continue_final_message?: boolean };

interface Job {
  text: Text;
  most: number;
}
type Done = { rows: Int32Array[] } | { error: ErrorMessage };
interface Waiting extends Job {
  resolve: (rows: number[][]) => void;
  reject: (error: unknown) => void;
}

const THREAD = "bimedix-tokens";

export class Tokens {
  private worker: Worker | null = null;
  private readonly queue: Waiting[] = [];
  /** What the thread has. */
  private current: Waiting | null = null;
  private idle: NodeJS.Timeout | undefined;

  /** @param dir the model's directory, from which the thread reads the tokenizer again */
  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly dir: string,
  ) {}

  /**
   * The tokens of each text, or of the one conversation.
   *
   * @param most tokens of one prompt: a text of more is refused, where possible before it is tokenized
   * @throws BimedixError context_length_exceeded, and as Tokenizer.encode and apply_chat_template
   */
  async of(text: Text, most: number, signal: AbortSignal): Promise<number[][]> {
    if (signal.aborted) throw aborted();
    if (length_of(text) <= LONG) return tokenize(this.tokenizer, text, most);
    const { promise, leave } = this.enqueue(text, most);
    signal.addEventListener("abort", leave, { once: true });
    return promise.finally(() => signal.removeEventListener("abort", leave));
  }

  async dispose(): Promise<void> {
    clearTimeout(this.idle);
    await this.worker?.terminate();
  }

  private enqueue(text: Text, most: number): { promise: Promise<number[][]>; leave: () => void } {
    const one: Waiting = { text, most, resolve: () => {}, reject: () => {} };
    const promise = new Promise<number[][]>((resolve, reject) => Object.assign(one, { resolve, reject }));
    this.queue.push(one);
    this.advance();
    const leave = () => {
      // What the thread has already is done to its end, and nobody hears of it.
      const at = this.queue.indexOf(one);
      if (at >= 0) this.queue.splice(at, 1);
      one.reject(aborted());
    };
    return { promise, leave };
  }

  /** Gives the thread the next text, once it is done with the last. */
  private advance(): void {
    if (this.current) return;
    clearTimeout(this.idle);
    this.current = this.queue.shift() ?? null;
    if (this.current) {
      const { text, most } = this.current;
      this.worker ??= this.start();
      this.worker.postMessage({ text, most } satisfies Job);
    } else this.idle = setTimeout(() => void this.worker?.terminate(), IDLE * 1000).unref();
  }

  private settle(how: (one: Waiting) => void): void {
    const one = this.current;
    this.current = null;
    if (one) how(one);
    this.advance();
  }

  private start(): Worker {
    const worker = new Worker(new URL(import.meta.url), {
      workerData: { kind: THREAD, dir: this.dir, chat_template: this.tokenizer.chat_template },
      execArgv: [],
      resourceLimits: { maxOldGenerationSizeMb: MEMORY },
    });
    worker.unref();
    worker.on("message", (done: Done) =>
      this.settle(({ resolve, reject }) => {
        if ("error" in done) reject(error_from_message(done.error));
        else resolve(done.rows.map((row) => Array.from(row)));
      }),
    );
    const ended = (error: unknown) => {
      if (this.worker !== worker) return;
      this.worker = null;
      this.settle(({ reject }) => reject(error));
    };
    worker.on("error", ended);
    worker.on("exit", () => ended(aborted()));
    return worker;
  }
}

function length_of(text: Text): number {
  const parts = "texts" in text ? text.texts : text.messages.map(({ content }) => content);
  return parts.reduce((sum, { length }) => sum + length, 0);
}

function tokenize(tokenizer: Tokenizer, text: Text, most: number): number[][] {
  const check = (one: string) => check_count(one.length > LONG ? tokenizer.least_tokens(one) : 0, most, "at least ");
  const checked = (ids: number[]) => {
    check_count(ids.length, most);
    return ids;
  };
  if ("messages" in text) {
    const { messages, ...options } = text;
    if (length_of(text) > LONG) check(tokenizer.apply_chat_template(messages, { ...options, tokenize: false }));
    return [checked(tokenizer.apply_chat_template(messages, options))];
  }
  const { texts, ...options } = text;
  return texts.map((one) => {
    check(one);
    return checked(tokenizer.encode(one, options));
  });
}

function check_count(count: number, most: number, at_least = ""): void {
  if (count <= most) return;
  throw new BimedixError("context_length_exceeded", {
    given: `a prompt of ${at_least}${count} tokens`,
    expected: `at most ${most}`,
    todo: "shorten it",
  });
}

if (!isMainThread && workerData?.kind === THREAD) {
  const { dir, chat_template } = workerData as { dir: string; chat_template: Tokenizer["chat_template"] };
  const port = parentPort!;
  const tokenizer = load_tokenizer(dir).then((loaded) => Object.assign(loaded, { chat_template }));
  port.on("message", async ({ text, most }: Job) => {
    try {
      const rows = tokenize(await tokenizer, text, most).map((row) => Int32Array.from(row));
      const buffers = rows.map(({ buffer }) => buffer as ArrayBuffer);
      port.postMessage({ rows } satisfies Done, buffers);
    } catch (error) {
      port.postMessage({ error: error_message(error) } satisfies Done);
    }
  });
}
