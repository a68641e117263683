/**
 * Where the weights of a loaded model come from: a converted `onnx/model_*.onnx` (in the model's directory or in the cache),
 * or, for float32 checkpoints, the safetensors file itself, which the graph names by offset and length without a copy.
 * Only the table of tensors is read from a converted model; the graph that runs is always built from the one decoder.
 */
import { createHash } from "node:crypto";
import { open, readFile, realpath, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, home_folder } from "../files.js";
import { as_text, fields } from "../protobuf.js";
import { open_checkpoint } from "./checkpoint.js";
import { type ModelConfig, read_config } from "./config.js";
import { convert, model_file, type StoredDtype } from "./convert.js";
import { parse_tensor_table, type StoredTensor, TENSOR_TABLE } from "./weights.js";

export interface Store {
  config: ModelConfig;
  tensors: Map<string, StoredTensor>;
  /** The folder that the tensors' locations are relative to. */
  folder: string;
}

export interface StoreOptions {
  dtype: StoredDtype;
  on_progress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Opens a model directory at a precision, converting it into the cache when it has to. */
export async function open_store(dir: string, { dtype, ...progress }: StoreOptions): Promise<Store> {
  const config = await read_config(dir);
  const shipped = await read_converted(join(dir, "onnx", model_file(dtype)));
  if (shipped) return with_head(config, shipped);
  const checkpoint = await open_checkpoint(dir);
  const sources = [...checkpoint.tensors.values()];
  if (dtype === "fp32" && sources.every((tensor) => tensor.dtype === "F32")) {
    const folder = dirname(sources[0]!.file);
    const tensors = sources.map(({ name, shape: dims, file, offset, byte_length }): [string, StoredTensor] => {
      return [name, { dtype: "float32", dims, bytes: { location: basename(file), offset, byte_length } }];
    });
    return { config: checkpoint.config, tensors: new Map(tensors), folder };
  }
  const output = join(cache_folder(), await fingerprint(dir, new Set(sources.map(({ file }) => file))));
  const file = join(output, "onnx", model_file(dtype));
  const cached = await read_converted(file);
  if (cached) return with_head(config, cached);
  await convert(checkpoint, { dtype, output, ...progress });
  return with_head(config, (await read_converted(file))!);
}

/** A conversion holds an output layer of its own where its checkpoint had one, whatever the configuration said. */
function with_head(config: ModelConfig, converted: Pick<Store, "tensors" | "folder">): Store {
  const has_head = [...converted.tensors.keys()].some((name) => name.startsWith("lm_head."));
  return { config: { ...config, tie_word_embeddings: config.tie_word_embeddings && !has_head }, ...converted };
}

/** `BIMEDIX_CACHE`, or `bimedix` in the user's cache folder. */
export function cache_folder(): string {
  return process.env.BIMEDIX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(home_folder(), ".cache"), "bimedix");
}

/** A name for converted weights that changes when a source file does. */
async function fingerprint(dir: string, files: Set<string>): Promise<string> {
  const hash = createHash("sha256").update(CONVERTER);
  for (const file of [join(dir, "config.json"), ...files]) {
    const { size, mtimeMs } = await stat(file);
    hash.update(`${await realpath(file)} ${size} ${mtimeMs}\n`);
  }
  return `${basename(await realpath(dir))}-${hash.digest("hex").slice(0, 16)}`;
}

/** Changes when the converter writes something else, so that an older cache is not read. */
const CONVERTER = "5";

/** The tensors of a model that was converted here, or null when there is none. @throws BimedixError bad_checkpoint when it is damaged */
export async function read_converted(graph_file: string): Promise<Pick<Store, "tensors" | "folder"> | null> {
  let graph: Uint8Array;
  try {
    graph = await readFile(graph_file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw file_error(error, graph_file, "a converted model");
  }
  const bad = (given: string, expected: string): never => {
    throw new BimedixError("bad_checkpoint", {
      given: `${graph_file}: ${given}`,
      expected,
      todo: "convert the model again",
    });
  };
  const data_file = await realpath(`${graph_file}_data`).catch(() =>
    bad("its _data file is missing", "the weights beside the graph"),
  );
  const handle = await open(data_file, "r").catch((error) =>
    Promise.reject(file_error(error, data_file, "the weights of a model")),
  );
  const { size } = await handle.stat();
  await handle.close();
  try {
    const table = table_of(graph);
    if (table === null) return null;
    return { tensors: parse_tensor_table(table, basename(data_file), size), folder: dirname(data_file) };
  } catch (error) {
    if (error instanceof RangeError || error instanceof SyntaxError)
      bad(error.message, "a graph written by bimedix convert, and weights that are not cut short");
    throw error;
  }
}

/** The table of tensors in a ModelProto's metadata; null in a graph that another program wrote. */
function table_of(model: Uint8Array): string | null {
  let table: string | null = null;
  let has_graph = false;
  for (const { field, value } of fields(model)) {
    if (field === 7) has_graph = true;
    if (field !== 14 || typeof value === "number") continue;
    const [key, text] = [...fields(value)].map((part) => as_text(part.value));
    if (key === TENSOR_TABLE && text !== undefined) table = text;
  }
  if (!has_graph) throw new RangeError("not an ONNX file");
  return table;
}
