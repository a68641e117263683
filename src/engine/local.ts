/** The engine that runs a model on this machine, in the thread that calls it; `worker.ts` puts it into another. */
import { BimedixError } from "../errors.js";
import type { Store } from "../model/store.js";
import { Channel } from "./channel.js";
import { check_generation, check_list, check_prompt, check_tokens } from "./checks.js";
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
import { forward_options, score_options } from "./generation_options.js";
import { check_options } from "./options.js";
import { chain, type LocalOptions, Runner } from "./runner.js";
import { Scheduler, Sequence } from "./scheduler.js";
import { group_requests, plan, read_logits, shared_beginning } from "./tree.js";

export class LocalEngine implements Engine {
  private queue: Promise<unknown> = Promise.resolve();
  private disposed = false;
  private disposing: Promise<void> | undefined;
  private readonly scheduler: Scheduler;

  private constructor(
    private readonly runner: Runner,
    max_sequences: number,
  ) {
    this.scheduler = new Scheduler(runner, max_sequences);
  }

  static async create(store: Store, options: LocalOptions = {}): Promise<LocalEngine> {
    return new LocalEngine(await Runner.create(store, options), options.max_sequences ?? 16);
  }

  async *generate(
    prompts: readonly (readonly number[])[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken> {
    const { config } = this.runner;
    const { max_new_tokens = 256, eos_token_id = config.eos_token_id, signal } = options;
    check_generation(config, prompts, options);
    this.check_loaded();
    const cache = this.runner.cache("generation", options.adapter);
    const tokens = new Channel<GeneratedToken>();
    let left = prompts.length;
    const on_end = (error?: unknown) => {
      if (--left === 0 || error !== undefined) tokens.end(error);
    };
    const whole = { ...options, max_new_tokens, eos_token_id };
    const sequences = prompts.map(
      (prompt, number) => new Sequence(prompt, number, whole, cache, signal, (token) => tokens.push(token), on_end),
    );
    for (const sequence of sequences) this.scheduler.add(sequence);
    if (left === 0) return;
    try {
      yield* tokens.read();
    } finally {
      for (const sequence of sequences) this.scheduler.remove(sequence);
    }
  }

  async score(requests: readonly ScoreRequest[], { signal, ...options }: ScoreOptions = {}): Promise<Score[]> {
    const { prefix, adapter, top_logprobs } = check_options(options, score_options, "score") as ScoreOptions;
    check_list(requests, "list of { context, continuation }, each a list of token ids", (one) => {
      const { context, continuation } = (one ?? {}) as Partial<ScoreRequest>;
      return Array.isArray(context) && Array.isArray(continuation);
    });
    for (const { context, continuation } of requests) {
      if (context.length === 0 || continuation.length === 0) {
        throw new BimedixError("empty_prompt", {
          given: `a ${context.length === 0 ? "context" : "continuation"} without tokens`,
          expected: "at least one",
          todo: "score another text, or begin with <s>",
        });
      }
      check_prompt(this.runner.config, [...context, ...continuation].slice(0, -1), 0);
      check_tokens(this.runner.config, continuation.slice(-1));
    }
    if (requests.length === 0) return [];
    const done = await this.turn();
    try {
      const cache = this.runner.cache("scoring", adapter);
      const scores: Score[] = requests.map(() => ({ logprob: 0, is_greedy: true }));
      const groups = group_requests(requests);
      const beginning = shared_beginning(groups).slice(0, prefix);
      const { runner } = this;
      let start = cache.pool.match(beginning).length;
      if (prefix !== undefined && start < beginning.length) {
        cache.pool.clear();
        start = beginning.length;
      }
      for (const { path, group } of plan(groups, start)) {
        const slots = await runner.grow(cache, chain(path), runner.keep(cache, path), { signal });
        if (group === null) continue;
        await runner.grow(cache, group.nodes, slots, {
          wanted: (node) => group.nodes[node]!.readers.length > 0,
          on_logits: (logits, node) => read_logits(logits, group.nodes[node]!.readers, scores, top_logprobs),
          forget: prefix !== undefined,
          signal,
        });
      }
      return scores;
    } finally {
      done();
    }
  }

  async forward(
    sequences: readonly (readonly number[])[],
    { signal, ...options }: ForwardOptions = {},
  ): Promise<ForwardResult> {
    const { adapter, output_logits = true } = check_options(options, forward_options, "forward") as ForwardOptions;
    check_list(sequences, "list of lists of token ids", Array.isArray);
    for (const tokens of sequences) check_prompt(this.runner.config, tokens, 0);
    const done = await this.turn();
    try {
      const cache = this.runner.cache("scoring", adapter);
      const result: { logits: Float32Array[]; router_logits: Float32Array[] } = { logits: [], router_logits: [] };
      const { vocab_size, num_local_experts: experts, num_hidden_layers: layers } = this.runner.config;
      for (const tokens of sequences) {
        const logits = new Float32Array(output_logits ? tokens.length * vocab_size : 0);
        const router = new Float32Array(layers * tokens.length * experts);
        let at = 0;
        await this.runner.grow(cache, chain(tokens), this.runner.keep(cache, tokens, 0), {
          // Also for router logits: the last layer computes the wanted rows alone.
          wanted: () => true,
          ...(output_logits ? { on_logits: (row, index) => logits.set(row, index * vocab_size) } : {}),
          on_router: (chunk) => {
            const rows = chunk.length / layers / experts;
            for (let layer = 0; layer < layers; layer++) {
              router.set(
                chunk.subarray(layer * rows * experts, (layer + 1) * rows * experts),
                (layer * tokens.length + at) * experts,
              );
            }
            at += rows;
          },
          signal,
        });
        if (output_logits) result.logits.push(logits);
        result.router_logits.push(router);
      }
      return experts > 0 ? result : { logits: result.logits };
    } finally {
      done();
    }
  }

  async state(): Promise<EngineState> {
    return { ...this.scheduler.state, cached_tokens: this.runner.size };
  }

  dispose(): Promise<void> {
    this.disposing ??= this.end();
    return this.disposing;
  }

  private async end(): Promise<void> {
    const done = await this.turn();
    this.disposed = true;
    await this.scheduler.idle();
    await this.runner.release();
    done();
  }

  /** Scoring takes turns: its cache belongs to one call at a time. Resolves to the function that ends the turn. */
  private async turn(): Promise<() => void> {
    const before = this.queue;
    let done = (): void => {};
    this.queue = new Promise<void>((resolve) => {
      done = resolve;
    });
    await before;
    try {
      this.check_loaded();
      return done;
    } catch (error) {
      done();
      throw error;
    }
  }

  private check_loaded(): void {
    if (!this.disposed) return;
    throw new BimedixError("disposed", {
      given: "a call to a model after dispose()",
      expected: "a loaded model",
      todo: "load it again",
    });
  }
}
