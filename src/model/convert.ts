/**
 * From a checkpoint to `onnx/model{,_quantized,_q4,_int8,_bnb4}.onnx` with its weights beside it, in the layout of Transformers.js.
 *
 * Tensors stream through in pieces of at most PIECE elements, so that memory does not depend on the model's size. The graph
 * file is written last, and without it nothing loads.
 */
import { existsSync } from "node:fs";
import { copyFile, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { threadId } from "node:worker_threads";
import { BimedixError } from "../errors.js";
import { file_error, read_json, read_text, same_folder, write_atomically } from "../files.js";
import { type Checkpoint, expected_tensors } from "./checkpoint.js";
import { exported_graph } from "./graphs.js";
import { ABSMAX_BLOCK, NF4_BLOCK } from "./nf4.js";
import { type Piece, PieceWorker, type Storage } from "./pieces.js";
import { block_size_for } from "./quantize.js";
import type { TensorInfo } from "./safetensors.js";
import { codes_name, double_names, int8_name, nf4_name, type StoredTensor, scales_name } from "./weights.js";

/** What a model runs in. `bnb4` is NF4, QLoRA's format of a base that is trained on. */
export const dtypes = ["fp32", "q8", "q4", "bnb4"] as const;
export type Dtype = (typeof dtypes)[number];
/**
 * And what it is trained on besides: NF4 with the magnitudes of its blocks quantised again; `int8`, with a scale a row and not a block,
 * whose products are fast with many rows and slow with one.
 */
export type StoredDtype = Dtype | "bnb4_double" | "int8";

const suffixes: Record<StoredDtype, string> = {
  fp32: "",
  q8: "_quantized",
  q4: "_q4",
  bnb4: "_bnb4",
  bnb4_double: "_bnb4_double",
  int8: "_int8",
};

/** The graph file of a dtype, in the names of Transformers.js; its weights are in the same name with `_data`. */
export const model_file = (dtype: StoredDtype) => `model${suffixes[dtype]}.onnx`;

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
  dtype: StoredDtype;
  /** Where `onnx/` goes; default: the checkpoint's own directory. */
  output?: string;
  on_progress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Elements of one piece: 16 MB as float32, and a block of every size divides it. */
const PIECE = 2 ** 22;
/** Every tensor begins at a multiple of this many bytes, so that it can be mapped and read by vector instructions. */
const ALIGNMENT = 64;

/** Writes the model and returns the path of its graph. @throws BimedixError for bad weights, a full disk, an abort */
export async function convert(checkpoint: Checkpoint, options: ConvertOptions): Promise<string> {
  const { dtype, output = checkpoint.dir, on_progress, signal } = options;
  const folder = join(output, "onnx");
  const graph_file = join(folder, model_file(dtype));
  const data_file = `${graph_file}_data`;
  const part = `${data_file}.${process.pid}.${threadId}.part`;
  let workers: PieceWorker[] = [];
  try {
    await mkdir(folder, { recursive: true });
    await remove_abandoned(folder);
    const { stored, pieces } = plan(checkpoint, dtype, part, basename(data_file));
    const total = pieces.reduce((sum, piece) => sum + source_bytes(piece), 0);
    const handle = await open(part, "w");
    try {
      workers = Array.from({ length: Math.min(availableParallelism(), 8, pieces.length) }, () => new PieceWorker());
      let done = 0;
      // All of them take the next piece from one iterator.
      const queue = pieces.values();
      const take_pieces = async (worker: PieceWorker) => {
        for (const piece of queue) {
          if (signal?.aborted) throw stopped();
          await worker.run(piece);
          on_progress?.({ done: (done += source_bytes(piece)), total });
        }
      };
      await Promise.all(workers.map(take_pieces));
      await handle.sync();
    } finally {
      await Promise.all(workers.map((worker) => worker.close()));
      await handle.close();
    }
    // An older graph must not meet newer weights if the machine stops between the two renames.
    await rm(graph_file, { force: true });
    await rename(part, data_file);
    if (!(await same_folder(output, checkpoint.dir))) await copy_model_files(checkpoint.dir, output);
    const graph = exported_graph(checkpoint.config, stored).serialize();
    await write_atomically(graph_file, (handle) => handle.writeFile(graph));
    return graph_file;
  } catch (error) {
    await rm(part, { force: true });
    throw file_error(error, folder, "a place for the converted model");
  }
}

const source_bytes = ({ tensor, count }: Piece) => (tensor.byte_length / elements(tensor)) * count;
const elements = ({ shape }: TensorInfo) => shape.reduce((product, dim) => product * dim, 1);

function stopped(): BimedixError {
  return new BimedixError("aborted", {
    given: "a conversion that was stopped",
    expected: "it to finish",
    todo: "run it again",
  });
}

/** Norms and the router stay float32; a table of embeddings takes 8 bits, as its rows are looked up and not summed. */
function storage({ name, shape }: TensorInfo, dtype: StoredDtype): Storage {
  if (dtype === "fp32" || shape.length === 1 || name.endsWith("block_sparse_moe.gate.weight")) return "float32";
  if (dtype === "int8" || dtype === "bnb4" || dtype === "bnb4_double") {
    // The table of embeddings stays as it is, and in NF4 that of the output, as in QLoRA.
    if (dtype === "int8") return name === "model.embed_tokens.weight" ? "float32" : "int8";
    if (!name.includes(".layers.")) return "float32";
    if (shape[1]! % NF4_BLOCK !== 0) return "float32";
    return dtype === "bnb4" ? "nf4" : "nf4_double";
  }
  const block_size = block_size_for(shape[1]!);
  if (block_size === null) return "float32";
  return { bits: dtype === "q8" || name === "model.embed_tokens.weight" ? 8 : 4, block_size };
}

/** Where every tensor will lie in the file of weights, and the pieces of work that put it there. */
function plan(
  { config, tensors }: Checkpoint,
  dtype: StoredDtype,
  file: string,
  location: string,
): { stored: Map<string, StoredTensor>; pieces: Piece[] } {
  const stored = new Map<string, StoredTensor>();
  const pieces: Piece[] = [];
  let end = 0;
  const place = (name: string, dtype: "float32" | "uint8" | "int8", dims: readonly number[]): number => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const byte_length = dims.reduce((product, dim) => product * dim, dtype === "float32" ? 4 : 1);
    stored.set(name, { dtype, dims, bytes: { location, offset, byte_length } });
    end = offset + byte_length;
    return offset;
  };
  for (const group of neighbours(expected_tensors(config))) {
    const kinds = group.map((name) => storage(tensors.get(name)!, dtype));
    const places = group.map((name, i) => {
      const kind = kinds[i]!;
      const { shape } = tensors.get(name)!;
      if (kind === "float32") return { values_at: place(name, "float32", shape), value_bytes: 4 };
      const [rows, columns] = shape as [number, number];
      if (kind === "int8") return { values_at: place(int8_name(name), "int8", shape), value_bytes: 1 };
      if (typeof kind === "string")
        return { values_at: place(nf4_name(name), "uint8", [rows, columns / 2]), value_bytes: 1 / 2 };
      const { bits, block_size } = kind;
      const dims = [rows, columns / block_size, (block_size * bits) / 8];
      return { values_at: place(codes_name(name, bits), "uint8", dims), value_bytes: bits / 8 };
    });
    for (const [i, name] of group.entries()) {
      const tensor = tensors.get(name)!;
      const kind = kinds[i]!;
      const { values_at, value_bytes } = places[i]!;
      const count = elements(tensor);
      if (kind === "nf4_double") {
        const groups = Math.ceil(count / NF4_BLOCK / ABSMAX_BLOCK);
        const names = double_names(name);
        const double_at = {
          codes: place(names.codes, "uint8", [groups, ABSMAX_BLOCK]),
          scales: place(names.scales, "float32", [groups]),
          offset: place(names.offset, "float32", [1]),
        };
        // The offset is the mean over the whole tensor, which is therefore one piece.
        pieces.push({ tensor, first: 0, count, storage: kind, file, values_at, scales_at: 0, double_at });
        continue;
      }
      const block_size = block_of(kind, tensor);
      const scales_at = block_size === null ? 0 : place(scales_name(name), "float32", [count / block_size]);
      const size = block_size === null ? PIECE : Math.max(1, Math.floor(PIECE / block_size)) * block_size;
      for (let first = 0; first < count; first += size) {
        pieces.push({
          tensor,
          first,
          count: Math.min(size, count - first),
          storage: kind,
          file,
          values_at: values_at + first * value_bytes,
          scales_at: scales_at + (block_size === null ? 0 : (first / block_size) * 4),
        });
      }
    }
  }
  return { stored, pieces };
}

/** How many elements share a scale; null where there is none. */
function block_of(kind: Exclude<Storage, "nf4_double">, { shape }: TensorInfo): number | null {
  if (kind === "float32") return null;
  if (kind === "nf4") return NF4_BLOCK;
  return kind === "int8" ? shape[1]! : kind.block_size;
}

/** The names in order, in groups whose codes, and then scales, lie one behind the other: the decoder multiplies them as one. */
function* neighbours(tensors: Iterable<{ name: string }>): Generator<string[]> {
  let group: string[] = [];
  for (const { name } of tensors) {
    if (!/\.(k_proj|v_proj|w3|up_proj)\.weight$/.test(name)) {
      if (group.length > 0) yield group;
      group = [];
    }
    group.push(name);
  }
  yield group;
}

/** Removes what conversions left behind whose process was killed: a part is as large as the model. */
async function remove_abandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = Number(/_data\.(\d+)\.\d+\.part$/.exec(name)?.[1]);
    if (pid && !is_running(pid)) await rm(join(folder, name), { force: true });
  }
}

function is_running(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** What belongs to a model beside its weights: configuration, tokenizer, template, card and licence. */
const MODEL_FILES = /^(?!.*\.index\.json$).*\.(json|jinja|model)$|^(README|LICEN[CS]E|NOTICE)/i;

async function copy_model_files(from: string, to: string): Promise<void> {
  const rewritten = (name: string, content: object) =>
    write_atomically(join(to, name), (handle) => handle.writeFile(JSON.stringify(content, null, 2)));
  const template = join(from, "chat_template.jinja");
  for (const name of await readdir(from)) {
    if (!MODEL_FILES.test(name) || !(await stat(join(from, name))).isFile()) continue;
    if (name === "config.json") {
      const config = await read_json(join(from, name), "bad_config");
      // Without this Transformers.js looks for the weights inside the graph.
      await rewritten(name, { ...config, "transformers.js_config": { use_external_data_format: true } });
    } else if (name === "tokenizer_config.json" && existsSync(template)) {
      // Transformers.js reads the template here and nowhere else; for others the file beside it goes before this.
      const config = await read_json(join(from, name), "bad_tokenizer");
      await rewritten(name, { ...config, chat_template: await read_text(template, "a chat template") });
    } else await copyFile(join(from, name), join(to, name));
  }
}
