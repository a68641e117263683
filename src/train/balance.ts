/**
 * The load-balancing loss of a mixture of experts, as transformers computes it: over the router logits of all layers together.
 * That is least where the layers together are even, so that one layer may starve an expert that another feeds; see `balance_each`.
 * Source: load_balancing_loss_func in transformers/models/mixtral/modeling_mixtral.py; https://arxiv.org/abs/2101.03961, equations 4 to 6.
 */
export interface Balance {
  /** 1 would be `num_experts_per_tok` for an even load. */
  aux_loss: number;
  /** A layer: float32 `[tokens, experts]`, the derivative of aux_loss by its router logits. */
  gradients: Float32Array[];
  /** A layer: the share of choices that each expert got. */
  load: number[][];
  /** A layer: the mean entropy of the router's probabilities, in nats. */
  entropy: number[];
}

export interface BalanceOptions {
  experts: number;
  top_k: number;
  /** Whether a token counts; padding does not. */
  counted: (token: number) => boolean;
}

/** The mean of the layers' own losses: least where every layer is even. */
export function balance_each(router_logits: readonly Float32Array[], options: BalanceOptions): Balance {
  const layers = router_logits.map((logits) => balance([logits], options));
  return {
    aux_loss: layers.reduce((sum, { aux_loss }) => sum + aux_loss, 0) / (layers.length || 1),
    gradients: layers.flatMap(({ gradients }) => gradients.map((all) => all.map((value) => value / layers.length))),
    load: layers.flatMap(({ load }) => load),
    entropy: layers.flatMap(({ entropy }) => entropy),
  };
}

/** @param router_logits a layer: float32 `[tokens, experts]` */
export function balance(router_logits: readonly Float32Array[], { experts, top_k, counted }: BalanceOptions): Balance {
  const probabilities = router_logits.map((logits) => softmax_rows(logits, experts));
  const tokens = (router_logits[0]?.length ?? 0) / experts;
  const total_load = new Float64Array(experts);
  const total_probability = new Float64Array(experts);
  let rows = 0;
  for (let token = 0; token < tokens; token++) if (counted(token)) rows++;
  const load: number[][] = [];
  const entropy: number[] = [];
  for (const [layer, logits] of router_logits.entries()) {
    const own = new Float64Array(experts);
    let nats = 0;
    for (let token = 0; token < tokens; token++) {
      if (!counted(token)) continue;
      const at = token * experts;
      for (const expert of largest(logits.subarray(at, at + experts), top_k)) own[expert]!++;
      for (let e = 0; e < experts; e++) {
        const p = probabilities[layer]![at + e]!;
        total_probability[e]! += p;
        if (p > 0) nats -= p * Math.log(p);
      }
    }
    for (let e = 0; e < experts; e++) total_load[e]! += own[e]!;
    load.push(Array.from(own, (count) => count / (rows * top_k || 1)));
    entropy.push(nats / (rows || 1));
  }
  const count = rows * router_logits.length || 1;
  let aux_loss = 0;
  for (let e = 0; e < experts; e++) aux_loss += (experts * total_load[e]! * total_probability[e]!) / count ** 2;
  const gradients = probabilities.map((all) => {
    const gradient = new Float32Array(all.length);
    for (let token = 0; token < tokens; token++) {
      if (!counted(token)) continue;
      const at = token * experts;
      let mean = 0;
      for (let e = 0; e < experts; e++) mean += all[at + e]! * total_load[e]!;
      for (let e = 0; e < experts; e++)
        gradient[at + e] = (experts * all[at + e]! * (total_load[e]! - mean)) / count ** 2;
    }
    return gradient;
  });
  return { aux_loss, gradients, load, entropy };
}

function softmax_rows(logits: Float32Array, width: number): Float32Array {
  const result = new Float32Array(logits.length);
  for (let at = 0; at < logits.length; at += width) {
    let max = Number.NEGATIVE_INFINITY;
    for (let i = at; i < at + width; i++) max = Math.max(max, logits[i]!);
    let total = 0;
    for (let i = at; i < at + width; i++) total += result[i] = Math.exp(logits[i]! - max);
    for (let i = at; i < at + width; i++) result[i]! /= total;
  }
  return result;
}

/** The indices of the `k` largest, ties to the lower, as the graph chooses. */
function largest(values: Float32Array, k: number): number[] {
  const order = Array.from(values.keys());
  return order.sort((a, b) => values[b]! - values[a]! || a - b).slice(0, k);
}
