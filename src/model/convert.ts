/**
 * From a checkpoint to `onnx/model{,_q8,_q4}.onnx` with its weights beside it, in the layout of Transformers.js.
 *
 * Tensors stream through in pieces of at most PIECE values, so that memory does not depend on the model's size. The graph
 * file is written last, and without it nothing loads.
 */
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, write_atomically } from "../files.js";
import type { DataType } from "../graph/graph.js";
import { type Checkpoint, expected_tensors } from "./checkpoint.js";
import { exported_graph } from "./graphs.js";
import { block_size_for, quantize } from "./quantize.js";
import { read_floats, type TensorInfo } from "./safetensors.js";
import { codes_name, type StoredTensor, scales_name } from "./weights.js";

export const dtypes = ["fp32", "q8", "q4"] as const;
export type Dtype = (typeof dtypes)[number];

/** The graph file of a dtype, in the names of Transformers.js; its weights are in the same name with `_data`. */
export const model_file = (dtype: Dtype) => (dtype === "fp32" ? "model.onnx" : `model_${dtype}.onnx`);

/** @throws BimedixError bad_option */
export function parse_dtype(dtype: string): Dtype {
  const known = dtypes.find((known) => known === dtype);
  if (known) return known;
  throw new BimedixError("bad_option", {
    given: `dtype ${JSON.stringify(dtype)}`,
    expected: dtypes.join(", "),
    todo: "choose one of them",
  });
}

export interface ConvertOptions {
  dtype: Dtype;
  /** Where `onnx/` goes; default: the checkpoint's own directory. */
  output?: string;
  on_progress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Values at once in memory: 64 MB as float32, and a block of every size divides it. */
const PIECE = 2 ** 24;
const ALIGNMENT = 64;

/** Writes the model and returns the path of its graph. @throws BimedixError for bad weights, a full disk, an abort */
export async function convert(checkpoint: Checkpoint, options: ConvertOptions): Promise<string> {
  const { dtype, output = checkpoint.dir, on_progress, signal } = options;
  const folder = join(output, "onnx");
  const graph_file = join(folder, model_file(dtype));
  const data_file = `${graph_file}_data`;
  const part = `${data_file}.${process.pid}.part`;
  const sources = new SourceFiles();
  try {
    await mkdir(folder, { recursive: true });
    const out = new DataWriter(await open(part, "w"), basename(data_file));
    try {
      const total = [...checkpoint.tensors.values()].reduce((sum, tensor) => sum + tensor.byte_length, 0);
      let done = 0;
      for (const { name } of expected_tensors(checkpoint.config)) {
        const tensor = checkpoint.tensors.get(name)!;
        for await (const bytes of write_tensor(out, sources, tensor, storage(tensor, dtype))) {
          if (signal?.aborted)
            throw new BimedixError("aborted", {
              given: "a conversion that was stopped",
              expected: "it to finish",
              todo: "run it again",
            });
          on_progress?.({ done: (done += bytes), total });
        }
      }
      await out.handle.sync();
    } finally {
      await out.handle.close();
    }
    // An older graph must not meet newer weights if the machine stops between the two renames.
    await rm(graph_file, { force: true });
    await rename(part, data_file);
    const graph = exported_graph(checkpoint.config, out.stored).serialize();
    await write_atomically(graph_file, (handle) => handle.writeFile(graph));
    return graph_file;
  } catch (error) {
    await rm(part, { force: true });
    throw file_error(error, folder, "a place for the converted model");
  } finally {
    await sources.close();
  }
}

type Storage = { bits: 4 | 8; block_size: number } | "float32";

/** Norms and the router stay float32; a table of embeddings takes 8 bits, as its rows are looked up and not summed. */
function storage({ name, shape }: TensorInfo, dtype: Dtype): Storage {
  if (dtype === "fp32" || shape.length === 1 || name.endsWith("block_sparse_moe.gate.weight")) return "float32";
  const block_size = block_size_for(shape[1]!);
  if (block_size === null) return "float32";
  return { bits: dtype === "q8" || name === "model.embed_tokens.weight" ? 8 : 4, block_size };
}

/** Yields the number of source bytes of each piece written. */
async function* write_tensor(
  out: DataWriter,
  sources: SourceFiles,
  tensor: TensorInfo,
  storage: Storage,
): AsyncGenerator<number> {
  const handle = await sources.open(tensor.file);
  const count = tensor.shape.reduce((product, dim) => product * dim, 1);
  const width = tensor.byte_length / count;
  const scales: Float32Array[] = [];
  if (storage === "float32") await out.begin(tensor.name, "float32", tensor.shape);
  else {
    const { bits, block_size } = storage;
    const [rows, columns] = tensor.shape as [number, number];
    await out.begin(codes_name(tensor.name, bits), "uint8", [rows, columns / block_size, (block_size * bits) / 8]);
  }
  for (let first = 0; first < count; first += PIECE) {
    const values = await read_floats(handle, tensor, first, Math.min(PIECE, count - first));
    if (storage === "float32") await out.write(values);
    else {
      const piece = quantize(values, storage.bits, storage.block_size);
      await out.write(piece.codes);
      scales.push(piece.scales);
    }
    yield values.length * width;
  }
  if (storage !== "float32") {
    await out.begin(scales_name(tensor.name), "float32", [count / storage.block_size]);
    for (const piece of scales) await out.write(piece);
  }
}

/** Appends tensors to the weights' file and remembers where each begins. */
class DataWriter {
  readonly stored = new Map<string, StoredTensor>();
  length = 0;
  private current: { offset: number; byte_length: number } | undefined;

  constructor(
    readonly handle: FileHandle,
    private readonly location: string,
  ) {}

  async begin(name: string, dtype: DataType, dims: readonly number[]): Promise<void> {
    const padding = -this.length & (ALIGNMENT - 1);
    if (padding) await this.append(new Uint8Array(padding));
    this.current = { offset: this.length, byte_length: 0 };
    const bytes = Object.assign(this.current, { location: this.location });
    this.stored.set(name, { dtype, dims, bytes });
  }

  async write(values: Uint8Array | Float32Array): Promise<void> {
    await this.append(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
    this.current!.byte_length += values.byteLength;
  }

  private async append(bytes: Uint8Array): Promise<void> {
    await this.handle.writeFile(bytes);
    this.length += bytes.length;
  }
}

/** The shard being read; checkpoints are written in the decoder's order, so one open file at a time is enough. */
class SourceFiles {
  private file = "";
  private handle: FileHandle | undefined;

  async open(file: string): Promise<FileHandle> {
    if (file !== this.file || !this.handle) {
      await this.close();
      this.handle = await open(file, "r");
      this.file = file;
    }
    return this.handle;
  }

  async close(): Promise<void> {
    await this.handle?.close();
    this.handle = undefined;
  }
}
