/**
 * Where the weights of a loaded model come from: a converted `onnx/model_*.onnx` (in the model's directory or in the cache),
 * or, for float32 checkpoints, the safetensors file itself, which the graph names by offset and length without a copy.
 * Only the table of tensors is read from a converted model; the graph that runs is always built from the one decoder.
 */
import { createHash } from "node:crypto";
import { open, readFile, realpath, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { type DataType, data_types } from "../graph/graph.js";
import { as_text, type Field, fields } from "../protobuf.js";
import { open_checkpoint } from "./checkpoint.js";
import { type ModelConfig, read_config } from "./config.js";
import { convert, type Dtype, model_file } from "./convert.js";
import type { StoredTensor } from "./weights.js";

export interface Store {
  config: ModelConfig;
  tensors: Map<string, StoredTensor>;
  /** The folder that the tensors' locations are relative to. */
  folder: string;
}

export interface StoreOptions {
  dtype: Dtype;
  on_progress?: (progress: { done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** Opens a model directory at a precision, converting it into the cache when it has to. */
export async function open_store(dir: string, { dtype, ...progress }: StoreOptions): Promise<Store> {
  const config = await read_config(dir);
  const shipped = await read_converted(join(dir, "onnx", model_file(dtype)));
  if (shipped) return { config, ...shipped };
  const checkpoint = await open_checkpoint(dir);
  const sources = [...checkpoint.tensors.values()];
  if (dtype === "fp32" && sources.every((tensor) => tensor.dtype === "F32")) {
    const folder = dirname(sources[0]!.file);
    const tensors = sources.map(({ name, shape: dims, file, offset, byte_length }): [string, StoredTensor] => {
      return [name, { dtype: "float32", dims, bytes: { location: basename(file), offset, byte_length } }];
    });
    return { config, tensors: new Map(tensors), folder };
  }
  const output = join(cache_folder(), await fingerprint(dir, new Set(sources.map(({ file }) => file))));
  const file = join(output, "onnx", model_file(dtype));
  const cached = await read_converted(file);
  if (cached) return { config, ...cached };
  await convert(checkpoint, { dtype, output, ...progress });
  return { config, ...(await read_converted(file))! };
}

/** `BIMEDIX_CACHE`, or `bimedix` in the user's cache folder. */
export function cache_folder(): string {
  return process.env.BIMEDIX_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "bimedix");
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
const CONVERTER = "2";

/** The tensors of a converted model, or null when there is none. @throws BimedixError bad_checkpoint when it is damaged */
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
  const tensors = new Map<string, StoredTensor>();
  try {
    for (const tensor of initializers(graph)) {
      if (!("location" in tensor.bytes)) continue;
      const { location, offset, byte_length } = tensor.bytes;
      if (location !== `${basename(graph_file)}_data`)
        bad(`weights in ${JSON.stringify(location)}`, "only the _data file beside it");
      if (offset + byte_length > size)
        bad(`${tensor.name} ends at byte ${offset + byte_length} of ${size}`, "weights that are not cut short");
      tensors.set(tensor.name, { ...tensor, bytes: { location: basename(data_file), offset, byte_length } });
    }
  } catch (error) {
    if (error instanceof RangeError) bad("not an ONNX file", "a graph written by bimedix convert");
    throw error;
  }
  return { tensors, folder: dirname(data_file) };
}

/** The initialisers of a ModelProto whose bytes are elsewhere, with their shapes. */
function* initializers(model: Uint8Array): Generator<StoredTensor & { name: string }> {
  const nested = (value: Field["value"]) => fields(value as Uint8Array);
  const type_names = Object.entries(data_types) as [DataType, number][];
  for (const top of fields(model)) {
    if (top.field !== 7) continue;
    for (const part of nested(top.value)) {
      if (part.field !== 5) continue;
      const dims: number[] = [];
      const external: Record<string, string> = {};
      let name = "";
      let dtype: DataType | undefined;
      for (const { field, value } of nested(part.value)) {
        if (field === 1) dims.push(value as number);
        else if (field === 2) dtype = type_names.find(([, number]) => number === value)?.[0];
        else if (field === 8) name = as_text(value);
        else if (field === 13) {
          const [key, text] = [...nested(value)].map((entry) => as_text(entry.value));
          external[key!] = text!;
        }
      }
      if (external.location === undefined || !dtype || name.endsWith(".table")) continue;
      const [offset, byte_length] = [Number(external.offset), Number(external.length)];
      if (!Number.isSafeInteger(offset) || !Number.isSafeInteger(byte_length))
        throw new RangeError(`${name} has no offset`);
      yield { name, dtype, dims, bytes: { location: external.location, offset, byte_length } };
    }
  }
}
