/**
 * Where the weights of a loaded model come from: a converted `onnx/model_*.onnx` (in the model's directory or in the cache),
 * or, for float32 checkpoints, the safetensors file itself, which the graph names by offset and length without a copy.
 * Only the table of tensors is read from a converted model; the graph that runs is always built from the one decoder.
 */
import { open, readFile, realpath, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { aborted, BimedixError } from "../errors.js";
import { check_file, file_error } from "../files.js";
import { type Lock, with_output } from "../lock.js";
import { as_text, fields } from "../protobuf.js";
import { check_once, converted_folder } from "./cache.js";
import { type Checkpoint, open_checkpoint } from "./checkpoint.js";
import { type ModelConfig, read_config } from "./config.js";
import { checksum_of, write_converted } from "./convert.js";
import { model_file, type StoredDtype } from "./dtypes.js";
import { layout_of } from "./layout.js";
import { read_floats, type TensorInfo } from "./safetensors.js";
import { compare_tables, parse_tensor_table, type StoredTensor, TENSOR_CHECKSUM, TENSOR_TABLE } from "./weights.js";

export interface Store {
  config: ModelConfig;
  tensors: Map<string, StoredTensor>;
  /** The folder that the tensors' locations are relative to. */
  folder: string;
}

interface Progress {
  /** `waiting`: the other process that has the lock of where this one writes. */
  on_progress?: (progress: { done: number; total: number; waiting?: string }) => void;
  signal?: AbortSignal;
}

export interface StoreOptions extends Progress {
  dtype: StoredDtype;
}

/**
 * Opens a model directory at a precision, converting it into the cache when it has to. Weights are read through once: against the
 * checksum of their conversion, or for values that are not finite; later starts know by the file's times that it is the same.
 *
 * @throws BimedixError bad_checkpoint where a conversion is damaged or of another config.json, nan_weights, and as `open_checkpoint`
 */
export async function open_store(dir: string, { dtype, ...progress }: StoreOptions): Promise<Store> {
  const config = await read_config(dir);
  const shipped = await read_store(join(dir, "onnx", model_file(dtype)), config, dtype, progress);
  if (shipped) return shipped;
  const checkpoint = await open_checkpoint(dir);
  const sources = [...checkpoint.tensors.values()];
  if (dtype === "fp32" && sources.every(({ dtype }) => dtype === "F32") && folders_of(sources).size === 1)
    return mapped(checkpoint, progress);
  const output = await converted_folder(dir, new Set(sources.map(({ file }) => file)));
  const folder = join(output, "onnx");
  const file = join(folder, model_file(dtype));
  // What is damaged there is made again.
  const cached = () =>
    read_store(file, config, dtype, progress).catch((error: unknown) => {
      if (error instanceof BimedixError && error.code === "bad_checkpoint") return null;
      throw error;
    });
  const found = await cached();
  if (found) return found;
  const convert_once = async (lock: Lock) => {
    const made = await cached();
    if (made) return made;
    for (const damaged of [file, `${file}_data`]) await rm(damaged, { force: true });
    await write_converted(checkpoint, { dtype, folder, lock, ...progress });
    return (await read_store(file, config, dtype, progress))!;
  };
  const { on_progress, signal } = progress;
  const on_wait = (waiting: string) => on_progress?.({ done: 0, total: 1, waiting });
  return with_output(output, "a conversion", convert_once, { on_wait, ...(signal ? { signal } : {}) });
}

/** Shards may be links to several disks, and a graph names its files in one folder. */
const folders_of = (sources: readonly TensorInfo[]) => new Set(sources.map(({ file }) => dirname(file)));

/** A float32 checkpoint where it lies. */
async function mapped({ config, tensors }: Checkpoint, progress: Progress): Promise<Store> {
  const sources = [...tensors.values()];
  for (const file of new Set(sources.map(({ file }) => file))) {
    const own = sources.filter((tensor) => tensor.file === file);
    await check_once(file, "finite", () => check_finite(file, own, progress));
  }
  const stored = sources.map(({ name, shape: dims, file, offset, byte_length }): [string, StoredTensor] => {
    return [name, { dtype: "float32", dims, bytes: { location: basename(file), offset, byte_length } }];
  });
  return { config, tensors: new Map(stored), folder: dirname(sources[0]!.file) };
}

async function check_finite(file: string, tensors: readonly TensorInfo[], { signal }: Progress): Promise<void> {
  const handle = await open(file);
  try {
    for (const tensor of tensors) {
      const count = tensor.byte_length / 4;
      for (let first = 0; first < count; first += PIECE) {
        if (signal?.aborted) throw aborted();
        await read_floats(handle, tensor, first, Math.min(PIECE, count - first));
      }
    }
  } finally {
    await handle.close();
  }
}

/** Elements that are looked at in one go. */
const PIECE = 2 ** 20;

/** A converted model that is what config.json says, or null where there is none. @throws BimedixError bad_checkpoint */
async function read_store(
  graph_file: string,
  config: ModelConfig,
  dtype: StoredDtype,
  progress: Progress,
): Promise<Store | null> {
  const converted = await read_converted(graph_file, progress);
  if (!converted) return null;
  // A conversion holds an output layer of its own where its checkpoint had one, whatever the configuration said.
  const has_head = [...converted.tensors.keys()].some((name) => name.startsWith("lm_head."));
  const own = { ...config, tie_word_embeddings: config.tie_word_embeddings && !has_head };
  try {
    compare_tables(converted.tensors, layout_of(own, dtype, "").stored);
  } catch (error) {
    if (error instanceof RangeError) throw damaged(graph_file, error.message, "the model that config.json describes");
    throw error;
  }
  return { config: own, ...converted };
}

const damaged = (graph_file: string, given: string, expected: string): BimedixError =>
  new BimedixError("bad_checkpoint", {
    given: `${graph_file}: ${given}`,
    expected,
    todo: "convert the model again, or download the file again",
  });

/**
 * The tensors of a model that was converted here, or null when there is none.
 * @throws BimedixError bad_checkpoint when it is damaged. One without a checksum, as earlier versions wrote them, is taken at its word.
 */
export async function read_converted(
  graph_file: string,
  { signal, on_progress }: Progress = {},
): Promise<Pick<Store, "tensors" | "folder"> | null> {
  let graph: Uint8Array;
  try {
    await check_file(graph_file, "a converted model");
    graph = await readFile(graph_file);
  } catch (error) {
    if (error instanceof BimedixError && error.code === "file_not_found") return null;
    throw file_error(error, graph_file, "a converted model");
  }
  const bad = (given: string, expected: string): never => {
    throw damaged(graph_file, given, expected);
  };
  const data_file = await realpath(`${graph_file}_data`).catch(() =>
    bad("its _data file is missing", "the weights beside the graph"),
  );
  try {
    const { table, checksum } = metadata_of(graph);
    if (table === null) return null;
    await check_file(data_file, "the weights of a model");
    const total = await size_of(data_file);
    const tensors = parse_tensor_table(table, basename(data_file), total);
    let done = 0;
    const on_bytes = (bytes: number) => on_progress?.({ done: (done += bytes), total });
    if (checksum !== null)
      await check_once(data_file, `${checksum} ${table}`, async () => {
        if ((await checksum_of(table, data_file, { on_bytes, ...(signal ? { signal } : {}) })) !== checksum)
          bad("its weights are not those that were converted", "the sha256 in the graph's metadata");
      });
    return { tensors, folder: dirname(data_file) };
  } catch (error) {
    if (error instanceof RangeError || error instanceof SyntaxError)
      bad(error.message, "a graph written by bimedix convert, and weights that are not cut short");
    throw file_error(error, data_file, "the weights of a model");
  }
}

/** By an open file, so that one that may not be read is known. */
async function size_of(file: string): Promise<number> {
  const handle = await open(file);
  try {
    return (await handle.stat()).size;
  } finally {
    await handle.close();
  }
}

/** The table of tensors and its checksum in a ModelProto's metadata; null in a graph that another program wrote. */
function metadata_of(model: Uint8Array): { table: string | null; checksum: string | null } {
  const metadata = new Map<string, string>();
  let has_graph = false;
  for (const { field, value } of fields(model)) {
    if (field === 7) has_graph = true;
    if (field !== 14 || typeof value === "number") continue;
    const [key, text] = [...fields(value)].map((part) => as_text(part.value));
    if (key !== undefined && text !== undefined) metadata.set(key, text);
  }
  if (!has_graph) throw new RangeError("not an ONNX file");
  return { table: metadata.get(TENSOR_TABLE) ?? null, checksum: metadata.get(TENSOR_CHECKSUM) ?? null };
}
