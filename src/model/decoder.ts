/**
 * The decoder, whole: Mixtral, and Llama and Mistral as its dense case, in the checkpoint's own words.
 * It computes what transformers' modeling_mixtral.py and modeling_llama.py compute.
 *
 * It sees a flat list of new tokens and the keys and values of cached ones; an additive bias says which token sees
 * which. So a prefill, a single next token, a batch of sequences of different lengths and several continuations of one
 * context are one graph with another bias, and nothing is padded.
 *
 * Rejected: GroupQueryAttention, which copies the past into the present at every token unless both are one buffer, which
 * the Node binding cannot arrange; QMoE, which dequantises expert by expert (3 to 20 times slower on a CPU); tables of
 * angles as long as the context, where the angles of the new tokens are enough.
 */
import type { Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import type { ModelConfig } from "./config.js";

/** A checkpoint's tensors, by its names, as the decoder uses them; `Weights` reads them from files. */
export interface DecoderWeights {
  /** `[size]`, float32. */
  vector(name: string): Value;
  /** `[rows, columns]`, float32, never quantised: the router. */
  matrix(name: string): Value;
  /** `x [tokens, columns]` times the transpose of `name [rows, columns]`. */
  linear(name: string, x: Value): Value;
  /** `linear` for several tensors of one `x`. */
  linears(names: readonly string[], x: Value): Value[];
  /** The rows `ids` of the table `name`. */
  embedding(name: string, ids: Value): Value;
}

export interface DecoderInputs {
  /** int64 `[tokens]`: the new tokens, in any order in which a token follows what it sees. */
  input_ids: Value;
  /** int64 `[tokens]` */
  position_ids: Value;
  /** float32 `[tokens, visible]`, visible = cached + tokens: 0 where a token sees, very negative elsewhere. */
  attention_bias: Value;
  /** int64 `[rows]`: which of the tokens go on to the vocabulary. */
  logits_rows: Value;
  /** A layer: rotated keys and values of the cached tokens, float32 `[kv_heads, cached, head_dim]`. */
  past: { key: Value; value: Value }[];
  /**
   * What the cache keeps keys and values in. Those of the new tokens are rounded to it before anything sees them, so that a
   * token sees the same whether another was computed beside it or before. Default float32.
   */
  cache?: CacheType;
}

/** What cached keys and values are kept in. */
export type CacheType = "float32" | "float16";

export interface DecoderOutputs {
  /** float32 `[rows, vocab]` */
  logits: Value;
  /** A layer: rotated keys and values of the new tokens, in the cache's type, `[kv_heads, tokens, head_dim]`. */
  present: { key: Value; value: Value }[];
  /** A layer of experts: float32 `[tokens, experts]`; the last layer has only the `rows`. */
  router_logits: Value[];
}

export function decoder(config: ModelConfig, weights: DecoderWeights, inputs: DecoderInputs): DecoderOutputs {
  const { num_hidden_layers, num_local_experts, rms_norm_eps } = config;
  const { input_ids, position_ids, logits_rows, past } = inputs;
  const rope = rotary_tables(config, position_ids);
  const mask = attention_mask(config, inputs);
  const present: DecoderOutputs["present"] = [];
  const router_logits: Value[] = [];

  let hidden = weights.embedding("model.embed_tokens.weight", input_ids);
  let normed = op.rms_norm(hidden, weights.vector("model.layers.0.input_layernorm.weight"), rms_norm_eps);
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const name = `model.layers.${layer}`;
    const last = layer + 1 === num_hidden_layers;
    const attended = attention(config, weights, `${name}.self_attn`, normed, rope, mask, past[layer]!, inputs.cache);
    present.push({ key: attended.key, value: attended.value });
    // Once the last keys and values exist, only the rows whose logits are wanted need to go on.
    if (last) [hidden, attended.output] = [op.gather(hidden, logits_rows), op.gather(attended.output, logits_rows)];
    const ffn_norm = weights.vector(`${name}.post_attention_layernorm.weight`);
    [normed, hidden] = op.skip_rms_norm(hidden, attended.output, ffn_norm, rms_norm_eps);
    let output: Value;
    if (num_local_experts > 0) {
      const mixed = sparse_moe(config, weights, `${name}.block_sparse_moe`, normed);
      router_logits.push(mixed.router_logits);
      output = mixed.output;
    } else {
      output = mlp(weights, `${name}.mlp`, ["gate_proj", "up_proj", "down_proj"], normed);
    }
    const next_norm = weights.vector(last ? "model.norm.weight" : `model.layers.${layer + 1}.input_layernorm.weight`);
    [normed, hidden] = op.skip_rms_norm(hidden, output, next_norm, rms_norm_eps);
  }
  const head = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  return { logits: weights.linear(head, normed), present, router_logits };
}

interface Mask {
  /** float32 `[tokens, visible]` */
  bias: Value;
  /** int64 `[2]`: how many cached and how many new tokens there are. */
  sizes: Value;
  /** The shapes `[kv_heads, group, tokens, visible]` and `[kv_heads, group * tokens, visible]`. */
  by_head: Value;
  by_row: Value;
}

function attention_mask(config: ModelConfig, { input_ids, attention_bias, past }: DecoderInputs): Mask {
  const int = (value: number) => input_ids.graph.constant("int64", [value]);
  const { num_key_value_heads: kv_heads, num_attention_heads: heads } = config;
  const tokens = op.length_of(input_ids, 0);
  const visible = op.length_of(attention_bias, 1);
  return {
    bias: attention_bias,
    sizes: op.concat([op.length_of(past[0]!.key, 1), tokens], 0, 2),
    by_head: op.concat([int(kv_heads), int(heads / kv_heads), tokens, visible], 0, 4),
    by_row: op.concat([int(kv_heads), int(-1), visible], 0, 3),
  };
}

/** The angles of the new tokens only: there is no table as long as the context. */
function rotary_tables(config: ModelConfig, position_ids: Value): { positions: Value; cos: Value; sin: Value } {
  const graph = position_ids.graph;
  const inv_freq = inverse_frequencies(config);
  const position = op.reshape(op.cast(position_ids, "float32"), [-1, 1], ["tokens", 1]);
  const angles = op.mul(position, graph.constant("float32", inv_freq, [1, inv_freq.length]));
  const row = op.range(op.length_of(position_ids, 0), "tokens");
  return { positions: op.reshape(row, [1, -1], [1, "tokens"]), cos: op.cos(angles), sin: op.sin(angles) };
}

/**
 * Rotations a position, for each pair of a head's channels: theta^(-2i / head_dim), rescaled as `rope.scaling` says.
 * Source: transformers/modeling_rope_utils.py (default, linear, llama3).
 */
export function inverse_frequencies({ head_dim, rope }: Pick<ModelConfig, "head_dim" | "rope">): number[] {
  const frequencies = Array.from({ length: head_dim / 2 }, (_, i) => 1 / rope.theta ** ((2 * i) / head_dim));
  const { scaling } = rope;
  if (scaling.type === "none") return frequencies;
  if (scaling.type === "linear") return frequencies.map((frequency) => frequency / scaling.factor);
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: original } = scaling;
  return frequencies.map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI);
    const keep = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return keep * frequency + ((1 - keep) * frequency) / factor;
  });
}

function attention(
  { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim }: ModelConfig,
  weights: DecoderWeights,
  name: string,
  x: Value,
  rope: ReturnType<typeof rotary_tables>,
  mask: Mask,
  past: { key: Value; value: Value },
  cache: CacheType = "float32",
): { output: Value; key: Value; value: Value } {
  const group = heads / kv_heads;
  // [tokens, heads * head_dim] -> [1, heads, tokens, head_dim], rotated
  const rotate = (value: Value, num_heads: number) => {
    const apart = op.reshape(value, [1, -1, num_heads, head_dim], [1, "tokens", num_heads, head_dim]);
    return op.rotary(op.transpose(apart, [0, 2, 1, 3]), rope.positions, rope.cos, rope.sin);
  };
  const [q, k, v] = weights.linears([`${name}.q_proj.weight`, `${name}.k_proj.weight`, `${name}.v_proj.weight`], x);
  // The heads of a group share their keys, so they are rows of one product: [kv_heads, group * tokens, head_dim]
  const query = op.reshape(rotate(q!, heads), [kv_heads, -1, head_dim], [kv_heads, "group * tokens", head_dim]);
  const new_key = op.reshape(rotate(k!, kv_heads), [kv_heads, -1, head_dim], [kv_heads, "tokens", head_dim]);
  const by_token = op.reshape(v!, [-1, kv_heads, head_dim], ["tokens", kv_heads, head_dim]);
  const new_value = op.transpose(by_token, [1, 0, 2]);
  const kept = { key: op.cast(new_key, cache), value: op.cast(new_value, cache) };
  const [key, value] = [op.cast(kept.key, "float32"), op.cast(kept.value, "float32")];

  const scale = { transpose_b: true, alpha: head_dim ** -0.5 };
  const scores = op.concat([op.matmul(query, past.key, scale), op.matmul(query, key, scale)], -1, "visible");
  const by_head = op.reshape(scores, mask.by_head, [kv_heads, group, "tokens", "visible"]);
  const weight = op.softmax(op.add(by_head, mask.bias));
  const by_row = op.reshape(weight, mask.by_row, [kv_heads, "group * tokens", "visible"]);
  const [to_past, to_new] = op.split(by_row, -1, mask.sizes, ["cached", "tokens"]);
  const mixed = op.add(op.matmul(to_past!, past.value), op.matmul(to_new!, value));

  const heads_apart = op.reshape(mixed, [heads, -1, head_dim], [heads, "tokens", head_dim]);
  const joined = op.reshape(op.transpose(heads_apart, [1, 0, 2]), [-1, heads * head_dim], ["tokens", heads * head_dim]);
  return { output: weights.linear(`${name}.o_proj.weight`, joined), ...kept };
}

/** `w2(silu(w1 x) * w3 x)`, under the names that the checkpoint gives to w1, w3 and w2. */
function mlp(weights: DecoderWeights, name: string, [w1, w3, w2]: [string, string, string], x: Value): Value {
  const [gate, up] = weights.linears([`${name}.${w1}.weight`, `${name}.${w3}.weight`], x);
  return weights.linear(`${name}.${w2}.weight`, op.mul(op.silu(gate!), up!));
}

/**
 * The router sends each token to its `num_experts_per_tok` likeliest experts; their outputs are mixed by the
 * probabilities, renormalised over the chosen: the same as a softmax over the logits of the chosen. Rows are sorted by
 * expert, so that each expert multiplies one contiguous block and experts without tokens multiply nothing.
 */
function sparse_moe(
  { num_local_experts: experts, num_experts_per_tok: top_k, hidden_size }: ModelConfig,
  weights: DecoderWeights,
  name: string,
  x: Value,
): { output: Value; router_logits: Value } {
  const { graph } = x;
  const int = (...values: number[]) => graph.constant("int64", values);
  const router_logits = op.linear(x, weights.matrix(`${name}.gate.weight`));
  const [chosen_logits, chosen] = op.top_k(router_logits, int(top_k), top_k);
  const share = op.softmax(chosen_logits);

  const tokens = x.dim(0);
  const slots = `${tokens} * top_k`;
  const expert_of_slot = op.reshape(chosen, [-1], [slots]);
  const slot_count = op.length_of(expert_of_slot, 0);
  const [, slot_order] = op.top_k(expert_of_slot, slot_count, slots, { largest: false });
  const [, order_of_slot] = op.top_k(slot_order, slot_count, slots, { largest: false });
  const load = op.reduce_sum(op.one_hot(expert_of_slot, experts), 0, false);

  const rows = op.gather(x, op.div(slot_order, int(top_k)));
  const parts = op.split(
    rows,
    0,
    load,
    Array.from({ length: experts }, (_, e) => `load ${e}`),
  );
  const outputs = parts.map((part, e) => mlp(weights, `${name}.experts.${e}`, ["w1", "w3", "w2"], part));
  const by_slot = op.gather(op.concat(outputs, 0, slots), order_of_slot);
  const by_token = op.reshape(by_slot, [-1, top_k, hidden_size], [tokens, top_k, hidden_size]);
  const weighted = op.mul(by_token, op.reshape(share, [-1, top_k, 1], [tokens, top_k, 1]));
  return { output: op.reduce_sum(weighted, 1, false), router_logits };
}
