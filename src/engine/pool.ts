/**
 * The keys and values of every cached token, as a tree: a token's parent is the token before it, so sequences that begin
 * alike share their beginning, and what a sequence sees is its path to the root. One structure is the cache of a chat,
 * of a batch, of continuations of one context and of prompts seen earlier.
 *
 * A slot is a row of every layer's tensors `[kv_heads, capacity, head_dim]`. The graph multiplies all rows up to the
 * capacity, so the capacity follows the use in small steps.
 */
const STEP = 256;
export const ROOT = -1;

/** float16 values are kept as their bits: only the graph computes with them. */
type CacheTensor = Float32Array | Uint16Array;

export interface PoolShape {
  dtype: "float32" | "float16";
  layers: number;
  kv_heads: number;
  head_dim: number;
}

export class Pool {
  capacity = 0;
  /** A layer's keys and values, each `[kv_heads, capacity, head_dim]`. */
  tensors: { key: CacheTensor; value: CacheTensor }[];
  private used = 0;
  private token: number[] = [];
  private parent: number[] = [];
  private depth: number[] = [];
  private last_use: number[] = [];
  private readonly children = new Map<string, number>();
  private clock = 0;

  constructor(private readonly shape: PoolShape) {
    this.tensors = Array.from({ length: shape.layers }, () => ({
      key: this.allocate(0),
      value: this.allocate(0),
    }));
  }

  /** Slots in use. */
  get size(): number {
    return this.used;
  }

  /**
   * The slots of the longest cached part of `tokens`, up to `limit`: from the beginning, or from token `from` on, after the slot
   * `after` of the token before it.
   */
  match(tokens: readonly number[], limit = tokens.length, after = ROOT, from = 0): number[] {
    const path: number[] = [];
    let at = after;
    this.clock++;
    while (from + path.length < limit) {
      const next = this.children.get(`${at} ${tokens[from + path.length]}`);
      if (next === undefined) break;
      this.last_use[next] = this.clock;
      path.push((at = next));
    }
    return path;
  }

  /** A new slot after `parent`. It has keys and values, and room for them, from `store` on. */
  add(parent: number, token: number): number {
    const slot = this.used++;
    this.token[slot] = token;
    this.parent[slot] = parent;
    this.depth[slot] = parent === ROOT ? 0 : this.depth[parent]! + 1;
    this.last_use[slot] = this.clock;
    const key = `${parent} ${token}`;
    if (!this.children.has(key)) this.children.set(key, slot);
    return slot;
  }

  /** Takes back the slots from `size` on, which were added but not computed. */
  rollback(size: number): void {
    for (let slot = size; slot < this.used; slot++) {
      const key = `${this.parent[slot]} ${this.token[slot]}`;
      if (this.children.get(key) === slot) this.children.delete(key);
    }
    for (const list of [this.token, this.parent, this.depth, this.last_use]) list.length = size;
    this.used = size;
    this.shrink();
  }

  token_of(slot: number): number {
    return this.token[slot]!;
  }

  /** The token's place in its sequence, from 0. */
  position_of(slot: number): number {
    return this.depth[slot]!;
  }

  parent_of(slot: number): number {
    return this.parent[slot]!;
  }

  /** Takes in `present [layers, 2, kv_heads, slots.length, head_dim]`. */
  store(present: CacheTensor, slots: readonly number[]): void {
    const { kv_heads, head_dim } = this.shape;
    const rows = slots.length;
    // Not before: rows that hold nothing yet would be multiplied by the run that computes them.
    if (this.used > this.capacity) this.resize(Math.ceil(this.used / STEP) * STEP);
    const contiguous = slots.every((slot, i) => slot === slots[0]! + i);
    let from = 0;
    for (const { key, value } of this.tensors) {
      for (const tensor of [key, value]) {
        for (let head = 0; head < kv_heads; head++, from += rows * head_dim) {
          const base = head * this.capacity;
          if (contiguous) tensor.set(present.subarray(from, from + rows * head_dim), (base + slots[0]!) * head_dim);
          else
            for (let i = 0; i < rows; i++)
              tensor.set(
                present.subarray(from + i * head_dim, from + (i + 1) * head_dim),
                (base + slots[i]!) * head_dim,
              );
        }
      }
    }
  }

  /**
   * Forgets the least recently used tokens beyond `keep` in number, but none that a slot of `pinned` stands on, and closes the gaps.
   * Returns where a slot that is left lies now.
   */
  trim(pinned: readonly number[], keep: number): (slot: number) => number {
    const own = new Set<number>();
    for (let slot of pinned) for (; slot !== ROOT && !own.has(slot); slot = this.parent[slot]!) own.add(slot);
    const extra = this.used - own.size - keep;
    if (extra <= 0) return (slot) => slot;
    // A token is used whenever one after it is; later slots first, so that leaves go before what they stand on.
    for (let slot = this.used - 1; slot >= 0; slot--) {
      const parent = this.parent[slot]!;
      if (parent !== ROOT) this.last_use[parent] = Math.max(this.last_use[parent]!, this.last_use[slot]!);
    }
    const order = [...this.token.keys()].filter((slot) => !own.has(slot));
    order.sort((a, b) => this.last_use[a]! - this.last_use[b]! || b - a);
    const gone = new Set(order.slice(0, extra));
    const kept = [...this.token.keys()].filter((slot) => !gone.has(slot));
    const moved = new Map(kept.map((slot, i) => [slot, i]));
    this.move_rows(kept);
    this.token = kept.map((slot) => this.token[slot]!);
    this.depth = kept.map((slot) => this.depth[slot]!);
    this.last_use = kept.map((slot) => this.last_use[slot]!);
    this.parent = kept.map((slot) => (this.parent[slot] === ROOT ? ROOT : moved.get(this.parent[slot]!)!));
    this.used = kept.length;
    this.children.clear();
    for (let slot = kept.length - 1; slot >= 0; slot--)
      this.children.set(`${this.parent[slot]} ${this.token[slot]}`, slot);
    this.shrink();
    return (slot) => moved.get(slot)!;
  }

  /** Forgets everything. */
  clear(): void {
    this.trim([], 0);
  }

  private move_rows(kept: readonly number[]): void {
    const { kv_heads, head_dim } = this.shape;
    for (const { key, value } of this.tensors) {
      for (const tensor of [key, value]) {
        for (let head = 0; head < kv_heads; head++) {
          const base = head * this.capacity;
          for (const [to, from] of kept.entries()) {
            if (to !== from)
              tensor.copyWithin((base + to) * head_dim, (base + from) * head_dim, (base + from + 1) * head_dim);
          }
        }
      }
    }
  }

  private allocate(length: number): CacheTensor {
    return this.shape.dtype === "float16" ? new Uint16Array(length) : new Float32Array(length);
  }

  private shrink(): void {
    const capacity = Math.ceil(this.used / STEP) * STEP;
    if (capacity < this.capacity) this.resize(capacity);
  }

  private resize(capacity: number): void {
    const { kv_heads, head_dim } = this.shape;
    const rows = Math.min(capacity, this.capacity);
    const resized = (tensor: CacheTensor): CacheTensor => {
      const next = this.allocate(kv_heads * capacity * head_dim);
      for (let head = 0; head < kv_heads; head++) {
        const from = head * this.capacity * head_dim;
        next.set(tensor.subarray(from, from + rows * head_dim), head * capacity * head_dim);
      }
      return next;
    };
    this.tensors = this.tensors.map(({ key, value }) => ({ key: resized(key), value: resized(value) }));
    this.capacity = capacity;
  }
}
