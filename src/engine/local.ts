/** The engine that runs a model on this machine, in the thread that calls it; `worker.ts` puts it into another. */
import { BimedixError } from "../errors.js";
import type { Store } from "../model/store.js";
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
import { chain, type LocalOptions, Runner } from "./runner.js";
import { check_sampling, create_sampler } from "./sampler.js";
import { group_requests, plan, read_logits, shared_beginning } from "./tree.js";

export class LocalEngine implements Engine {
  private queue: Promise<unknown> = Promise.resolve();
  private disposed = false;

  private constructor(private readonly runner: Runner) {}

  static async create(store: Store, options: LocalOptions = {}): Promise<LocalEngine> {
    return new LocalEngine(await Runner.create(store, options));
  }

  async *generate(
    prompts: readonly (readonly number[])[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken> {
    const { config } = this.runner;
    const { max_new_tokens = 256, eos_token_id = config.eos_token_id, signal } = options;
    check_sampling(options);
    if (!Number.isSafeInteger(max_new_tokens) || max_new_tokens < 1) {
      throw new BimedixError("bad_option", {
        given: `max_new_tokens ${max_new_tokens}`,
        expected: "an integer from 1",
        todo: "change it",
      });
    }
    const stop = new Set(eos_token_id === null ? [] : [eos_token_id].flat());
    for (const prompt of prompts) this.check_prompt(prompt, 1);
    const done = await this.turn(options.adapter);
    try {
      const { pool } = this.runner;
      const sequences = [];
      for (const [sequence, prompt] of prompts.entries()) {
        const leaf = await this.prefill(prompt, sequences.length === 0, signal);
        sequences.push({
          sequence,
          ...leaf,
          token_id: -1,
          left: max_new_tokens,
          seen: new Set(prompt),
          sample: create_sampler(options, sequence),
        });
      }
      for (let running = sequences; running.length > 0; ) {
        const going: typeof running = [];
        for (const one of running) {
          const token_id = one.sample(one.logits.slice(), one.seen);
          yield { sequence: one.sequence, token_id };
          one.seen.add(token_id);
          one.left--;
          const room = pool.position_of(one.slot) + 2 < config.max_position_embeddings;
          if (stop.has(token_id) || one.left === 0 || !room) continue;
          one.token_id = token_id;
          going.push(one);
        }
        running = going;
        if (running.length === 0) return;
        const { slots, logits } = await this.runner.run(running, [...running.keys()], signal);
        for (const [i, one] of running.entries()) Object.assign(one, { slot: slots[i], logits: logits[i] });
      }
    } finally {
      done();
    }
  }

  async score(requests: readonly ScoreRequest[], { prefix, signal, adapter }: ScoreOptions = {}): Promise<Score[]> {
    for (const { context, continuation } of requests) {
      if (context.length === 0 || continuation.length === 0) {
        throw new BimedixError("empty_prompt", {
          given: `a ${context.length === 0 ? "context" : "continuation"} without tokens`,
          expected: "at least one",
          todo: "score another text, or begin with <s>",
        });
      }
      this.check_prompt([...context, ...continuation].slice(0, -1), 0);
    }
    if (requests.length === 0) return [];
    const done = await this.turn(adapter);
    try {
      const scores: Score[] = requests.map(() => ({ logprob: 0, is_greedy: true }));
      const groups = group_requests(requests);
      const beginning = shared_beginning(groups).slice(0, prefix);
      const { runner } = this;
      let start = runner.pool.match(beginning).length;
      if (prefix !== undefined && start < beginning.length) {
        runner.pool.clear();
        start = beginning.length;
      }
      for (const { path, group } of plan(groups, start)) {
        const slots = await runner.grow(chain(path), runner.keep(path), { signal });
        if (group === null) continue;
        await runner.grow(group.nodes, slots, {
          wanted: (node) => group.nodes[node]!.readers.length > 0,
          on_logits: (logits, node) => read_logits(logits, group.nodes[node]!.readers, scores),
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
    { signal, adapter }: ForwardOptions = {},
  ): Promise<ForwardResult> {
    for (const tokens of sequences) this.check_prompt(tokens, 0);
    const done = await this.turn(adapter);
    try {
      const result: { logits: Float32Array[]; router_logits: Float32Array[] } = { logits: [], router_logits: [] };
      const { vocab_size, num_local_experts: experts, num_hidden_layers: layers } = this.runner.config;
      for (const tokens of sequences) {
        const logits = new Float32Array(tokens.length * vocab_size);
        const router = new Float32Array(layers * tokens.length * experts);
        let at = 0;
        await this.extend(
          tokens,
          tokens.length,
          true,
          signal,
          (row, index) => logits.set(row, index * vocab_size),
          (chunk) => {
            const rows = chunk.length / layers / experts;
            for (let layer = 0; layer < layers; layer++) {
              router.set(
                chunk.subarray(layer * rows * experts, (layer + 1) * rows * experts),
                (layer * tokens.length + at) * experts,
              );
            }
            at += rows;
          },
        );
        result.logits.push(logits);
        result.router_logits.push(router);
      }
      return experts > 0 ? result : { logits: result.logits };
    } finally {
      done();
    }
  }

  async dispose(): Promise<void> {
    if (this.disposed) return;
    const done = await this.turn(null);
    this.disposed = true;
    await this.runner.release();
    done();
  }

  /** Calls take turns: the pool's slots belong to one of them at a time. Resolves to the function that ends the turn. */
  private async turn(adapter: string | null | undefined): Promise<() => void> {
    const before = this.queue;
    let done = (): void => {};
    this.queue = new Promise<void>((resolve) => {
      done = resolve;
    });
    await before;
    if (!this.disposed) {
      try {
        this.runner.use(adapter);
        return done;
      } catch (error) {
        done();
        throw error;
      }
    }
    done();
    throw new BimedixError("disposed", {
      given: "a call to a model after dispose()",
      expected: "a loaded model",
      todo: "load it again",
    });
  }

  private check_prompt(tokens: readonly number[], room: number): void {
    const { vocab_size, max_position_embeddings } = this.runner.config;
    if (tokens.length === 0) {
      throw new BimedixError("empty_prompt", {
        given: "a prompt without tokens",
        expected: "at least one",
        todo: "give some text, or let the tokenizer add <s>",
      });
    }
    if (tokens.length + room > max_position_embeddings) {
      throw new BimedixError("context_length_exceeded", {
        given: `a prompt of ${tokens.length} tokens`,
        expected: `at most ${max_position_embeddings - room}`,
        todo: "shorten it",
      });
    }
    const wrong = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= vocab_size);
    if (wrong !== undefined) {
      throw new BimedixError("token_out_of_range", {
        given: `token id ${wrong}`,
        expected: `0 to ${vocab_size - 1}`,
        todo: "use the tokenizer of this model",
      });
    }
  }

  /** Runs what of a prompt is not cached and returns its last slot with the logits there. */
  private async prefill(
    tokens: readonly number[],
    trim: boolean,
    signal: Abort | undefined,
  ): Promise<{ slot: number; logits: Float32Array }> {
    let logits: Float32Array = new Float32Array(0);
    const slot = await this.extend(tokens, 1, trim, signal, (row) => {
      logits = row;
    });
    return { slot, logits };
  }

  /**
   * Puts `tokens` into the pool and hands the logits at the last `wanted` of them to `on_logits`, in order. Tokens before
   * those come from the cache where they can. Returns the slot of the last token.
   */
  private async extend(
    tokens: readonly number[],
    wanted: number,
    trim: boolean,
    signal: Abort | undefined,
    on_logits: (logits: Float32Array, index: number) => void,
    on_router?: (router_logits: Float32Array) => void,
  ): Promise<number> {
    const first = tokens.length - wanted;
    const { runner } = this;
    const path = trim ? runner.keep(tokens, first) : runner.pool.match(tokens, first);
    const slots = await runner.grow(chain(tokens), path, {
      wanted: (node) => node >= first,
      on_logits: (logits, node) => on_logits(logits, node - first),
      signal,
      ...(on_router ? { on_router } : {}),
    });
    return slots.at(-1)!;
  }
}
