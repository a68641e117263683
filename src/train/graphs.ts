/**
 * The two graphs of a layer and the two of the end of the model, forward and backward, from the one decoder. Weights are inputs,
 * so that the same two sessions train every layer. The backward graph computes the forward pass again, except for what it is given.
 */
import { gradients } from "../graph/gradient.js";
import { Graph, type Value } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import type { ModelConfig } from "../model/config.js";
import { decoder_layer, layer_context, output_layer } from "../model/decoder.js";
import { LoraWeights, lora_a_name, lora_b_name } from "../model/lora.js";
import { type StoredTensor, Weights } from "../model/weights.js";

export interface AdapterShape {
  rank: number;
  /** `lora_alpha / rank`, or what rsLoRA makes of it. */
  scale: number;
  dropout: number;
  /** The tensors that are adapted, with their shapes. */
  tensors: ReadonlyMap<string, readonly [number, number]>;
}

export interface TrainShape {
  config: ModelConfig;
  /** The stored tensors of the model; a graph needs those of its own layer, which is called 0. */
  stored: ReadonlyMap<string, StoredTensor>;
  /** null trains the model's own tensors. */
  adapter: AdapterShape | null;
  /** Equally long sequences that are computed together. */
  batch: number;
  /** Keep the products of a layer's matrices from the forward to the backward pass, instead of computing them again. */
  keep: boolean;
}

/** A pair of graphs. What the backward one takes: the inputs of the forward one, `kept`, and `d NAME` for each output. */
export interface Pair {
  forward: Graph;
  backward: Graph;
  /** Outputs of the forward graph that the backward one takes as inputs of the same names. */
  kept: string[];
  /** Inputs whose gradients the backward graph gives as `d NAME`. */
  wanted: string[];
  /** The outputs as the backward graph computes them again. */
  outputs: Record<string, Value>;
}

/** `x` of the layer and its outputs, by the names of inputs and outputs. */
type Build = (graph: Graph, weights: LoraWeights) => { input: Value; outputs: Record<string, Value> };

/**
 * One layer.
 *
 *   hidden [batch * tokens, hidden_size], position_ids int64 [batch * tokens], attention_bias [batch, 1, tokens, tokens],
 *   the layer's tensors under the names of layer 0, dropout_seed int64 [1] where there is dropout
 *   -> output [batch * tokens, hidden_size], router_logits [batch * tokens, experts]
 */
export function layer_graphs(shape: TrainShape): Pair {
  const { config, batch } = shape;
  return pair("layer", shape, (graph, weights) => {
    const input = graph.input("hidden", "float32", ["rows", config.hidden_size]);
    const position_ids = graph.input("position_ids", "int64", ["rows"]);
    const bias = graph.input("attention_bias", "float32", [batch, 1, "tokens", "tokens"]);
    const normed = op.rms_norm(input, weights.vector("model.layers.0.input_layernorm.weight"), config.rms_norm_eps);
    const context = layer_context(config, position_ids, bias, null);
    const { hidden, output, router_logits } = decoder_layer(config, weights, "model.layers.0", input, normed, context);
    return { input, outputs: { output: op.add(hidden, output), ...(router_logits ? { router_logits } : {}) } };
  });
}

/**
 * The last norm, the vocabulary and the loss of rows whose next token is known.
 *
 *   hidden [rows, hidden_size], labels int64 [rows, 1]  ->  log_likelihood [rows, 1]
 */
export function head_graphs(shape: TrainShape): Pair {
  const { config } = shape;
  const graphs = pair("head", { ...shape, keep: false }, (graph, weights) => {
    const input = graph.input("hidden", "float32", ["rows", config.hidden_size]);
    const labels = graph.input("labels", "int64", ["rows", 1]);
    const normed = op.rms_norm(input, weights.vector("model.norm.weight"), config.rms_norm_eps);
    const log_probabilities = op.log_softmax(output_layer(config, weights, normed));
    return { input, outputs: { log_likelihood: op.gather_last(log_probabilities, labels) } };
  });
  // One run is both passes, as nothing stands between them.
  graphs.backward.output("log_likelihood", graphs.outputs.log_likelihood!);
  return graphs;
}

function pair(name: string, shape: TrainShape, build: Build): Pair {
  const forward = trace(`${name} forward`, shape, build);
  for (const [key, value] of Object.entries(forward.outputs)) forward.graph.output(key, value);

  const { graph, input, outputs, parameters, products } = trace(`${name} backward`, shape, build);
  const seeds = new Map<Value, Value>();
  for (const [key, value] of Object.entries(outputs)) seeds.set(value, graph.input(`d ${key}`, "float32", value.dims));
  const found = gradients(seeds, [input, ...parameters]);
  for (const [value, gradient] of found) graph.output(`d ${value.name}`, gradient);
  // An expert's last product is not among them: nothing needs it again.
  const kept = shape.keep ? [...products].filter(([key, value]) => graph.make_input(value, key)) : [];
  for (const [key] of kept) forward.graph.output(key, forward.products.get(key)!);
  return {
    forward: forward.graph,
    backward: graph,
    outputs,
    kept: kept.map(([key]) => key),
    wanted: [...found.keys()].map((value) => value.name),
  };
}

function trace(name: string, { stored, adapter }: TrainShape, build: Build) {
  const graph = new Graph(name);
  const products = new Map<string, Value>();
  const lora: Value[] = [];
  const matrix = (key: string, dims: readonly number[]) => {
    const value = graph.input(key, "float32", dims);
    lora.push(value);
    return value;
  };
  let seed: Value | null = null;
  const dropped = (x: Value) => {
    if (!adapter?.dropout) return x;
    seed ??= graph.input("dropout_seed", "int64", [1]);
    return op.dropout(x, adapter.dropout, op.add(seed, graph.constant("int64", [lora.length])));
  };
  const weights = new LoraWeights(new Weights(graph, stored, 0, "input"), {
    pair: (key) => {
      const dims = adapter?.tensors.get(key);
      if (!adapter || !dims) return null;
      const { rank, scale } = adapter;
      return { a: matrix(lora_a_name(key), [rank, dims[1]]), b: matrix(lora_b_name(key), [dims[0], rank]), scale };
    },
    dropout: dropped,
    on_product: (key, value) => products.set(`product ${key}`, value),
  });
  const { input, outputs } = build(graph, weights);
  for (const [key, value] of products) if (Object.values(outputs).includes(value)) products.delete(key);
  const parameters = adapter ? lora : graph.inputs.filter((one) => stored.has(one.name));
  return { graph, input, outputs, parameters, products };
}
