/**
 * A model's session with its cache: computes new tokens, chunk by chunk, and keeps what later ones see. Whoever holds it calls one
 * method at a time.
 */
import type { InferenceSession, Tensor } from "onnxruntime-node";
import { aborted, BimedixError } from "../errors.js";
import { bool, create_session, type Feeds, float32, floats, floats_of, int32, int64 } from "../graph/session.js";
import { type Adapted, type Adapter, adaptable_tensors, adapted_by } from "../model/adapter.js";
import type { ModelConfig } from "../model/config.js";
import { engine_graph, HIDDEN } from "../model/graphs.js";
import { keep_name, lora_a_name, lora_b_name, replacement_name } from "../model/lora.js";
import { read_adapter } from "../model/read_adapter.js";
import type { Store } from "../model/store.js";
import type { Abort } from "./engine.js";
import { Pool, ROOT } from "./pool.js";

export interface LocalOptions {
  /** Of quantised products; see `Weights`. Default 4, which also keeps the cache in float16. 0 is exact. */
  accuracy_level?: 0 | 4;
  /** Threads of one operator. Default: the physical cores that this process may use. */
  threads?: number;
  /** Sequences that are generated at one time, of all calls together; further ones wait. Default 16. */
  max_sequences?: number;
  /** New tokens in one run: the longest time between two looks at an abort. Default 256. */
  chunk_tokens?: number;
  /**
   * Tokens of earlier prompts and answers that stay cached besides those in use, for prompts that begin like them. They take memory
   * (of Mixtral-8x7B 131 kB each, in float16) and no time. Default 0.
   */
  cached_tokens?: number;
  /** Writes a profile of the runtime with this prefix. */
  profile?: string;
  /** LoRA adapters by name, as directories in PEFT's form. Each call chooses one; nothing is loaded again. */
  adapters?: Readonly<Record<string, string>>;
  /** The adapter of calls that choose none. Default: none, the base model. */
  adapter?: string;
}

/** What attention scores of one run may take, in float32 values; longer contexts get shorter chunks. */
const MAX_SCORES = 2 ** 26;

/** A token and its place: the index of the node before it, or -1. */
export interface Placed {
  token_id: number;
  parent: number;
}

export const chain = (tokens: readonly number[]): Placed[] =>
  tokens.map((token_id, i) => ({ token_id, parent: i - 1 }));

/** What `grow` does with a tree. */
export interface Growth {
  /** Whether the logits at this node are asked for. Default: at none. */
  wanted?: (node: number) => boolean;
  on_logits?: (logits: Float32Array, node: number) => void;
  on_router?: (router_logits: Float32Array) => void;
  /** Keep nothing of what is computed. */
  forget?: boolean;
  signal: Abort | undefined;
}

/** A token and the slot that it comes after. */
export interface NewToken {
  slot: number;
  token_id: number;
}

/** Slots from here on stand for tokens of the same sequence and run, which have no slot yet. */
export const NEW = 2 ** 40;

/** An adapter's matrices as the graph takes them, and the keys and values of what was computed with it. */
export interface Cache {
  readonly feeds: Feeds;
  readonly pool: Pool;
}

/** Generated texts and scored ones are kept apart: either forgets what the other would still need. */
type Caches = Record<"generation" | "scoring", Cache>;

export class Runner {
  private constructor(
    readonly config: ModelConfig,
    private readonly session: InferenceSession,
    private readonly options: LocalOptions,
    /** By adapter; null is the base. */
    private readonly caches: ReadonlyMap<string | null, Caches>,
  ) {}

  get cached_tokens(): number {
    return this.options.cached_tokens ?? 0;
  }

  /** Tokens in all caches. */
  get size(): number {
    return [...this.caches.values()].reduce(
      (sum, { generation, scoring }) => sum + generation.pool.size + scoring.pool.size,
      0,
    );
  }

  /** The cache of an adapter; undefined is the default one, null the base. @throws BimedixError bad_option */
  cache(purpose: keyof Caches, adapter: string | null = this.options.adapter ?? null): Cache {
    const caches = this.caches.get(adapter);
    if (!caches) {
      throw new BimedixError("bad_option", {
        given: `adapter ${JSON.stringify(adapter)}`,
        expected: `one of those that were loaded (${[...this.caches.keys()].filter(Boolean).join(", ") || "none"})`,
        todo: "name it in adapters when the model is loaded",
      });
    }
    return caches[purpose];
  }

  static async create({ config, tensors, folder }: Store, options: LocalOptions): Promise<Runner> {
    const { accuracy_level = 4, threads, profile, adapters = {} } = options;
    const quantized = [...tensors.keys()].some((name) => name.endsWith(".scales"));
    // A cache in float16 halves what a long context costs; whoever asks for exact numbers gets them everywhere.
    const cache = quantized && accuracy_level === 4 ? "float16" : "float32";
    const loaded = new Map<string | null, Adapter>();
    for (const [name, dir] of Object.entries(adapters)) loaded.set(name, await read_adapter(dir, config));
    const adapted = adapted_by([...loaded.values()]);
    const session = await create_session(engine_graph(config, tensors, accuracy_level, cache, adapted), {
      folder,
      ...(threads === undefined ? {} : { threads }),
      ...(profile === undefined ? {} : { profile }),
    });
    const { num_hidden_layers: layers, num_key_value_heads: kv_heads, head_dim } = config;
    const made = (adapter: Adapter | null): Caches => {
      const feeds = adapted ? adapter_feeds(adapter, adapted, config) : {};
      const pool = () => new Pool({ dtype: cache, layers, kv_heads, head_dim });
      return { generation: { feeds, pool: pool() }, scoring: { feeds, pool: pool() } };
    };
    const caches = new Map<string | null, Caches>([[null, made(null)]]);
    for (const [name, adapter] of loaded) caches.set(name, made(adapter));
    return new Runner(config, session, options, caches);
  }

  /** The slots of the longest cached beginning; the least recently used others are forgotten, as `cached_tokens` says. */
  keep({ pool }: Cache, tokens: readonly number[], limit = tokens.length): number[] {
    const path = pool.match(tokens, limit);
    pool.trim(path.slice(-1), this.cached_tokens);
    return path;
  }

  /** How many tokens one run may take after so many cached ones. */
  chunk_size(cached: number): number {
    const { chunk_tokens = 256 } = this.options;
    const per_token = this.config.num_attention_heads * (cached + chunk_tokens);
    return Math.max(1, Math.min(chunk_tokens, Math.floor(MAX_SCORES / per_token)));
  }

  async release(): Promise<void> {
    for (const { generation, scoring } of this.caches.values())
      for (const { pool } of [generation, scoring]) pool.clear();
    await this.session.release();
  }

  /**
   * Computes a tree of tokens, chunk by chunk, and returns the slots of those that stay. `path` holds the slots of its first nodes,
   * which are there already; with `forget`, only those are there afterwards.
   */
  async grow(
    cache: Cache,
    nodes: readonly Placed[],
    path: readonly number[],
    { wanted = () => false, on_logits, on_router, forget = false, signal }: Growth,
  ): Promise<number[]> {
    const { pool } = cache;
    const slots = [...path];
    try {
      for (let at = path.length; at < nodes.length; ) {
        const chunk = nodes.slice(at, at + this.chunk_size(at));
        const rows = [...chunk.keys()].filter((i) => wanted(at + i));
        const placed = chunk.map(({ token_id, parent }) => ({
          slot: parent < 0 ? ROOT : parent < at ? slots[parent]! : NEW + parent - at,
          token_id,
        }));
        const store = !(forget && at + chunk.length === nodes.length);
        const result = await this.run(cache, [placed], rows, signal, store);
        for (const [i, row] of rows.entries()) on_logits?.(result.logits[i]!, at + row);
        if (on_router && result.router_logits) on_router(result.router_logits);
        if (store) slots.push(...result.slots);
        at += chunk.length;
      }
      return slots;
    } finally {
      if (forget) pool.remove(slots.slice(path.length));
    }
  }

  /**
   * Computes new tokens of some sequences, equally many of each and each after the slot that it names (`NEW + i` for the i-th of its
   * sequence), keeps their keys and values unless `store` is false, and returns the slots of all and the logits at `wanted` of them,
   * counted through all sequences. When it fails, the pool is as it was.
   */
  async run(
    cache: Cache,
    sequences: readonly (readonly NewToken[])[],
    wanted: readonly number[],
    signal: Abort | undefined,
    store = true,
  ): Promise<{ slots: number[]; logits: Float32Array[]; router_logits?: Float32Array }> {
    const { config } = this;
    const { pool } = cache;
    const slots: number[] = [];
    try {
      const seen = sequences.map((tokens) => before(pool, tokens));
      for (const tokens of sequences) {
        const first = slots.length;
        for (const { slot, token_id } of tokens)
          slots.push(pool.add(slot >= NEW ? slots[first + slot - NEW]! : slot, token_id));
      }
      // ONNX Runtime's TopK divides by the number of rows when it has threads to share them: there is always one.
      const rows = wanted.length > 0 ? wanted : [slots.length - 1];
      const whole = is_whole(pool, seen);
      const cached = whole ? pool.capacity : Math.max(...seen.map(({ length }) => length));
      const past_slots = new Int32Array(whole ? 0 : sequences.length * cached);
      if (!whole) for (const [i, own] of seen.entries()) past_slots.set(own, i * cached);
      const feeds: Feeds = {
        ...cache.feeds,
        input_ids: int64(sequences.flatMap((tokens) => tokens.map(({ token_id }) => token_id))),
        position_ids: int64(slots.map((slot) => pool.position_of(slot))),
        attention_bias: this.bias(pool, sequences, seen, slots, cached),
        logits_rows: int64(rows),
        past_slots: int32(past_slots, [sequences.length, whole ? 0 : cached]),
        past_is_whole: bool(whole),
      };
      const dims = [config.num_key_value_heads, pool.capacity, config.head_dim];
      for (const [layer, { key, value }] of pool.tensors.entries()) {
        feeds[`past_key.${layer}`] = floats(key, dims);
        feeds[`past_value.${layer}`] = floats(value, dims);
      }
      if (signal?.aborted) throw aborted();
      const outputs = await this.session.run(feeds);
      if (store) pool.store(floats_of(outputs.present!), slots);
      else pool.remove(slots);
      const all = outputs.logits!.data as Float32Array;
      const logits = wanted.map((_, i) => all.subarray(i * config.vocab_size, (i + 1) * config.vocab_size));
      const router = outputs.router_logits?.data as Float32Array | undefined;
      return { slots, logits, ...(router ? { router_logits: router } : {}) };
    } catch (error) {
      pool.remove(slots);
      throw error;
    }
  }

  /**
   * `[sequences, 1, length, cached + length]`: every token sees itself and its ancestors, within the sliding window if there is one.
   * `seen` are the cached slots of each sequence, `cached` the columns that there are for them.
   */
  private bias(
    pool: Pool,
    sequences: readonly (readonly NewToken[])[],
    seen: readonly (readonly number[])[],
    slots: readonly number[],
    cached: number,
  ): Tensor {
    const { length } = sequences[0]!;
    const width = cached + length;
    const bias = new Float32Array(slots.length * width).fill(HIDDEN);
    const window = this.config.sliding_window;
    for (const [sequence, tokens] of sequences.entries()) {
      const first = sequence * length;
      const own = seen[sequence]!;
      /** Columns of cached slots, for what sees only some of them. */
      let columns: Map<number, number> | null = null;
      for (const [i, { slot: parent }] of tokens.entries()) {
        const start = (first + i) * width;
        bias[start + cached + i] = 0;
        if (window === null && parent >= NEW) {
          const row = (first + parent - NEW) * width;
          for (let column = 0; column < cached + i; column++) bias[start + column] = bias[row + column]!;
        } else if (window === null && pool.position_of(slots[first + i]!) === own.length)
          bias.fill(0, start, start + own.length);
        else {
          columns ??= new Map([
            ...own.map((slot, column): [number, number] => [slot, column]),
            ...tokens.map((_, column): [number, number] => [slots[first + column]!, cached + column]),
          ]);
          let at = slots[first + i]!;
          for (
            let seen = 0;
            at !== ROOT && seen < (window ?? Number.POSITIVE_INFINITY);
            seen++, at = pool.parent_of(at)
          )
            bias[start + columns.get(at)!] = 0;
        }
      }
    }
    return float32(bias, [sequences.length, 1, length, width]);
  }
}

/** Whether there is one sequence, and its slots are the first and most of all: reading the few others costs less than a copy. */
function is_whole({ capacity }: Pool, seen: readonly (readonly number[])[]): boolean {
  const [own] = seen;
  if (seen.length > 1 || own!.length < 0.75 * capacity) return false;
  return own!.every((slot, i) => slot === i);
}

/** The cached slots on which the tokens of a sequence stand. */
function before(pool: Pool, tokens: readonly NewToken[]): number[] {
  const [first, ...others] = [...new Set(tokens.map(({ slot }) => slot).filter((slot) => slot < NEW))];
  const path = pool.path_to(first!);
  if (others.length === 0) return path;
  const all = new Set(path);
  for (const slot of others) for (let at = slot; at !== ROOT && !all.has(at); at = pool.parent_of(at)) all.add(at);
  return [...all];
}

/** The inputs of every tensor that some adapter changes; those that change nothing where this one does not, and for the base. */
function adapter_feeds(adapter: Adapter | null, adapted: Adapted, config: ModelConfig): Feeds {
  const feeds: Feeds = {};
  const shapes = adaptable_tensors(config);
  const keep = (name: string, replaces = false) => {
    feeds[keep_name(name)] = float32(Float32Array.of(replaces ? 0 : 1), []);
  };
  for (const name of adapted.matrices) {
    const [rows, columns] = shapes.get(name) as [number, number];
    const none = { rank: 0, scale: 1, a: new Float32Array(), b: new Float32Array(), replaces: false };
    const { rank, scale, a, b, replaces } = adapter?.pairs.get(name) ?? none;
    feeds[lora_a_name(name)] = float32(a, [rank, columns]);
    feeds[lora_b_name(name)] = float32(scale === 1 ? b : b.map((value) => value * scale), [rows, rank]);
    if (adapted.replaced.has(name)) keep(name, replaces);
  }
  for (const name of adapted.vectors) {
    const size = shapes.get(name)![0]!;
    const values = adapter?.vectors.get(name);
    feeds[replacement_name(name)] = float32(values ?? new Float32Array(size), [size]);
    keep(name, values !== undefined);
  }
  return feeds;
}
