/**
 * From a checkpoint to `onnx/model{,_quantized,_q4,_int8,_bnb4}.onnx` with its weights beside it, in the layout of Transformers.js.
 *
 * Tensors stream through in pieces of at most PIECE elements, so that memory does not depend on the model's size. The graph
 * file is written last, and without it nothing loads; it holds a checksum of the weights.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { aborted } from "../errors.js";
import { file_error, part_in, remove_parts, same_folder, write_atomically } from "../files.js";
import { type Lock, with_output } from "../lock.js";
import { remember } from "./cache.js";
import type { Checkpoint } from "./checkpoint.js";
import { model_file, type StoredDtype } from "./dtypes.js";
import { exported_graph } from "./graphs.js";
import { layout_of, type Placement } from "./layout.js";
import { copy_published_files, refuse_own_base } from "./model_files.js";
import { type Piece, PieceWorker } from "./pieces.js";
import { type StoredTensor, TENSOR_CHECKSUM, tensor_table } from "./weights.js";

export { type Dtype, dtypes, model_file, parse_dtype, type StoredDtype } from "./dtypes.js";

export interface ConvertOptions {
  dtype: StoredDtype;
  /** Where `onnx/` goes, and what belongs to a model beside its weights; default: the checkpoint's own directory. */
  output?: string;
  /** `waiting`: the other process that has the lock of where this one writes. */
  on_progress?: (progress: { done: number; total: number; waiting?: string }) => void;
  signal?: AbortSignal;
}

/** Elements of one piece: 16 MB as float32, and a block of every size divides it. */
const PIECE = 2 ** 22;

/** Writes the model and returns the path of its graph. @throws BimedixError for bad weights, a full disk, an abort, in_use */
export async function convert(checkpoint: Checkpoint, options: ConvertOptions): Promise<string> {
  const { output = checkpoint.dir, ...rest } = options;
  const { on_progress, signal } = rest;
  const in_place = await same_folder(output, checkpoint.dir);
  if (!in_place) await refuse_own_base(output, checkpoint.dir);
  const copy = async () => {
    if (!in_place) await copy_published_files(checkpoint.dir, output);
  };
  const work = (lock: Lock) => write_converted(checkpoint, { ...rest, folder: join(output, "onnx"), lock, copy });
  const on_wait = (waiting: string) => on_progress?.({ done: 0, total: 1, waiting });
  return with_output(output, "a conversion", work, { wait: false, on_wait, ...(signal ? { signal } : {}) });
}

/**
 * The same by who holds the lock of the folder around `folder`, which is the one named onnx.
 * @param copy writes what else belongs to the model, before the graph makes one of it
 */
export async function write_converted(
  checkpoint: Checkpoint,
  options: Omit<ConvertOptions, "output"> & { folder: string; lock: Lock; copy?: () => Promise<void> },
): Promise<string> {
  const { dtype, folder, lock, copy } = options;
  const graph_file = join(folder, model_file(dtype));
  const data_file = `${graph_file}_data`;
  const part = part_in(folder);
  try {
    await mkdir(folder, { recursive: true });
    await remove_parts(folder);
    const { stored, placements } = layout_of(checkpoint.config, dtype, basename(data_file));
    const checksum = await write_weights(part, { checkpoint, stored, placements, ...options });
    await lock.check();
    // An older graph must not meet newer weights if the machine stops between the two renames.
    await rm(graph_file, { force: true });
    await rename(part, data_file);
    await remember(data_file, checksum);
    await copy?.();
    const graph = exported_graph(checkpoint.config, stored);
    graph.metadata.set(TENSOR_CHECKSUM, checksum);
    await write_atomically(graph_file, (handle) => handle.writeFile(graph.serialize()));
    return graph_file;
  } catch (error) {
    // What went wrong is told, and not that nothing could be removed.
    await rm(part, { force: true }).catch(() => {});
    throw file_error(error, folder, "a place for the converted model");
  }
}

interface Weights extends Pick<ConvertOptions, "on_progress" | "signal"> {
  checkpoint: Checkpoint;
  stored: ReadonlyMap<string, StoredTensor>;
  placements: readonly Placement[];
}

/** Writes a new file of weights and returns its checksum. */
async function write_weights(
  file: string,
  { checkpoint, stored, placements, on_progress, signal }: Weights,
): Promise<string> {
  const pieces = placements.flatMap((placement) => pieces_of(placement, checkpoint, file));
  const written = [...stored.values()].reduce(
    (sum, { bytes }) => sum + ("location" in bytes ? bytes.byte_length : 0),
    0,
  );
  const total = pieces.reduce((sum, piece) => sum + source_bytes(piece), written);
  let done = 0;
  const advance = (bytes: number) => on_progress?.({ done: Math.min((done += bytes), total), total });
  const handle = await open(file, "wx");
  const workers = Array.from({ length: Math.min(availableParallelism(), 8, pieces.length) }, () => new PieceWorker());
  try {
    // All of them take the next piece from one iterator.
    const queue = pieces.values();
    const take_pieces = async (worker: PieceWorker) => {
      for (const piece of queue) {
        if (signal?.aborted) throw aborted();
        await worker.run(piece);
        advance(source_bytes(piece));
      }
    };
    await Promise.all(workers.map(take_pieces));
    await handle.sync();
  } finally {
    await Promise.all(workers.map((worker) => worker.close()));
    await handle.close();
  }
  const checksum = await checksum_of(tensor_table(stored), file, { on_bytes: advance, ...(signal ? { signal } : {}) });
  on_progress?.({ done: total, total });
  return checksum;
}

/** The sha256 of a table of tensors and of the file that it speaks of, in hexadecimal. */
export async function checksum_of(
  table: string,
  file: string,
  { on_bytes, signal }: { on_bytes?: (bytes: number) => void; signal?: AbortSignal } = {},
): Promise<string> {
  const hash = createHash("sha256").update(table);
  for await (const chunk of createReadStream(file, { highWaterMark: 2 ** 20 })) {
    if (signal?.aborted) throw aborted();
    hash.update(chunk as Uint8Array);
    on_bytes?.((chunk as Uint8Array).length);
  }
  return hash.digest("hex");
}

const source_bytes = ({ tensor, count }: Piece) => (tensor.byte_length / elements(tensor.shape)) * count;
const elements = (shape: readonly number[]) => shape.reduce((product, dim) => product * dim, 1);

/** The pieces of work that put a tensor in its place in `file`. */
function pieces_of(placement: Placement, { tensors }: Checkpoint, file: string): Piece[] {
  const { name, storage, values_at, value_bytes, scales_at, block_size, double_at } = placement;
  const tensor = tensors.get(name)!;
  const count = elements(tensor.shape);
  // The offset of double quantisation is the mean over the whole tensor, which is therefore one piece.
  if (double_at) return [{ tensor, first: 0, count, storage, file, values_at, scales_at, double_at }];
  const size = block_size === null ? PIECE : Math.max(1, Math.floor(PIECE / block_size)) * block_size;
  return Array.from({ length: Math.ceil(count / size) }, (_, i) => ({
    tensor,
    first: i * size,
    count: Math.min(size, count - i * size),
    storage,
    file,
    values_at: values_at + i * size * value_bytes,
    scales_at: scales_at + (block_size === null ? 0 : ((i * size) / block_size) * 4),
  }));
}
