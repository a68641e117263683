/**
 * What lm-evaluation-harness takes from Python and its results depend on: the random choice of few-shot examples, how numbers are
 * written as text, and the hashes of documents and prompts.
 */
import { createHash } from "node:crypto";

/** `str(x)` of a float: the same shortest digits as here, with an exponent from other sizes on. */
export function float_string(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-4 || size >= 1e16)) {
    return x.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  const text = x.toString();
  return Number.isInteger(x) ? `${text}.0` : text;
}

export const sha256 = (text: string): string => createHash("sha256").update(text, "utf8").digest("hex");

/** The harness's hash of a document: of `json.dumps(doc, indent=2, ensure_ascii=False)`, which for its values is this. */
export const document_hash = (doc: unknown): string => sha256(JSON.stringify(doc, null, 2));

const N = 624;
const M = 397;

/** Python's `random.Random(seed)`, as far as `sample` needs it: MT19937, seeded by `init_by_array`. */
export class PythonRandom {
  private readonly state = new Uint32Array(N);
  private at = N;

  /** @param seed an integer from 0 to 2^32 - 1 */
  constructor(seed: number) {
    const { state } = this;
    state[0] = 19650218;
    for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1]! ^ (state[i - 1]! >>> 30)) + i;
    let i = 1;
    const mix = (factor: number) => Math.imul(state[i - 1]! ^ (state[i - 1]! >>> 30), factor);
    const step = () => {
      if (++i < N) return;
      state[0] = state[N - 1]!;
      i = 1;
    };
    for (let k = 0; k < N; k++) {
      state[i] = (state[i]! ^ mix(1664525)) + seed;
      step();
    }
    for (let k = 0; k < N - 1; k++) {
      state[i] = (state[i]! ^ mix(1566083941)) - i;
      step();
    }
    state[0] = 0x80000000;
  }

  /** `count` different members, in the order in which `Random.sample` draws them. */
  sample<T>(members: readonly T[], count: number): T[] {
    const n = members.length;
    if (count > n) throw new RangeError(`${count} of ${n} members`);
    const set_size = 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
    if (n <= set_size) {
      const pool = [...members];
      return Array.from({ length: count }, (_, i) => {
        const j = this.below(n - i);
        const drawn = pool[j]!;
        pool[j] = pool[n - i - 1]!;
        return drawn;
      });
    }
    const drawn = new Set<number>();
    while (drawn.size < count) drawn.add(this.below(n));
    return [...drawn].map((j) => members[j]!);
  }

  /** An integer from 0 to n - 1. */
  below(n: number): number {
    const bits = 32 - Math.clz32(n);
    let value = this.next() >>> (32 - bits);
    while (value >= n) value = this.next() >>> (32 - bits);
    return value;
  }

  private next(): number {
    const { state } = this;
    if (this.at === N) {
      for (let i = 0; i < N; i++) {
        const y = (state[i]! & 0x80000000) | (state[(i + 1) % N]! & 0x7fffffff);
        state[i] = state[(i + M) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = state[this.at++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }
}
