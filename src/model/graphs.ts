/**
 * The two graphs made from the one decoder: the engine's own, whose cache the caller owns, and the one that
 * Transformers.js and other runtimes know by its input and output names.
 */
import { Graph, type Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import { type Adapted, adaptable_tensors } from "./adapter.js";
import type { ModelConfig } from "./config.js";
import { type CacheType, decoder } from "./decoder.js";
import { keep_name, LoraWeights, lora_a_name, lora_b_name, replacement_name } from "./lora.js";
import { type StoredTensor, TENSOR_TABLE, tensor_table, Weights } from "./weights.js";

/**
 * The engine's graph: `decoder` as it is.
 *
 *   input_ids, position_ids, attention_bias, logits_rows   as in `DecoderInputs`
 *   past_key.N, past_value.N   [kv_heads, slots, head_dim], the whole cache of layer N in the cache's type
 *   past_slots                 int32 [sequences, cached]: what each sequence goes on from; a shorter one is filled up with any
 *   past_is_whole              bool []: one sequence goes on from the whole cache instead, which is then not copied
 *   A and B of each matrix in `adapted`, of any rank, 0 included; B with its scale in it
 *   keep []                    what the base is multiplied by, of each tensor whose place an adapter may take; and what is added to a vector
 *   -> logits         float32 [rows, vocab]
 *   -> present        [layers, 2, kv_heads, tokens, head_dim]   keys, then values, of the new tokens, in the cache's type
 *   -> router_logits  float32 [layers * tokens, experts]                in mixture models; the last layer has only `rows`
 *
 * The cache is no output, because the Node binding copies outputs: returned whole it would cost its capacity at every token.
 */
export function engine_graph(
  config: ModelConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  accuracy_level: 0 | 4,
  cache: CacheType,
  adapted: Adapted | null = null,
): Graph {
  const graph = new Graph(config.model_type);
  const { num_hidden_layers: layers, num_key_value_heads: kv_heads, head_dim } = config;
  const stored_weights = new Weights(graph, stored, accuracy_level);
  const weights = adapted ? adapted_weights(graph, stored_weights, config, adapted) : stored_weights;
  const past_slots = graph.input("past_slots", "int32", ["sequences", "cached"]);
  const past_is_whole = graph.input("past_is_whole", "bool", []);
  const past = (name: string) => {
    const slots = graph.input(name, cache, [kv_heads, "slots", head_dim]);
    const dims = [kv_heads, "sequences", "cached", head_dim];
    return op.either(
      past_is_whole,
      (branch) => op.cast(op.unsqueeze(slots, 1, branch), "float32"),
      (branch) => op.cast(op.gather(slots, past_slots, 1, branch), "float32"),
      dims,
    );
  };
  const { logits, present, router_logits } = decoder(config, weights, {
    input_ids: graph.input("input_ids", "int64", ["tokens"]),
    position_ids: graph.input("position_ids", "int64", ["tokens"]),
    attention_bias: graph.input("attention_bias", "float32", ["sequences", 1, "length", "visible"]),
    logits_rows: graph.input("logits_rows", "int64", ["rows"]),
    past: Array.from({ length: layers }, (_, n) => ({
      key: past(`past_key.${n}`),
      value: past(`past_value.${n}`),
    })),
    cache,
  });
  const stacked = op.concat(
    present.flatMap(({ key, value }) => [key, value]),
    0,
    "all heads",
  );
  graph.output("logits", logits);
  graph.output(
    "present",
    op.reshape(stacked, [layers, 2, kv_heads, -1, head_dim], [layers, 2, kv_heads, "tokens", head_dim]),
  );
  if (router_logits.length > 0) graph.output("router_logits", op.concat(router_logits, 0, "layers * tokens"));
  return graph;
}

function adapted_weights(graph: Graph, base: Weights, config: ModelConfig, adapted: Adapted): LoraWeights {
  const shapes = adaptable_tensors(config);
  const keep = (name: string) => graph.input(keep_name(name), "float32", []);
  return new LoraWeights(base, {
    pair: (name) => {
      if (!adapted.matrices.has(name)) return null;
      const [rows, columns] = shapes.get(name) as [number, number];
      const rank = `rank of ${name}`;
      const a = graph.input(lora_a_name(name), "float32", [rank, columns]);
      const pair = { a, b: graph.input(lora_b_name(name), "float32", [rows, rank]), scale: 1 };
      return adapted.replaced.has(name) ? { ...pair, keep: keep(name) } : pair;
    },
    vector: (name) =>
      adapted.vectors.has(name)
        ? { keep: keep(name), added: graph.input(replacement_name(name), "float32", shapes.get(name)!) }
        : null,
  });
}

/**
 * The graph in the interface of Transformers.js, for one sequence at a time:
 *
 *   input_ids int64 [1, tokens], attention_mask int64 [1, visible], position_ids int64 [1, tokens],
 *   past_key_values.N.key and .value float32 [1, kv_heads, cached, head_dim]
 *   -> logits float32 [1, tokens, vocab], present.N.key and .value float32 [1, kv_heads, visible, head_dim]
 *
 * Its metadata holds the table of tensors, from which the engine builds its own graph.
 */
export function exported_graph(config: ModelConfig, stored: ReadonlyMap<string, StoredTensor>): Graph {
  const graph = new Graph(config.model_type);
  graph.metadata.set(TENSOR_TABLE, tensor_table(stored));
  const { num_hidden_layers: layers, num_key_value_heads: kv_heads, head_dim } = config;
  const flat = (value: Value, dim: string) => op.reshape(value, [-1], [dim]);
  const input_ids = flat(graph.input("input_ids", "int64", [1, "tokens"]), "tokens");
  const attention_mask = flat(graph.input("attention_mask", "int64", [1, "visible"]), "visible");
  const position_ids = flat(graph.input("position_ids", "int64", [1, "tokens"]), "tokens");
  const past = Array.from({ length: layers }, (_, n) => {
    const [key, value] = ["key", "value"].map((kind) => {
      const input = graph.input(`past_key_values.${n}.${kind}`, "float32", [1, kv_heads, "cached", head_dim]);
      return op.transpose(input, [1, 0, 2, 3]);
    });
    return { key: key!, value: value! };
  });

  // Token i of the new ones stands at column cached + i and sees the columns up to it, within the window.
  const column = op.reshape(op.range(op.length_of(attention_mask, 0), "visible"), [1, -1], [1, "visible"]);
  const own = op.add(op.range(op.length_of(input_ids, 0), "tokens"), op.length_of(past[0]!.key, 2));
  const distance = op.sub(op.reshape(own, [-1, 1], ["tokens", 1]), column);
  const int = (value: number) => graph.constant("int64", [value]);
  let sees = op.and(
    op.greater(distance, int(-1)),
    op.greater(op.reshape(attention_mask, [1, -1], [1, "visible"]), int(0)),
  );
  if (config.sliding_window !== null) sees = op.and(sees, op.greater(int(config.sliding_window), distance));
  const bias = op.where(sees, graph.constant("float32", [0]), graph.constant("float32", [HIDDEN]));
  const attention_bias = op.unsqueeze(op.unsqueeze(bias, 0), 0);

  const logits_rows = op.range(op.length_of(input_ids, 0), "tokens");
  const weights = new Weights(graph, stored, 4);
  const { logits, present } = decoder(config, weights, { input_ids, position_ids, attention_bias, logits_rows, past });
  graph.output("logits", op.reshape(logits, [1, -1, config.vocab_size], [1, "tokens", config.vocab_size]));
  for (const [n, layer] of present.entries()) {
    for (const kind of ["key", "value"] as const) {
      const whole = op.concat([past[n]![kind], layer[kind]], 2, "visible");
      graph.output(`present.${n}.${kind}`, op.transpose(whole, [1, 0, 2, 3]));
    }
  }
  return graph;
}

/** The bias of what a token does not see: far below every score, and finite, so that a row of nothing else is not NaN. */
export const HIDDEN = -1e30;
