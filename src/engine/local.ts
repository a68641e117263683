/** The engine that runs a model on this machine, in the thread that calls it; `worker.ts` puts it into another. */
import type { InferenceSession } from "onnxruntime-node";
import { BimedixError } from "../errors.js";
import { create_session, type Feeds, float32, floats, floats_of, int64 } from "../graph/session.js";
import type { ModelConfig } from "../model/config.js";
import type { CacheType } from "../model/decoder.js";
import { engine_graph, HIDDEN } from "../model/graphs.js";
import type { Store } from "../model/store.js";
import type {
  Abort,
  Engine,
  ForwardResult,
  GeneratedToken,
  GenerateOptions,
  Score,
  ScoreOptions,
  ScoreRequest,
} from "./engine.js";
import { Pool, ROOT } from "./pool.js";
import { check_sampling, create_sampler } from "./sampler.js";
import { group_requests, plan, read_logits, shared_beginning } from "./tree.js";

export interface LocalOptions {
  /** Of quantised products; see `Weights`. Default 4, which also keeps the cache in float16. 0 is exact. */
  accuracy_level?: 0 | 4;
  /** Threads of one operator. Default: all cores. */
  threads?: number;
  /** New tokens in one run: the longest time between two looks at an abort. Default 256. */
  chunk_tokens?: number;
  /**
   * Tokens of earlier prompts that stay cached besides what the current one shares with the last. Every one of them is
   * multiplied at every step, so more helps only where prompts with different beginnings come back. Default 0.
   */
  cached_tokens?: number;
  /** Writes a profile of the runtime with this prefix. */
  profile?: string;
}

/** What attention scores of one run may take, in float32 values; longer contexts get shorter chunks. */
const MAX_SCORES = 2 ** 26;

/** A token and its place: the index of the node before it, or -1. */
interface Placed {
  token_id: number;
  parent: number;
}

const chain = (tokens: readonly number[]): Placed[] => tokens.map((token_id, i) => ({ token_id, parent: i - 1 }));

/** What `grow` does with a tree. */
interface Growth {
  /** Whether the logits at this node are asked for. Default: at none. */
  wanted?: (node: number) => boolean;
  on_logits?: (logits: Float32Array, node: number) => void;
  on_router?: (router_logits: Float32Array) => void;
  forget?: boolean;
  signal: Abort | undefined;
}

/** Slots from here on stand for tokens of the same run that have no slot yet. */
const NEW = 2 ** 40;

export const aborted = () =>
  new BimedixError("aborted", {
    given: "a generation that was stopped",
    expected: "it to finish",
    todo: "start it again",
  });

export class LocalEngine implements Engine {
  private readonly pool: Pool;
  private queue: Promise<unknown> = Promise.resolve();
  private disposed = false;

  private constructor(
    private readonly config: ModelConfig,
    private readonly session: InferenceSession,
    private readonly options: LocalOptions,
    dtype: CacheType,
  ) {
    const { num_hidden_layers: layers, num_key_value_heads: kv_heads, head_dim } = config;
    this.pool = new Pool({ dtype, layers, kv_heads, head_dim });
  }

  static async create({ config, tensors, folder }: Store, options: LocalOptions = {}): Promise<LocalEngine> {
    const { accuracy_level = 4, threads, profile } = options;
    const quantized = [...tensors.keys()].some((name) => name.endsWith(".scales"));
    // A cache in float16 halves what a long context costs; whoever asks for exact numbers gets them everywhere.
    const cache = quantized && accuracy_level === 4 ? "float16" : "float32";
    const graph = engine_graph(config, tensors, accuracy_level, cache);
    const session = await create_session(graph, {
      folder,
      ...(threads === undefined ? {} : { threads }),
      ...(profile === undefined ? {} : { profile }),
    });
    return new LocalEngine(config, session, options, cache);
  }

  async *generate(
    prompts: readonly (readonly number[])[],
    options: GenerateOptions = {},
  ): AsyncGenerator<GeneratedToken> {
    const { max_new_tokens = 256, eos_token_id = this.config.eos_token_id, signal } = options;
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
    const done = await this.turn();
    try {
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
          const room = this.pool.position_of(one.slot) + 2 < this.config.max_position_embeddings;
          if (stop.has(token_id) || one.left === 0 || !room) continue;
          one.token_id = token_id;
          going.push(one);
        }
        running = going;
        if (running.length === 0) return;
        const { slots, logits } = await this.run(running, [...running.keys()], signal);
        for (const [i, one] of running.entries()) Object.assign(one, { slot: slots[i], logits: logits[i] });
      }
    } finally {
      done();
    }
  }

  async score(requests: readonly ScoreRequest[], { prefix, signal }: ScoreOptions = {}): Promise<Score[]> {
    for (const { context, continuation } of requests) {
      if (continuation.length === 0) {
        throw new BimedixError("empty_prompt", {
          given: "a continuation without tokens",
          expected: "at least one",
          todo: "score another text",
        });
      }
      this.check_prompt([...context, ...continuation].slice(0, -1), 0);
    }
    if (requests.length === 0) return [];
    const done = await this.turn();
    try {
      const scores: Score[] = requests.map(() => ({ logprob: 0, is_greedy: true }));
      const groups = group_requests(requests);
      const beginning = shared_beginning(groups).slice(0, prefix);
      const { pool } = this;
      let start = pool.match(beginning).length;
      if (prefix !== undefined && start < beginning.length) {
        pool.clear();
        start = beginning.length;
      }
      for (const { path, group } of plan(groups, start)) {
        const cached = pool.trim(pool.match(path), this.options.cached_tokens ?? 0);
        const slots = await this.grow(chain(path), cached, { signal });
        if (group === null) continue;
        await this.grow(group.nodes, slots, {
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

  async forward(sequences: readonly (readonly number[])[], signal?: Abort): Promise<ForwardResult> {
    for (const tokens of sequences) this.check_prompt(tokens, 0);
    const done = await this.turn();
    try {
      const result: { logits: Float32Array[]; router_logits: Float32Array[] } = { logits: [], router_logits: [] };
      const { vocab_size, num_local_experts: experts, num_hidden_layers: layers } = this.config;
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
    const done = await this.turn();
    this.disposed = true;
    this.pool.clear();
    await this.session.release();
    done();
  }

  /** Calls take turns: the pool's slots belong to one of them at a time. Resolves to the function that ends the turn. */
  private async turn(): Promise<() => void> {
    const before = this.queue;
    let done = (): void => {};
    this.queue = new Promise<void>((resolve) => {
      done = resolve;
    });
    await before;
    if (!this.disposed) return done;
    done();
    throw new BimedixError("disposed", {
      given: "a call to a model after dispose()",
      expected: "a loaded model",
      todo: "load it again",
    });
  }

  private check_prompt(tokens: readonly number[], room: number): void {
    const { vocab_size, max_position_embeddings } = this.config;
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
    let path = this.pool.match(tokens, first);
    if (trim) path = this.pool.trim(path, this.options.cached_tokens ?? 0);
    const slots = await this.grow(chain(tokens), path, {
      wanted: (node) => node >= first,
      on_logits: (logits, node) => on_logits(logits, node - first),
      signal,
      ...(on_router ? { on_router } : {}),
    });
    return slots.at(-1)!;
  }

  /**
   * Computes a tree of tokens, chunk by chunk, and returns their slots in the pool. `path` holds the slots of its first nodes,
   * which are there already; with `forget`, only those are there afterwards.
   */
  private async grow(
    nodes: readonly Placed[],
    path: readonly number[],
    { wanted = () => false, on_logits, on_router, forget = false, signal }: Growth,
  ): Promise<number[]> {
    const { pool, config } = this;
    const { chunk_tokens = 256 } = this.options;
    const slots = [...path];
    const before = pool.size;
    for (let at = path.length; at < nodes.length; ) {
      const per_token = config.num_attention_heads * (pool.capacity + chunk_tokens);
      const size = Math.max(1, Math.min(chunk_tokens, Math.floor(MAX_SCORES / per_token)));
      const chunk = nodes.slice(at, at + size);
      const rows = [...chunk.keys()].filter((i) => wanted(at + i));
      const placed = chunk.map(({ token_id, parent }) => ({
        slot: parent < 0 ? ROOT : parent < at ? slots[parent]! : NEW + parent - at,
        token_id,
      }));
      const store = !(forget && at + chunk.length === nodes.length);
      const result = await this.run(placed, rows, signal, store);
      for (const [i, row] of rows.entries()) on_logits?.(result.logits[i]!, at + row);
      if (on_router && result.router_logits) on_router(result.router_logits);
      slots.push(...result.slots);
      at += chunk.length;
    }
    if (forget) pool.rollback(before);
    return slots;
  }

  /**
   * Computes new tokens, each after the slot that it names (`NEW + i` for the i-th of these tokens), keeps their keys and
   * values unless `store` is false, and returns the logits at `wanted` of them. When it fails, the pool is as it was.
   */
  private async run(
    tokens: readonly { slot: number; token_id: number }[],
    wanted: readonly number[],
    signal: Abort | undefined,
    store = true,
  ): Promise<{ slots: number[]; logits: Float32Array[]; router_logits?: Float32Array }> {
    const { pool, config } = this;
    const before = pool.size;
    try {
      const slots: number[] = [];
      for (const { slot, token_id } of tokens) slots.push(pool.add(slot >= NEW ? slots[slot - NEW]! : slot, token_id));
      // ONNX Runtime's TopK divides by the number of rows when it has threads to share them: there is always one.
      const rows = wanted.length > 0 ? wanted : [tokens.length - 1];
      const feeds: Feeds = {
        input_ids: int64(tokens.map(({ token_id }) => token_id)),
        position_ids: int64(slots.map((slot) => pool.position_of(slot))),
        attention_bias: float32(this.bias(slots), [slots.length, pool.capacity + slots.length]),
        logits_rows: int64(rows),
      };
      const dims = [config.num_key_value_heads, pool.capacity, config.head_dim];
      for (const [layer, { key, value }] of pool.tensors.entries()) {
        feeds[`past_key.${layer}`] = floats(key, dims);
        feeds[`past_value.${layer}`] = floats(value, dims);
      }
      if (signal?.aborted) throw aborted();
      const outputs = await this.session.run(feeds);
      if (store) pool.store(floats_of(outputs.present!), slots);
      else pool.rollback(before);
      const all = outputs.logits!.data as Float32Array;
      const logits = wanted.map((_, i) => all.subarray(i * config.vocab_size, (i + 1) * config.vocab_size));
      const router = outputs.router_logits?.data as Float32Array | undefined;
      return { slots, logits, ...(router ? { router_logits: router } : {}) };
    } catch (error) {
      pool.rollback(before);
      throw error;
    }
  }

  /** `[slots, capacity + slots]`: every token sees itself and its ancestors, within the sliding window if there is one. */
  private bias(slots: readonly number[]): Float32Array {
    const { capacity } = this.pool;
    const index = new Map(slots.map((slot, i) => [slot, i]));
    const width = capacity + slots.length;
    const bias = new Float32Array(slots.length * width).fill(HIDDEN);
    const window = this.config.sliding_window ?? Number.POSITIVE_INFINITY;
    for (const [row, slot] of slots.entries()) {
      const start = row * width;
      const parent_row = window === Number.POSITIVE_INFINITY ? index.get(this.pool.parent_of(slot)) : undefined;
      if (parent_row !== undefined) {
        bias.copyWithin(start, parent_row * width, (parent_row + 1) * width);
        bias[start + capacity + row] = 0;
        continue;
      }
      let at = slot;
      for (let seen = 0; at !== ROOT && seen < window; seen++, at = this.pool.parent_of(at)) {
        const new_row = index.get(at);
        bias[start + (new_row === undefined ? at : capacity + new_row)] = 0;
      }
    }
    return bias;
  }
}
