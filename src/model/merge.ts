/** A LoRA adapter added into the weights of its model: a checkpoint that needs no adapter. */
import { copyFile, mkdir, open, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { aborted, BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { Graph } from "../graph/graph.js";
import * as op from "../graph/ops.js";
import { create_session, float32 } from "../graph/session.js";
import { read_adapter } from "./adapter.js";
import { open_checkpoint } from "./checkpoint.js";
import { read_floats, round_floats, type TensorSource, write_shards } from "./safetensors.js";

export interface MergeOptions {
  on_progress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/**
 * Writes the model in `dir` with the adapter in `adapter_dir` added, into `output`: safetensors with the classic names, in the
 * model's own precision (float16 becomes float32), and the files beside them. Tensors stream through, one at a time.
 *
 * @returns how many tensors were changed
 * @throws BimedixError bad_adapter when a tensor that the adapter names would stay as it is; what was written then is not a model
 */
export async function merge_adapter(
  dir: string,
  adapter_dir: string,
  output: string,
  { on_progress, signal }: MergeOptions = {},
): Promise<number> {
  if (resolve(output) === resolve(dir))
    throw new BimedixError("bad_option", {
      given: "the model's own directory as output",
      expected: "another one, as the model is read while it is written",
      todo: "choose another --output",
    });
  const checkpoint = await open_checkpoint(dir);
  const { pairs } = await read_adapter(adapter_dir, checkpoint.config);
  const graph = new Graph("merge");
  const [a, b] = [graph.input("a", "float32", ["rank", "columns"]), graph.input("b", "float32", ["rows", "rank"])];
  const weight = graph.input("weight", "float32", ["rows", "columns"]);
  const scaled = op.mul(op.matmul(b, a), graph.input("scale", "float32", []));
  graph.output("merged", op.add(weight, scaled));
  const session = await create_session(graph, { folder: "." });
  const total = [...checkpoint.tensors.values()].reduce((sum, { byte_length }) => sum + byte_length, 0);
  let done = 0;
  const read = async (name: string): Promise<Float32Array> => {
    if (signal?.aborted) throw aborted();
    const tensor = checkpoint.tensors.get(name)!;
    const { shape, file, byte_length } = tensor;
    const handle = await open(file).catch((error) =>
      Promise.reject(file_error(error, file, "a shard of the checkpoint")),
    );
    let values: Float32Array;
    try {
      values = await read_floats(
        handle,
        tensor,
        0,
        shape.reduce((product, dim) => product * dim, 1),
      );
    } finally {
      await handle.close();
    }
    const pair = pairs.get(name);
    if (pair) {
      const [rows, columns] = shape as [number, number];
      const { merged } = await session.run({
        weight: float32(values, [rows, columns]),
        a: float32(pair.a, [pair.rank, columns]),
        b: float32(pair.b, [rows, pair.rank]),
        scale: float32(Float32Array.of(pair.scale), []),
      });
      const changed = merged!.data as Float32Array;
      const rounded = round_floats(changed, tensor.dtype === "BF16" ? "BF16" : "F32");
      if (rounded.every((value, i) => value === values[i])) {
        throw new BimedixError("bad_adapter", {
          given: `an adapter that leaves ${name} as it is`,
          expected: "a change of every tensor that it names",
          todo: "check that it was trained",
        });
      }
      values = changed;
    }
    on_progress?.({ done: (done += byte_length), total });
    return values;
  };
  const tensors: TensorSource[] = [...checkpoint.tensors].map(([name, { shape, dtype }]) => ({
    name,
    shape,
    data: () => read(name),
    dtype: dtype === "BF16" ? "BF16" : "F32",
  }));
  try {
    await mkdir(output, { recursive: true }).catch((error) =>
      Promise.reject(file_error(error, output, "a folder to write to")),
    );
    await write_shards(output, tensors);
    await copy_model_files(dir, output);
  } finally {
    await session.release();
  }
  return pairs.size;
}

/** Configuration, tokenizer and template of a model, without its weights and its card. */
export async function copy_model_files(from: string, to: string): Promise<void> {
  for (const name of await readdir(from))
    if (/^(?!.*\.index\.json$).*\.(json|jinja|model)$/.test(name)) await copyFile(join(from, name), join(to, name));
}
