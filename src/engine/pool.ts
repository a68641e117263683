/**
 * The keys and values of every cached token, as a tree: a token's parent is the token before it, so sequences that begin
 * alike share their beginning, and what a sequence sees is its path to the root. One structure is the cache of a chat,
 * of a batch, of continuations of one context and of prompts seen earlier.
 *
 * A slot is a row of every layer's tensors `[kv_heads, capacity, head_dim]`, and stays where it is until it is forgotten and given to
 * another token. Nobody pays for slots that are not on their path: the graph reads those alone.
 */
export const ROOT = -1;

/** float16 values are kept as their bits: only the graph computes with them. */
type CacheTensor = Float32Array | Uint16Array;

export interface PoolShape {
  dtype: "float32" | "float16";
  layers: number;
  kv_heads: number;
  head_dim: number;
}

/** The capacity grows in steps of so many slots, and of larger ones where a copy of all is long. */
const STEP = 256;

function capacity_for(slots: number): number {
  const step = Math.max(STEP, 2 ** Math.floor(Math.log2(slots / 8)));
  return Math.ceil(slots / step) * step;
}

export class Pool {
  capacity = 0;
  /** A layer's keys and values, each `[kv_heads, capacity, head_dim]`. */
  tensors: { key: CacheTensor; value: CacheTensor }[];
  private token: number[] = [];
  private parent: number[] = [];
  private depth: number[] = [];
  private last_use: number[] = [];
  private readonly children = new Map<string, number>();
  /** Slots below the highest that hold no token. */
  private readonly free = new Set<number>();
  private clock = 0;

  constructor(private readonly shape: PoolShape) {
    this.tensors = Array.from({ length: shape.layers }, () => ({
      key: this.allocate(0),
      value: this.allocate(0),
    }));
  }

  /** Slots in use. */
  get size(): number {
    return this.token.length - this.free.size;
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

  /** A slot for a token after `parent`. It has keys and values, and room for them, from `store` on. */
  add(parent: number, token: number): number {
    const [given] = this.free;
    const slot = given ?? this.token.length;
    this.free.delete(slot);
    this.token[slot] = token;
    this.parent[slot] = parent;
    this.depth[slot] = parent === ROOT ? 0 : this.depth[parent]! + 1;
    this.last_use[slot] = this.clock;
    const key = `${parent} ${token}`;
    if (!this.children.has(key)) this.children.set(key, slot);
    return slot;
  }

  /** Forgets tokens on which none that is left stands. */
  remove(slots: Iterable<number>): void {
    for (const slot of slots) {
      const key = `${this.parent[slot]} ${this.token[slot]}`;
      if (this.children.get(key) === slot) this.children.delete(key);
      this.free.add(slot);
    }
    let length = this.token.length;
    while (this.free.delete(length - 1)) length--;
    for (const list of [this.token, this.parent, this.depth, this.last_use]) list.length = length;
    // At once, so that what a run computes depends on what is cached and not on what was.
    const capacity = capacity_for(length);
    if (capacity < this.capacity) this.resize(capacity);
  }

  /** The token's place in its sequence, from 0. */
  position_of(slot: number): number {
    return this.depth[slot]!;
  }

  parent_of(slot: number): number {
    return this.parent[slot]!;
  }

  /** The slots from the root to `slot`. */
  path_to(slot: number): number[] {
    const path: number[] = [];
    for (let at = slot; at !== ROOT; at = this.parent[at]!) path.push(at);
    return path.reverse();
  }

  /** Takes in `present [layers, 2, kv_heads, slots.length, head_dim]`. */
  store(present: CacheTensor, slots: readonly number[]): void {
    const { kv_heads, head_dim } = this.shape;
    const rows = slots.length;
    // Not before: rows that hold nothing yet need no room.
    if (this.token.length > this.capacity) this.resize(capacity_for(this.token.length));
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

  /** Forgets the least recently used tokens beyond `keep` in number, but none that a slot of `pinned` stands on. */
  trim(pinned: readonly number[], keep: number): void {
    const own = new Set<number>();
    for (let slot of pinned) for (; slot !== ROOT && !own.has(slot); slot = this.parent[slot]!) own.add(slot);
    const extra = this.size - own.size - keep;
    if (extra <= 0) return;
    const others = [...this.token.keys()].filter((slot) => !this.free.has(slot) && !own.has(slot));
    // A token is used whenever one after it is; so, of equal use, leaves go before what they stand on.
    others.sort((a, b) => this.depth[b]! - this.depth[a]!);
    for (const slot of others) {
      const parent = this.parent[slot]!;
      if (parent !== ROOT) this.last_use[parent] = Math.max(this.last_use[parent]!, this.last_use[slot]!);
    }
    others.sort((a, b) => this.last_use[a]! - this.last_use[b]! || this.depth[b]! - this.depth[a]!);
    this.remove(others.slice(0, extra));
  }

  /** Forgets everything. */
  clear(): void {
    this.trim([], 0);
  }

  private allocate(length: number): CacheTensor {
    return this.shape.dtype === "float16" ? new Uint16Array(length) : new Float32Array(length);
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
