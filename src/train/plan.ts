/** Which examples each step sees: it depends on the recipe and the step alone, so a resumed run needs no more than its step. */
import { type Example, pack, to_batch } from "./data.js";
import { type Batch, mix } from "./network.js";
import type { Recipe } from "./recipe.js";

export class Plan {
  readonly steps: number;
  private readonly lengths: number[];
  private readonly epochs = new Map<number, number[][]>();

  constructor(
    private readonly recipe: Recipe,
    private readonly data: readonly Example[],
  ) {
    this.lengths = data.map(({ input_ids }) => input_ids.length);
    this.steps = recipe.max_steps ?? 0;
    if (recipe.num_epochs === undefined) return;
    // Epochs differ a little in how well they pack.
    let steps = 0;
    for (let epoch = 0; epoch < Math.floor(recipe.num_epochs); epoch++) steps += this.steps_of(epoch);
    const part = recipe.num_epochs % 1;
    this.steps = steps + (part > 0 ? Math.ceil(part * this.steps_of(Math.floor(recipe.num_epochs))) : 0);
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
    let epoch = 0;
    let first = 0;
    for (; step >= first + this.steps_of(epoch); epoch++) first += this.steps_of(epoch);
    return { epoch, first };
  }

  private steps_of(epoch: number): number {
    const { micro_batch_size, gradient_accumulation_steps } = this.recipe;
    return Math.ceil(this.rows(epoch).length / (micro_batch_size * gradient_accumulation_steps));
  }

  private rows(epoch: number): number[][] {
    let rows = this.epochs.get(epoch);
    if (!rows) {
      rows = pack(this.lengths, this.recipe.sequence_len, this.recipe.sample_packing, mix(this.recipe.seed, epoch));
      this.epochs.set(epoch, rows);
    }
    return rows;
  }
}
