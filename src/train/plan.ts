/** Which examples each step sees: it depends on the recipe and the step alone, so a resumed run needs no more than its step. */
import { type Example, pack, to_batch } from "./data.js";
import { type Batch, mix } from "./network.js";
import type { Recipe } from "./recipe.js";

export class Plan {
  readonly steps: number;
  private readonly lengths: number[];
  /** The step with which each epoch begins, as far as they are known. */
  private readonly firsts = [0];
  /** The rows of the epoch that was looked at last: all of them together may not fit. */
  private latest: { epoch: number; rows: number[][] } | null = null;

  constructor(
    private readonly recipe: Recipe,
    private readonly data: readonly Example[],
  ) {
    this.lengths = data.map(({ input_ids }) => input_ids.length);
    this.steps = recipe.max_steps ?? 0;
    if (recipe.num_epochs === undefined) return;
    // Epochs differ a little in how well they pack.
    const whole = Math.floor(recipe.num_epochs);
    const part = recipe.num_epochs % 1;
    this.steps = this.first(whole) + (part > 0 ? Math.ceil(part * this.steps_of(whole)) : 0);
  }

  /** The micro-batches of a step. */
  batches(step: number): Batch[] {
    const { micro_batch_size, gradient_accumulation_steps } = this.recipe;
    const { epoch, first } = this.locate(step);
    const size = micro_batch_size * gradient_accumulation_steps;
    const rows = this.rows(epoch).slice((step - first) * size, (step - first + 1) * size);
    const batches: Batch[] = [];
    for (let at = 0; at < rows.length; at += micro_batch_size) {
      const own = rows.slice(at, at + micro_batch_size);
      batches.push(
        to_batch(
          own.map((row) => row.map((index) => this.data[index]!)),
          micro_batch_size,
        ),
      );
    }
    return batches;
  }

  epoch_at(step: number): number {
    const { epoch, first } = this.locate(step);
    return Number((epoch + (step - first) / this.steps_of(epoch)).toFixed(4));
  }

  private locate(step: number): { epoch: number; first: number } {
    while (this.firsts.at(-1)! <= step) this.first(this.firsts.length);
    const epoch = this.firsts.findLastIndex((first) => first <= step);
    return { epoch, first: this.firsts[epoch]! };
  }

  /** The step with which an epoch begins. */
  private first(epoch: number): number {
    for (let known = this.firsts.length; known <= epoch; known++)
      this.firsts.push(this.firsts.at(-1)! + this.count(known - 1));
    return this.firsts[epoch]!;
  }

  private steps_of(epoch: number): number {
    return this.first(epoch + 1) - this.first(epoch);
  }

  private count(epoch: number): number {
    const { sample_packing, micro_batch_size, gradient_accumulation_steps } = this.recipe;
    // Unpacked, every epoch has as many rows.
    const rows = sample_packing ? this.rows(epoch).length : this.lengths.length;
    return Math.ceil(rows / (micro_batch_size * gradient_accumulation_steps));
  }

  private rows(epoch: number): number[][] {
    if (this.latest?.epoch !== epoch) {
      const { sequence_len, sample_packing, seed } = this.recipe;
      this.latest = { epoch, rows: pack(this.lengths, sequence_len, sample_packing, mix(seed, epoch)) };
    }
    return this.latest.rows;
  }
}
