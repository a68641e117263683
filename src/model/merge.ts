/** A LoRA adapter added into the weights of its model: a checkpoint that needs no adapter. */
import { open } from "node:fs/promises";
import type { InferenceSession } from "onnxruntime-node";
import { aborted, BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { Graph } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import { create_session, float32 } from "../graph/session.js";
import { type Lock, with_output } from "../lock.js";
import type { Adapter, LoraPair } from "./adapter.js";
import { type Checkpoint, open_checkpoint } from "./checkpoint.js";
import { refuse_own_base } from "./model_files.js";
import { read_adapter } from "./read_adapter.js";
import { read_floats, round_floats, type TensorInfo, type TensorSource } from "./safetensors.js";
import { write_model } from "./write_model.js";

export interface MergeOptions {
  /** Also write a model of which no tensor changed. Default false. */
  allow_unchanged?: boolean;
  /** `waiting`: the other process that has the lock of where this one writes. */
  on_progress?: (progress: { done: number; total: number; waiting?: string }) => void;
  signal?: AbortSignal;
}

export interface MergeResult {
  /** How many tensors are other than the base's. */
  changed: number;
  /**
   * Those that the adapter names and that are the same in the model's precision: an expert that no token reached while training, or a
   * change that is lost in rounding.
   */
  unchanged: string[];
}

/**
 * Writes the model in `dir` with the adapter in `adapter_dir` added, into `output`: safetensors with the classic names, in the
 * model's own precision (float16 and float64 become float32), and the files beside them. Tensors stream through, one at a time. Where an adapter
 * changes one of two tied tables, the model that is written has two.
 *
 * @throws BimedixError bad_adapter when no tensor changed, unless that is allowed; in_use; what was in `output` is then as it was
 */
export async function merge_adapter(
  dir: string,
  adapter_dir: string,
  output: string,
  { allow_unchanged = false, on_progress, signal }: MergeOptions = {},
): Promise<MergeResult> {
  await refuse_own_base(output, dir);
  const checkpoint = await open_checkpoint(dir);
  const adapter = await read_adapter(adapter_dir, checkpoint.config);
  const { tensors, unties } = output_tensors(checkpoint, adapter);
  const total = tensors.reduce((sum, [, { byte_length }]) => sum + byte_length, 0);
  const result: MergeResult = { changed: 0, unchanged: [] };
  const names = new Set([...adapter.pairs.keys(), ...adapter.vectors.keys()]);
  const adder = await Adder.create();
  let done = 0;
  const read = async (name: string, tensor: TensorInfo): Promise<Float32Array> => {
    if (signal?.aborted) throw aborted();
    const values = await values_of(tensor);
    done += tensor.byte_length;
    on_progress?.({ done, total });
    let written = values;
    if (names.has(name)) {
      written = adapter.vectors.get(name) ?? (await adder.add(values, tensor.shape, adapter.pairs.get(name)!));
      const rounded = round_floats(written, written_dtype(tensor));
      if (!rounded.every(Number.isFinite))
        throw new BimedixError("bad_adapter", {
          given: `an adapter with which ${name} is infinite or not a number`,
          expected: `values that ${written_dtype(tensor)} can hold`,
          todo: "check that it was trained for this model",
        });
      const same = rounded.every((value, i) => value === values[i]);
      if (!same) result.changed++;
      // A whole module that is the base's own is no sign of anything: PEFT adds the tables of embeddings unasked.
      else if (adapter.pairs.get(name)?.replaces === false) result.unchanged.push(name);
    }
    return written;
  };
  const sources: TensorSource[] = tensors.map(([name, tensor]) => ({
    name,
    shape: tensor.shape,
    data: () => read(name, tensor),
    dtype: written_dtype(tensor),
  }));
  const write = (lock: Lock) =>
    write_model(output, dir, sources, {
      ...(unties ? { config: { tie_word_embeddings: false } } : {}),
      before_move: () => {
        check(result, names.size, allow_unchanged);
        return lock.check();
      },
    });
  try {
    const on_wait = (waiting: string) => on_progress?.({ done: 0, total: 1, waiting });
    await with_output(output, "a merge", write, { wait: false, on_wait, ...(signal ? { signal } : {}) });
  } finally {
    await adder.release();
  }
  return result;
}

/** A checkpoint's tensors, and the output layer's own where it was the table of embeddings and the adapter makes two of one. */
function output_tensors(
  { config, tensors }: Checkpoint,
  { pairs }: Adapter,
): { tensors: [string, TensorInfo][]; unties: boolean } {
  const [table, head] = ["model.embed_tokens.weight", "lm_head.weight"] as const;
  const unties = config.tie_word_embeddings && (pairs.has(table) || pairs.has(head));
  return { tensors: [...tensors, ...(unties ? [[head, tensors.get(table)!] as [string, TensorInfo]] : [])], unties };
}

function check({ changed }: MergeResult, named: number, allow_unchanged: boolean): void {
  if (changed > 0 || allow_unchanged) return;
  throw new BimedixError("bad_adapter", {
    given: `an adapter that leaves all ${named} tensors that it names as they are`,
    expected: "a change",
    todo: "check that it was trained, or allow it (--allow-unchanged)",
  });
}

const written_dtype = ({ dtype }: TensorInfo): "BF16" | "F32" => (dtype === "BF16" ? "BF16" : "F32");

async function values_of(tensor: TensorInfo): Promise<Float32Array> {
  const { shape, file } = tensor;
  const handle = await open(file).catch((error) =>
    Promise.reject(file_error(error, file, "a shard of the checkpoint")),
  );
  try {
    return await read_floats(
      handle,
      tensor,
      0,
      shape.reduce((product, dim) => product * dim, 1),
    );
  } finally {
    await handle.close();
  }
}

/** Adds pairs to matrices, in the runtime. */
class Adder {
  private constructor(private readonly session: InferenceSession) {}

  static async create(): Promise<Adder> {
    const graph = new Graph("merge");
    const [a, b] = [graph.input("a", "float32", ["rank", "columns"]), graph.input("b", "float32", ["rows", "rank"])];
    const weight = graph.input("weight", "float32", ["rows", "columns"]);
    const scaled = op.mul(op.matmul(b, a), graph.input("scale", "float32", []));
    graph.output("merged", op.add(weight, scaled));
    return new Adder(await create_session(graph, { folder: "." }));
  }

  async add(values: Float32Array, shape: readonly number[], pair: LoraPair): Promise<Float32Array> {
    const [rows, columns] = shape as [number, number];
    const { merged } = await this.session.run({
      weight: float32(pair.replaces ? new Float32Array(values.length) : values, [rows, columns]),
      a: float32(pair.a, [pair.rank, columns]),
      b: float32(pair.b, [rows, pair.rank]),
      scale: float32(Float32Array.of(pair.scale), []),
    });
    return merged!.data as Float32Array;
  }

  release(): Promise<void> {
    return this.session.release();
  }
}
