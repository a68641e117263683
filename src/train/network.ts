/**
 * A forward and a backward pass through all layers, one layer at a time, with the sessions of one: beside what is learnt, memory is
 * a layer's worth and a hidden state a layer, whatever the depth.
 */
import type { InferenceSession, Tensor } from "onnxruntime-node";
import { Tensor as OrtTensor } from "onnxruntime-node";
import type { DataType, Graph } from "../graph/graph.js";
import { create_session, type Feeds, float32, int64 } from "../graph/session.js";
import { HIDDEN } from "../model/graphs.js";
import { type Balance, balance, balance_each } from "./balance.js";
import type { BaseModel, TensorData } from "./base.js";
import { head_graphs, layer_graphs, type Pair, type TrainShape } from "./graphs.js";

/** Equally long sequences, one behind the other in each list: `[sequences * tokens]`. */
export interface Batch {
  sequences: number;
  input_ids: Int32Array;
  /** The place of each token in its document. */
  position_ids: Int32Array;
  /** Which document a token belongs to, from 1; 0 is padding. Tokens see only their own document. */
  documents: Int32Array;
  /** The token that follows, where it is to be learnt, else -100. */
  labels: Int32Array;
}

/** What is learnt: values that an optimizer changes in place, and the sum of their gradients. */
export interface Parameter {
  shape: readonly number[];
  data: Float32Array;
  gradient: Float32Array;
}

export interface PassResult extends Omit<Balance, "gradients"> {
  /** The sum of negative log-likelihoods over the labels, in nats, and how many there are. */
  nll: number;
  labels: number;
}

export interface PassOptions {
  /** What the sum of negative log-likelihoods is divided by in the loss. */
  items: number;
  /** Of the load-balancing loss in the loss. */
  aux_coefficient: number;
  /** That loss is of each layer by itself; else of all together. */
  aux_per_layer?: boolean;
  /** Decides the dropout of this pass. */
  seed: number;
}

/** Logits of one run of the head, in float32 values. */
const MAX_LOGITS = 2 ** 22;

interface Sessions {
  pair: Pair;
  forward: InferenceSession;
  backward: InferenceSession;
}

export class Network {
  /** Where time went, in milliseconds of the runtime. */
  readonly times = { forward: 0, head: 0, backward: 0 };

  private constructor(
    private readonly base: BaseModel,
    private readonly shape: TrainShape,
    readonly parameters: ReadonlyMap<string, Parameter>,
    private readonly layers: Sessions,
    private readonly head: Sessions,
    /** A layer without dropout. */
    private readonly exact: { graph: Graph; session: InferenceSession },
  ) {}

  /** @param parameters what is learnt, by name: A and B of each adapted tensor, or the model's own tensors */
  static async create(
    base: BaseModel,
    shape: Omit<TrainShape, "stored" | "config">,
    parameters: ReadonlyMap<string, Parameter>,
    threads?: number,
  ): Promise<Network> {
    const whole: TrainShape = { ...shape, config: base.config, stored: base.stored };
    const session = (graph: Graph) =>
      create_session(graph, { folder: ".", spin: false, ...(threads === undefined ? {} : { threads }) });
    const sessions = async (pair: Pair): Promise<Sessions> => {
      return { pair, forward: await session(pair.forward), backward: await session(pair.backward) };
    };
    const layers = await sessions(layer_graphs(whole));
    const head = await sessions(head_graphs(whole));
    let exact = { graph: layers.pair.forward, session: layers.forward };
    if (whole.adapter?.dropout) {
      const { forward: graph } = layer_graphs({ ...whole, adapter: { ...whole.adapter, dropout: 0 }, keep: false });
      exact = { graph, session: await session(graph) };
    }
    return new Network(base, whole, parameters, layers, head, exact);
  }

  async release(): Promise<void> {
    const { layers, head, exact } = this;
    const all = new Set([layers.forward, layers.backward, head.forward, head.backward, exact.session]);
    for (const session of all) await session.release();
  }

  /** The loss of a batch; nothing is learnt from it. */
  async evaluate(batch: Batch): Promise<PassResult> {
    return this.pass(batch, null);
  }

  /** Adds the gradients of a batch's loss to those of the parameters. */
  async backward(batch: Batch, options: PassOptions): Promise<PassResult> {
    return this.pass(batch, options);
  }

  private async pass(batch: Batch, learn: PassOptions | null): Promise<PassResult> {
    const { config, adapter } = this.shape;
    const { base } = this;
    const depth = config.num_hidden_layers;
    const tokens = batch.input_ids.length;
    const dims = [tokens, config.hidden_size];
    const shared: Feeds = {
      position_ids: int64(batch.position_ids),
      attention_bias: attention_bias(batch, config.sliding_window),
    };
    const dropout = (layer: number): Feeds =>
      learn && adapter?.dropout ? { dropout_seed: int64([mix(learn.seed, layer)]) } : {};
    const { pair, backward } = this.layers;
    const forward = learn ? { graph: pair.forward, session: this.layers.forward } : this.exact;

    // Forward: a layer's input is what is kept of it, and its products where there is room for them.
    const inputs: Tensor[] = [];
    const kept: Feeds[] = [];
    const router_logits: Float32Array[] = [];
    let hidden: Tensor = float32(await base.embeddings(batch.input_ids), dims);
    for (let layer = 0; layer < depth; layer++) {
      const tensors = await base.layer(layer);
      if (layer + 1 < depth) base.prefetch(layer + 1);
      const feeds = { ...shared, ...dropout(layer), hidden, ...this.tensors(forward.graph, layer, tensors) };
      const names = forward.graph.outputs.map(({ name }) => name).filter((name) => learn || !pair.kept.includes(name));
      const result = await this.timed("forward", forward.session.run(feeds, names));
      if (result.router_logits) router_logits.push(result.router_logits.data as Float32Array);
      if (learn) {
        inputs.push(hidden);
        kept.push(Object.fromEntries(pair.kept.map((name) => [name, result[name]!])));
      }
      hidden = result.output!;
    }
    const { gradients, ...balanced } = (learn?.aux_per_layer ? balance_each : balance)(router_logits, {
      experts: config.num_local_experts,
      top_k: config.num_experts_per_tok,
      counted: (token) => batch.documents[token] !== 0,
    });
    const loss = await this.loss(hidden.data as Float32Array, batch.labels, learn);
    if (!learn) return { ...balanced, nll: loss.nll, labels: loss.labels };

    // Backward.
    let gradient = float32(loss.gradient!, dims);
    for (let layer = depth - 1; layer >= 0; layer--) {
      const tensors = await base.layer(layer);
      base.prefetch(layer - 1);
      const feeds: Feeds = {
        ...shared,
        ...dropout(layer),
        ...kept.pop()!,
        hidden: inputs.pop()!,
        "d output": gradient,
        ...this.tensors(pair.backward, layer, tensors),
      };
      const router = gradients[layer]?.map((value) => value * learn.aux_coefficient);
      if (router) feeds["d router_logits"] = float32(router, [tokens, config.num_local_experts]);
      const result = await this.timed("backward", backward.run(feeds));
      this.accumulate(pair, layer, result);
      gradient = result["d hidden"]! as typeof gradient;
    }
    this.embedding_gradient(batch.input_ids, gradient.data as Float32Array);
    return { ...balanced, nll: loss.nll, labels: loss.labels };
  }

  /** The head, over the rows that have a label, in as many runs as its logits need. */
  private async loss(
    hidden: Float32Array,
    labels: Int32Array,
    learn: PassOptions | null,
  ): Promise<{ nll: number; labels: number; gradient: Float32Array | null }> {
    const { hidden_size, vocab_size } = this.shape.config;
    const rows = [...labels.keys()].filter((row) => labels[row]! >= 0);
    const size = Math.max(1, Math.floor(MAX_LOGITS / vocab_size));
    const gradient = learn ? new Float32Array(hidden.length) : null;
    const { pair, forward, backward } = this.head;
    const tensors = await this.head_tensors();
    let nll = 0;
    for (let at = 0; at < rows.length; at += size) {
      const part = rows.slice(at, at + size);
      const input = new Float32Array(part.length * hidden_size);
      for (const [i, row] of part.entries())
        input.set(hidden.subarray(row * hidden_size, (row + 1) * hidden_size), i * hidden_size);
      const feeds: Feeds = {
        ...tensors,
        hidden: float32(input, [part.length, hidden_size]),
        labels: int64(
          part.map((row) => labels[row]!),
          [part.length, 1],
        ),
      };
      let result: Record<string, Tensor>;
      if (learn) {
        feeds["d log_likelihood"] = float32(new Float32Array(part.length).fill(-1 / learn.items), [part.length, 1]);
        result = await this.timed("head", backward.run(feeds));
        this.accumulate(pair, -1, result);
        const back = result["d hidden"]!.data as Float32Array;
        for (const [i, row] of part.entries())
          gradient!.set(back.subarray(i * hidden_size, (i + 1) * hidden_size), row * hidden_size);
      } else result = await this.timed("head", forward.run(feeds));
      for (const value of result.log_likelihood!.data as Float32Array) nll -= value;
    }
    return { nll, labels: rows.length, gradient };
  }

  private async timed(
    part: keyof Network["times"],
    run: Promise<InferenceSession.ReturnType>,
  ): Promise<Record<string, Tensor>> {
    const began = performance.now();
    const result = await run;
    this.times[part] += performance.now() - began;
    return result as Record<string, Tensor>;
  }

  private async head_tensors(): Promise<Feeds> {
    const feeds: Feeds = {};
    for (const { name, dtype, dims } of this.head.pair.forward.inputs) {
      if (!this.base.stored.has(name)) continue;
      feeds[name] = tensor_of(dtype, await this.base.tensor(name), dims as number[]);
    }
    return feeds;
  }

  /** The tensors of layer `layer` under the names that the graph has for layer 0. */
  private tensors(graph: Graph, layer: number, base: ReadonlyMap<string, TensorData>): Feeds {
    const feeds: Feeds = {};
    for (const { name, dtype, dims } of graph.inputs) {
      const own = of_layer(name, layer);
      const data = this.parameters.get(own)?.data ?? base.get(own);
      if (!data) continue;
      feeds[name] = tensor_of(dtype, data, dims as number[]);
    }
    return feeds;
  }

  private accumulate(pair: Pair, layer: number, result: Record<string, Tensor>): void {
    for (const name of pair.wanted) {
      const parameter = this.parameters.get(of_layer(name, layer));
      if (!parameter) continue;
      const gradient = result[`d ${name}`]!.data as Float32Array;
      for (let i = 0; i < gradient.length; i++) parameter.gradient[i]! += gradient[i]!;
    }
  }

  /** Where the table of embeddings is learnt: the rows that were looked up. */
  private embedding_gradient(ids: Int32Array, gradient: Float32Array): void {
    const table = this.parameters.get("model.embed_tokens.weight");
    if (!table) return;
    const { hidden_size } = this.shape.config;
    for (const [row, id] of ids.entries())
      for (let i = 0; i < hidden_size; i++) table.gradient[id * hidden_size + i]! += gradient[row * hidden_size + i]!;
  }
}

function tensor_of(dtype: DataType, data: TensorData, dims: readonly number[]): Tensor {
  if (dtype === "uint8") return new OrtTensor("uint8", data as Uint8Array, dims);
  if (dtype === "int8") return new OrtTensor("int8", data as Int8Array, dims);
  return float32(data as Float32Array, dims);
}

const of_layer = (name: string, layer: number) => name.replace("model.layers.0.", `model.layers.${layer}.`);

/** `[sequences, 1, tokens, tokens]`: a token sees what stands before it in its document, and itself. */
function attention_bias({ sequences, documents }: Batch, window: number | null): Tensor {
  const tokens = documents.length / sequences;
  const bias = new Float32Array(sequences * tokens * tokens).fill(HIDDEN);
  for (let sequence = 0; sequence < sequences; sequence++) {
    const first = sequence * tokens;
    for (let row = 0, start = 0; row < tokens; row++) {
      if (row > 0 && documents[first + row] !== documents[first + row - 1]) start = row;
      const from = window === null ? start : Math.max(start, row - window + 1);
      bias.fill(0, (first + row) * tokens + from, (first + row) * tokens + row + 1);
    }
  }
  return float32(bias, [sequences, 1, tokens, tokens]);
}

/** A 32-bit number that depends on both. */
export function mix(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 1, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return (h ^ (h >>> 15)) >>> 0;
}
