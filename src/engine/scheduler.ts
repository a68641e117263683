/**
 * Continuous batching: sequences join and leave between two runs of the model. A step takes one token of every sequence that is being
 * written and then the next piece of some prompts that are still being read; so nobody waits for a neighbour's end, and a
 * beginning that several share is computed once. Sequences of one adapter are one batch; adapters take turns.
 */
import { aborted, type BimedixError } from "../errors.js";
import type { Abort, EngineState, GeneratedToken, GenerateOptions } from "./engine.js";
import { type Pool, ROOT } from "./pool.js";
import { type Cache, NEW, type Runner } from "./runner.js";
import { create_sampler, type Sampler, token_logprobs } from "./sampler.js";

/** A prompt that waits for a beginning of at least so many tokens, which another is just computing, instead of computing it too. */
const WORTH_WAITING = 16;

/** So many cached tokens more cost less than a run of their own. */
const MUCH = 512;

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
    this.sample = create_sampler(options, prompt, number);
    this.stop = new Set(eos_token_id === null || eos_token_id === undefined ? [] : [eos_token_id].flat());
  }

  /** Takes the next token from its logits; whether the sequence goes on. */
  advance(logits: Float32Array, room: boolean): boolean {
    const { top_logprobs } = this.options;
    const token_id = this.sample(logits);
    this.on_token({
      sequence: this.number,
      token_id,
      ...(top_logprobs === undefined ? {} : token_logprobs(logits, token_id, top_logprobs)),
    });
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
  private oldest_leads = false;
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

  /** One token of every sequence that is written, and a piece of what is read. */
  private async step(cache: Cache): Promise<void> {
    const own = this.running.filter((sequence) => sequence.cache === cache);
    for (const sequence of own) if (sequence.next === null) this.follow(sequence);
    const single = own.filter(({ next, prompt, read }) => next !== null || prompt.length - read === 1);
    for (const group of of_like_length(single, cache.pool)) await this.compute(cache, group, 1);
    const unread = own.filter(({ next, prompt, read }) => next === null && prompt.length - read > 1);
    // The oldest and the shortest lead in turns: nobody waits for the end of a long prompt, and no long prompt for ever.
    this.oldest_leads = !this.oldest_leads;
    const left = ({ prompt, read }: Sequence) => prompt.length - read;
    if (!this.oldest_leads) unread.sort((a, b) => left(a) - left(b));
    // Pieces of one run are equally long: as the first can be. Who has as much left joins, while there is room.
    const reading: Sequence[] = [];
    let [length, room] = [0, 0];
    for (const sequence of unread) {
      if (reading.length === 0) {
        room = this.runner.chunk_size(sequence.read);
        length = Math.min(left(sequence), room);
      }
      if (left(sequence) < length || room < length || reading.some((other) => shares(other, sequence))) continue;
      reading.push(sequence);
      room -= length;
    }
    if (reading.length > 0) await this.compute(cache, reading, length);
  }

  /** One run of the model: the next `length` tokens of some sequences. */
  private async compute(cache: Cache, sequences: readonly Sequence[], length: number): Promise<void> {
    const { runner } = this;
    const tokens = sequences.map(({ slot, next, prompt, read }) =>
      next !== null
        ? [{ slot, token_id: next }]
        : Array.from({ length }, (_, i) => ({ slot: i === 0 ? slot : NEW + i - 1, token_id: prompt[read + i]! })),
    );
    /** Whose next token is read from this run. */
    const writing = sequences.filter(({ next, prompt, read }) => next !== null || read + length === prompt.length);
    const rows = writing.map((sequence) => (sequences.indexOf(sequence) + 1) * length - 1);
    let result: Awaited<ReturnType<Runner["run"]>>;
    try {
      result = await runner.run(cache, tokens, rows, undefined);
    } catch (error) {
      // A run that fails fails for all that were in it.
      this.leave(sequences);
      for (const sequence of sequences) sequence.on_end(error);
      return;
    }
    const here = new Set(this.running);
    for (const [i, sequence] of sequences.entries()) {
      sequence.slot = result.slots[(i + 1) * length - 1]!;
      if (sequence.next === null) sequence.read += length;
    }
    const ended: { sequence: Sequence; error?: BimedixError }[] = [];
    for (const [i, sequence] of writing.entries()) {
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

  /** Between steps. What the last sequence leaves behind stays: nobody pays for it, and the next may begin with it. */
  private tidy(): void {
    for (const cache of this.untidy) if (this.running.some((sequence) => sequence.cache === cache)) this.trim(cache);
    this.untidy.clear();
  }

  /** Forgets what no sequence stands on. */
  private trim(cache: Cache): void {
    const own = this.running.filter((sequence) => sequence.cache === cache);
    cache.pool.trim(
      own.map(({ slot }) => slot),
      this.runner.cached_tokens,
    );
  }
}

/** In groups in which nobody is much longer than another: a run computes as if all were as long as the longest. */
export function of_like_length<T extends { slot: number }>(
  sequences: readonly T[],
  pool: Pick<Pool, "position_of">,
): T[][] {
  const groups: T[][] = [];
  let limit = -1;
  const length_of = ({ slot }: T) => (slot === ROOT ? 0 : pool.position_of(slot) + 1);
  for (const sequence of sequences.toSorted((a, b) => length_of(a) - length_of(b))) {
    if (length_of(sequence) > limit) {
      groups.push([]);
      limit = 2 * length_of(sequence) + MUCH;
    }
    groups.at(-1)!.push(sequence);
  }
  return groups;
}

/** Whether one is about to compute a beginning that the other would compute too. */
function shares(one: Sequence, other: Sequence): boolean {
  if (one.next !== null || one.read < other.read) return false;
  const end = Math.min(one.prompt.length, other.prompt.length - 1);
  let at = 0;
  while (at < end && one.prompt[at] === other.prompt[at]) at++;
  return at - other.read >= WORTH_WAITING;
}
