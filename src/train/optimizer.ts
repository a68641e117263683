/** AdamW, gradient clipping and schedules of the learning rate, as torch and transformers define them. */
import type { Parameter } from "./network.js";

export interface AdamWOptions {
  beta1: number;
  beta2: number;
  epsilon: number;
  weight_decay: number;
}

/** Source: https://arxiv.org/abs/1711.05101, as torch.optim.AdamW orders the operations. */
export class AdamW {
  /** Steps taken. */
  step_count = 0;
  /** A parameter: the running means of its gradient and of the gradient's square. */
  readonly moments: ReadonlyMap<string, { mean: Float32Array; square: Float32Array }>;

  constructor(
    private readonly parameters: ReadonlyMap<string, Parameter>,
    private readonly options: AdamWOptions,
  ) {
    this.moments = new Map(
      [...parameters].map(([name, { data }]) => [
        name,
        { mean: new Float32Array(data.length), square: new Float32Array(data.length) },
      ]),
    );
  }

  /** Changes the parameters by their gradients times `scale`, and clears these. */
  step(learning_rate: number, scale: number): void {
    const { beta1, beta2, epsilon, weight_decay } = this.options;
    this.step_count++;
    const correction1 = 1 - beta1 ** this.step_count;
    const correction2 = Math.sqrt(1 - beta2 ** this.step_count);
    const step_size = learning_rate / correction1;
    for (const [name, { shape, data, gradient }] of this.parameters) {
      const { mean, square } = this.moments.get(name)!;
      // Norms are not decayed: a decayed norm only asks the matrix behind it to grow.
      const keep = shape.length > 1 ? 1 - learning_rate * weight_decay : 1;
      for (let i = 0; i < data.length; i++) {
        const g = gradient[i]! * scale;
        const m = (mean[i] = beta1 * mean[i]! + (1 - beta1) * g);
        const v = (square[i] = beta2 * square[i]! + (1 - beta2) * g * g);
        data[i] = keep * data[i]! - (step_size * m) / (Math.sqrt(v) / correction2 + epsilon);
      }
      gradient.fill(0);
    }
  }
}

/** The Euclidean norm of all gradients together; not finite as soon as one is not. */
export function gradient_norm(parameters: ReadonlyMap<string, Parameter>): number {
  let total = 0;
  for (const { gradient } of parameters.values()) for (let i = 0; i < gradient.length; i++) total += gradient[i]! ** 2;
  return Math.sqrt(total);
}

/** What gradients of this norm are multiplied by so that it is at most `max` (0 never clips). Source: torch.nn.utils.clip_grad_norm_ */
export const clip_scale = (norm: number, max: number): number => (max > 0 ? Math.min(1, max / (norm + 1e-6)) : 1);

export const schedules = ["constant", "linear", "cosine"] as const;
export type Schedule = (typeof schedules)[number];

/** The share of the peak learning rate at `step`, from 0. Source: transformers/optimization.py */
export function schedule_at(
  schedule: Schedule,
  step: number,
  { warmup, total }: { warmup: number; total: number },
): number {
  if (step < warmup) return step / Math.max(1, warmup);
  const progress = (step - warmup) / Math.max(1, total - warmup);
  if (schedule === "constant") return 1;
  if (schedule === "linear") return Math.max(0, 1 - progress);
  return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
}
