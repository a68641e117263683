/**
 * Continuous batching: sequences join and leave between two runs of the model. A run takes one token of every sequence that is being
 * written and, in what room is left, the next piece of the prompts that are still being read; so nobody waits for a neighbour's
 * end, and a beginning that several share is computed once. Sequences of one adapter are one batch; adapters take turns.
 */
import { aborted, type BimedixError } from "../errors.js";
import type { Abort, EngineState, GeneratedToken, GenerateOptions } from "./engine.js";
import { ROOT } from "./pool.js";
import { type Cache, NEW, type Runner } from "./runner.js";
import { create_sampler, type Sampler, token_logprobs } from "./sampler.js";

/** A prompt that waits for a beginning of at least so many tokens, which another is just computing, instead of computing it too. */
const WORTH_WAITING = 16;

/** One prompt and what becomes of it. */
export class Sequence {
  /** What of the prompt has keys and values in the cache. */
  read = 0;
  /** The slot of the last token that was computed. */
  slot = ROOT;
  /** The token that the next run computes; null while the prompt is read. */
  next: number | null = null;
  left: number;
  private readonly sample: Sampler;
  private readonly seen: Set<number>;
  private readonly stop: ReadonlySet<number>;

  constructor(
    readonly prompt: readonly number[],
    private readonly number: number,
    private readonly options: GenerateOptions & { max_new_tokens: number },
    readonly cache: Cache,
    readonly signal: Abort | undefined,
    readonly on_token: (token: GeneratedToken) => void,
    /** Called once, when nothing more comes. */
    readonly on_end: (error?: unknown) => void,
  ) {
    const { eos_token_id } = options;
    this.left = options.max_new_tokens;
    this.sample = create_sampler(options, number);
    this.seen = new Set(prompt);
    this.stop = new Set(eos_token_id === null || eos_token_id === undefined ? [] : [eos_token_id].flat());
  }

  /** Takes the next token from its logits; whether the sequence goes on. */
  advance(logits: Float32Array, room: boolean): boolean {
    const { top_logprobs } = this.options;
    const own = logits.slice();
    const token_id = this.sample(own, this.seen);
    this.on_token({
      sequence: this.number,
      token_id,
      ...(top_logprobs === undefined ? {} : token_logprobs(logits, token_id, top_logprobs)),
    });
    this.seen.add(token_id);
    this.next = token_id;
    return !this.stop.has(token_id) && --this.left > 0 && room;
  }
}

export class Scheduler {
  private readonly waiting: Sequence[] = [];
  private running: Sequence[] = [];
  private work: Promise<void> | null = null;
  /** The cache whose turn it was last. */
  private last: Cache | null = null;
  /** Where sequences have ended since the last run. */
  private readonly untidy = new Set<Cache>();

  constructor(
    private readonly runner: Runner,
    /** Sequences that are computed at one time; the others wait. */
    private readonly max_sequences: number,
  ) {}

  get state(): Omit<EngineState, "cached_tokens"> {
    return { running: this.running.length, waiting: this.waiting.length };
  }

  add(sequence: Sequence): void {
    this.waiting.push(sequence);
    this.work ??= this.run();
  }

  /** Forgets a sequence, wherever it is; nothing more is heard of it. */
  remove(sequence: Sequence): void {
    const at = this.waiting.indexOf(sequence);
    if (at >= 0) this.waiting.splice(at, 1);
    if (this.running.includes(sequence)) this.leave([sequence]);
  }

  /** Resolves when there is nothing left to do. */
  async idle(): Promise<void> {
    await this.work;
  }

  private async run(): Promise<void> {
    // Whatever was asked for in the same moment begins together.
    await Promise.resolve();
    while (this.waiting.length + this.running.length > 0) {
      this.drop_aborted();
      this.tidy();
      this.admit();
      const cache = this.turn();
      if (cache) await this.step(cache);
      // Requests and aborts come in here.
      await new Promise<void>((resume) => setImmediate(resume));
    }
    // In the same moment as the last look: a sequence that comes later finds no work, and begins it.
    this.work = null;
  }

  private drop_aborted(): void {
    const gone = [...this.waiting, ...this.running].filter(({ signal }) => signal?.aborted);
    for (const sequence of gone) {
      this.remove(sequence);
      sequence.on_end(aborted());
    }
  }

  private admit(): void {
    while (this.waiting.length > 0 && this.running.length < this.max_sequences) {
      const sequence = this.waiting.shift()!;
      this.running.push(sequence);
      this.follow(sequence);
      this.trim(sequence.cache);
    }
  }

  /** The cache that is computed next: of those with sequences, the one after the last. */
  private turn(): Cache | null {
    const caches = [...new Set(this.running.map(({ cache }) => cache))];
    const next = caches[(caches.indexOf(this.last!) + 1) % caches.length] ?? null;
    this.last = next;
    return next;
  }

  /** One run of the model. */
  private async step(cache: Cache): Promise<void> {
    const { runner } = this;
    const own = this.running.filter((sequence) => sequence.cache === cache);
    const tokens: { slot: number; token_id: number }[] = [];
    const wanted: { row: number; sequence: Sequence }[] = [];
    const parts: { sequence: Sequence; first: number; count: number }[] = [];
    const writing = own.filter(({ next }) => next !== null);
    for (const sequence of writing) {
      wanted.push({ row: tokens.length, sequence });
      parts.push({ sequence, first: tokens.length, count: 1 });
      tokens.push({ slot: sequence.slot, token_id: sequence.next! });
    }
    const room = runner.chunk_size(cache);
    for (const sequence of own) {
      if (sequence.next !== null || tokens.length >= room) continue;
      this.follow(sequence);
      if (parts.some((part) => shares(part.sequence, sequence))) continue;
      const { prompt, read } = sequence;
      const count = Math.min(prompt.length - read, room - tokens.length);
      parts.push({ sequence, first: tokens.length, count });
      for (let i = 0; i < count; i++)
        tokens.push({ slot: i === 0 ? sequence.slot : NEW + tokens.length - 1, token_id: prompt[read + i]! });
      if (read + count === prompt.length) wanted.push({ row: tokens.length - 1, sequence });
    }
    let result: Awaited<ReturnType<Runner["run"]>>;
    try {
      result = await runner.run(
        cache,
        tokens,
        wanted.map(({ row }) => row),
        undefined,
      );
    } catch (error) {
      // A run that fails fails for all that were in it.
      this.leave(parts.map(({ sequence }) => sequence));
      for (const { sequence } of parts) sequence.on_end(error);
      return;
    }
    const here = new Set(this.running);
    for (const { sequence, first, count } of parts) {
      sequence.slot = result.slots[first + count - 1]!;
      if (sequence.next === null) sequence.read += count;
    }
    const ended: { sequence: Sequence; error?: BimedixError }[] = [];
    for (const [i, { sequence }] of wanted.entries()) {
      // Who left during the run is not told of it.
      if (!here.has(sequence)) continue;
      const room = cache.pool.position_of(sequence.slot) + 2 < runner.config.max_position_embeddings;
      try {
        if (!sequence.advance(result.logits[i]!, room)) ended.push({ sequence });
      } catch (error) {
        ended.push({ sequence, error: error as BimedixError });
      }
    }
    this.leave(ended.map(({ sequence }) => sequence));
    for (const { sequence, error } of ended) sequence.on_end(error);
  }

  /** Takes over what of a prompt is in the cache by now; the last token is always computed, for its logits. */
  private follow(sequence: Sequence): void {
    const { prompt, cache, slot, read } = sequence;
    const path = cache.pool.match(prompt, prompt.length - 1, slot, read);
    if (path.length === 0) return;
    sequence.slot = path.at(-1)!;
    sequence.read += path.length;
  }

  private leave(sequences: readonly Sequence[]): void {
    this.running = this.running.filter((sequence) => !sequences.includes(sequence));
    for (const { cache } of sequences) this.untidy.add(cache);
  }

  /** Between runs, since slots move. What the last sequence leaves behind stays: nobody pays for it, and the next may begin with it. */
  private tidy(): void {
    for (const cache of this.untidy) if (this.running.some((sequence) => sequence.cache === cache)) this.trim(cache);
    this.untidy.clear();
  }

  /** Forgets what no sequence stands on. */
  private trim(cache: Cache): void {
    const own = this.running.filter((sequence) => sequence.cache === cache);
    const moved = cache.pool.trim(
      own.map(({ slot }) => slot),
      this.runner.cached_tokens,
    );
    for (const sequence of own) if (sequence.slot !== ROOT) sequence.slot = moved(sequence.slot);
  }
}

/** Whether one is about to compute a beginning that the other would compute too. */
function shares(one: Sequence, other: Sequence): boolean {
  if (one.next !== null || one.read < other.read) return false;
  const end = Math.min(one.prompt.length, other.prompt.length - 1);
  let at = 0;
  while (at < end && one.prompt[at] === other.prompt[at]) at++;
  return at - other.read >= WORTH_WAITING;
}
