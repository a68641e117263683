/**
 * The decoder, whole: Mixtral, and Llama and Mistral as its dense case, in the checkpoint's own words.
 * It computes what transformers' modeling_mixtral.py and modeling_llama.py compute.
 *
 * It sees the new tokens of some sequences, equally many of each, and the keys and values of the cached ones that each sequence goes
 * on from; an additive bias says which token sees which. So a prefill, the next token of sequences of different lengths and
 * several continuations of one context are one graph with another bias. Attention costs what a sequence itself is long.
 *
 * Rejected: GroupQueryAttention, which copies the past into the present at every token unless both are one buffer, which
 * the Node binding cannot arrange; QMoE, which dequantises expert by expert (3 to 20 times slower on a CPU); tables of
 * angles as long as the context, where the angles of the new tokens are enough.
 */
import type { Dim, Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import type { ModelConfig } from "./config.js";
import { attention_factor, inverse_frequencies } from "./rope.js";

/** A checkpoint's tensors, by its names, as the decoder uses them; `Weights` reads them from files. */
export interface DecoderWeights {
  /** `[size]`, float32. */
  vector(name: string): Value;
  /**
   * `x [tokens, columns]` times the transpose of `name [rows, columns]`.
   * @param role the name by which adapters know this product, where one tensor has two: tied embeddings
   */
  linear(name: string, x: Value, role?: string): Value;
  /** `linear` for several tensors of one `x`. */
  linears(names: readonly string[], x: Value): Value[];
  /** The rows `ids` of the table `name`. */
  embedding(name: string, ids: Value): Value;
}

export interface DecoderInputs {
  /** int64 `[tokens]`: the new tokens, sequence after sequence, in any order in which a token follows what it sees. */
  input_ids: Value;
  /** int64 `[tokens]` */
  position_ids: Value;
  /**
   * float32 `[sequences, 1, length, visible]`, length = tokens / sequences, visible = cached + length: 0 where a token sees, very
   * negative elsewhere.
   */
  attention_bias: Value;
  /** int64 `[rows]`: which of the tokens go on to the vocabulary. */
  logits_rows: Value;
  /** A layer: rotated keys and values of each sequence's cached tokens, float32 `[kv_heads, sequences, cached, head_dim]`. */
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
  /** A layer: rotated keys and values of the new tokens, in the cache's type, `[kv_heads, sequences, length, head_dim]`. */
  present: { key: Value; value: Value }[];
  /** A layer of experts: float32 `[tokens, experts]`; the last layer has only the `rows`. */
  router_logits: Value[];
}

export function decoder(config: ModelConfig, weights: DecoderWeights, inputs: DecoderInputs): DecoderOutputs {
  const { num_hidden_layers, rms_norm_eps } = config;
  const { input_ids, position_ids, attention_bias, logits_rows, past, cache } = inputs;
  const context = { ...layer_context(config, position_ids, attention_bias, past[0]!.key), cache };
  const present: DecoderOutputs["present"] = [];
  const router_logits: Value[] = [];

  let hidden = weights.embedding("model.embed_tokens.weight", input_ids);
  let normed = op.rms_norm(hidden, weights.vector("model.layers.0.input_layernorm.weight"), rms_norm_eps);
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const last = layer + 1 === num_hidden_layers;
    const result = decoder_layer(config, weights, `model.layers.${layer}`, hidden, normed, {
      ...context,
      past: past[layer]!,
      // Once the last keys and values exist, only the rows whose logits are wanted need to go on.
      rows: last ? logits_rows : null,
    });
    present.push({ key: result.key, value: result.value });
    if (result.router_logits) router_logits.push(result.router_logits);
    const next_norm = weights.vector(last ? "model.norm.weight" : `model.layers.${layer + 1}.input_layernorm.weight`);
    [normed, hidden] = op.skip_rms_norm(result.hidden, result.output, next_norm, rms_norm_eps);
  }
  return { logits: output_layer(config, weights, normed), present, router_logits };
}

/** From the normalised last hidden states to the vocabulary. */
export function output_layer(config: ModelConfig, weights: DecoderWeights, normed: Value): Value {
  const head = "lm_head.weight";
  return weights.linear(config.tie_word_embeddings ? "model.embed_tokens.weight" : head, normed, head);
}

/** What a layer needs besides its input. */
export interface LayerContext {
  rope: ReturnType<typeof rotary_tables>;
  mask: Mask;
  /** Rotated keys and values of cached tokens; null where there is no cache, as in training. */
  past?: { key: Value; value: Value } | null;
  cache?: CacheType | undefined;
  /** int64: the tokens that go on after attention; null for all. */
  rows?: Value | null;
}

/**
 * One layer, from its input and that input's norm to two values whose sum is its output: the caller joins that sum with the
 * norm behind it.
 */
export function decoder_layer(
  config: ModelConfig,
  weights: DecoderWeights,
  name: string,
  input: Value,
  input_normed: Value,
  context: LayerContext,
): { hidden: Value; output: Value; key: Value; value: Value; router_logits?: Value } {
  const attended = attention(config, weights, `${name}.self_attn`, input_normed, context);
  const pick = (x: Value) => (context.rows ? op.gather(x, context.rows) : x);
  const ffn_norm = weights.vector(`${name}.post_attention_layernorm.weight`);
  const [normed, hidden] = op.skip_rms_norm(pick(input), pick(attended.output), ffn_norm, config.rms_norm_eps);
  const kept = { hidden, key: attended.key, value: attended.value };
  if (config.num_local_experts === 0)
    return { ...kept, output: mlp(weights, `${name}.mlp`, ["gate_proj", "up_proj", "down_proj"], normed) };
  return { ...kept, ...sparse_moe(config, weights, `${name}.block_sparse_moe`, normed) };
}

interface Mask {
  /** As `DecoderInputs.attention_bias` */
  bias: Value;
  /** int64 `[2]`: how many cached and how many new tokens a sequence has. */
  sizes: Value | null;
  /** Shapes: of the heads in their groups, `[kv_heads, group, sequences, length, head_dim]`, */
  heads: Value;
  /** of keys and values, `[kv_heads, sequences, length, head_dim]`, */
  keys: Value;
  /** of what a group's rows of a sequence mix to, `[kv_heads, sequences, group, length, head_dim]`, */
  mixed: Value;
  /** and of the scores, `[kv_heads, sequences, group, length, visible]` and `[kv_heads, sequences, group * length, visible]`. */
  by_head: Value;
  by_row: Value;
}

/**
 * What is the same in every layer: the angles of the tokens' positions, and who sees whom.
 *
 * @param position_ids int64 `[tokens]`
 * @param attention_bias as in `DecoderInputs`
 * @param past the cached keys of a layer, or null
 */
export function layer_context(
  config: ModelConfig,
  position_ids: Value,
  attention_bias: Value,
  past: Value | null,
): Pick<LayerContext, "rope" | "mask"> {
  const { num_key_value_heads, num_attention_heads, head_dim } = config;
  const int = (value: number) => position_ids.graph.constant("int64", [value]);
  const shape = (...lengths: Value[]) => op.concat(lengths, 0, lengths.length);
  const [kv_heads, group, channels] = [num_key_value_heads, num_attention_heads / num_key_value_heads, head_dim].map(
    int,
  );
  const [sequences, length, visible] = [0, 2, 3].map((axis) => op.length_of(attention_bias, axis));
  const mask = {
    bias: attention_bias,
    sizes: past && shape(op.length_of(past, 2), length!),
    heads: shape(kv_heads!, group!, sequences!, length!, channels!),
    keys: shape(kv_heads!, sequences!, length!, channels!),
    mixed: shape(kv_heads!, sequences!, group!, length!, channels!),
    by_head: shape(kv_heads!, sequences!, group!, length!, visible!),
    by_row: shape(kv_heads!, sequences!, int(-1), visible!),
  };
  return { rope: rotary_tables(config, position_ids), mask };
}

/** The angles of the new tokens only: there is no table as long as the context. */
function rotary_tables(config: ModelConfig, position_ids: Value): { positions: Value; cos: Value; sin: Value } {
  const graph = position_ids.graph;
  const inv_freq = inverse_frequencies(config);
  const position = op.reshape(op.cast(position_ids, "float32"), [-1, 1], ["tokens", 1]);
  const angles = op.mul(position, graph.constant("float32", inv_freq, [1, inv_freq.length]));
  const row = op.range(op.length_of(position_ids, 0), "tokens");
  const factor = attention_factor(config.rope);
  const scaled = (value: Value) => (factor === 1 ? value : op.mul(value, graph.constant("float32", [factor])));
  return { positions: op.unsqueeze(row, 0), cos: scaled(op.cos(angles)), sin: scaled(op.sin(angles)) };
}

function attention(
  { num_attention_heads: heads, num_key_value_heads: kv_heads, head_dim }: ModelConfig,
  weights: DecoderWeights,
  name: string,
  x: Value,
  { rope, mask, past = null, cache = "float32" }: LayerContext,
): { output: Value; key: Value; value: Value } {
  const [sequences, length, visible] = [0, 2, 3].map((axis) => mask.bias.dim(axis)) as [Dim, Dim, Dim];
  const group = heads / kv_heads;
  // [tokens, heads * head_dim] -> [1, heads, tokens, head_dim]
  const apart = (value: Value, num_heads: number) => {
    const by_token = op.reshape(value, [1, -1, num_heads, head_dim], [1, "tokens", num_heads, head_dim]);
    return op.transpose(by_token, [0, 2, 1, 3]);
  };
  const rotate = (value: Value) => op.rotary(value, rope.positions, rope.cos, rope.sin);
  const of_sequences = (value: Value) => op.reshape(value, mask.keys, [kv_heads, sequences, length, head_dim]);
  const [q, k, v] = weights.linears([`${name}.q_proj.weight`, `${name}.k_proj.weight`, `${name}.v_proj.weight`], x);
  // The heads of a group share their keys, so they are rows of one product: [kv_heads, sequences, group * length, head_dim]
  const in_groups = op.reshape(rotate(apart(q!, heads)), mask.heads, [kv_heads, group, sequences, length, head_dim]);
  const rows = [kv_heads, sequences, "group * length"];
  const query = op.reshape(op.transpose(in_groups, [0, 2, 1, 3, 4]), [0, 0, -1, head_dim], [...rows, head_dim]);
  const kept = {
    key: op.cast(of_sequences(rotate(apart(k!, kv_heads))), cache),
    value: op.cast(of_sequences(apart(v!, kv_heads)), cache),
  };
  const [key, value] = [op.cast(kept.key, "float32"), op.cast(kept.value, "float32")];
  const scale = { transpose_b: true, alpha: head_dim ** -0.5 };
  const own = op.matmul(query, key, scale);
  const scores = past ? op.concat([op.matmul(query, past.key, scale), own], -1, visible) : own;
  const by_head = op.reshape(scores, mask.by_head, [kv_heads, sequences, group, length, visible]);
  const weight = op.softmax(op.add(by_head, mask.bias));
  const by_row = op.reshape(weight, mask.by_row, [...rows, visible]);
  let mixed: Value;
  if (past) {
    const [to_past, to_new] = op.split(by_row, -1, mask.sizes!, ["cached", length]);
    mixed = op.add(op.matmul(to_past!, past.value), op.matmul(to_new!, value));
  } else mixed = op.matmul(by_row, value);
  const heads_apart = op.reshape(mixed, mask.mixed, [kv_heads, sequences, group, length, head_dim]);
  const by_token = op.transpose(heads_apart, [1, 3, 0, 2, 4]);
  const output = op.reshape(by_token, [-1, heads * head_dim], [x.dim(0), heads * head_dim]);
  return { output: weights.linear(`${name}.o_proj.weight`, output), ...kept };
}

/** `w2(share * silu(w1 x) * w3 x)`, under the names that the checkpoint gives to w1, w3 and w2. */
function mlp(
  weights: DecoderWeights,
  name: string,
  [w1, w3, w2]: [string, string, string],
  x: Value,
  share: Value | null = null,
): Value {
  const [gate, up] = weights.linears([`${name}.${w1}.weight`, `${name}.${w3}.weight`], x);
  const activated = op.mul(op.silu(gate!), up!);
  return weights.linear(`${name}.${w2}.weight`, share ? op.mul(activated, share) : activated);
}

/**
 * The router sends each token to its `num_experts_per_tok` likeliest experts; their outputs are mixed by the
 * probabilities, renormalised over the chosen: the same as a softmax over the logits of the chosen. Rows are sorted by
 * expert, so that each expert multiplies one contiguous block and experts without tokens multiply nothing.
 *
 * A row is weighted before its last product, which is the same as after it: so the derivative of the weight needs no
 * expert's output, and a backward pass need not compute it again.
 */
function sparse_moe(
  { num_local_experts: experts, num_experts_per_tok: top_k, hidden_size }: ModelConfig,
  weights: DecoderWeights,
  name: string,
  x: Value,
): { output: Value; router_logits: Value } {
  const { graph } = x;
  const int = (...values: number[]) => graph.constant("int64", values);
  const router_logits = weights.linear(`${name}.gate.weight`, x);
  const [chosen_logits, chosen] = op.top_k(router_logits, int(top_k), top_k);

  const tokens = x.dim(0);
  const slots = `${tokens} * top_k`;
  const expert_of_slot = op.reshape(chosen, [-1], [slots]);
  const slot_count = op.length_of(expert_of_slot, 0);
  const [, slot_order] = op.top_k(expert_of_slot, slot_count, slots, { largest: false });
  const [, order_of_slot] = op.top_k(slot_order, slot_count, slots, { largest: false });
  const load = op.reduce_sum(op.one_hot(expert_of_slot, experts), 0, false);
  const loads = Array.from({ length: experts }, (_, e) => `load ${e}`);
  const share_of_slot = op.reshape(op.softmax(chosen_logits), [-1, 1], [slots, 1]);
  const to_order = (x: Value): Value => op.reorder(x, slot_order, to_slots);
  const to_slots = (x: Value): Value => op.reorder(x, order_of_slot, to_order);
  const sum_of_slots = (x: Value) =>
    op.reduce_sum(op.reshape(to_slots(x), [-1, top_k, hidden_size], [tokens, top_k, hidden_size]), 1, false);
  const sorted = op.reorder(x, op.div(slot_order, int(top_k)), sum_of_slots);
  const shares = op.split(to_order(share_of_slot), 0, load, loads);
  const rows = op.split(sorted, 0, load, loads);
  const outputs = rows.map((part, e) => mlp(weights, `${name}.experts.${e}`, ["w1", "w3", "w2"], part, shares[e]!));
  return { output: sum_of_slots(op.concat(outputs, 0, slots)), router_logits };
}
