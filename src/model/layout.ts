/**
 * Where every tensor of a converted model lies in its file of weights: a function of the configuration and the precision alone. The
 * converter writes by it, and a table that says otherwise is not the converter's.
 */
import { expected_tensors } from "./checkpoint.js";
import type { ModelConfig } from "./config.js";
import type { StoredDtype } from "./dtypes.js";
import { ABSMAX_BLOCK, NF4_BLOCK } from "./nf4.js";
import type { Storage } from "./pieces.js";
import { block_size_for } from "./quantize.js";
import { codes_name, double_names, int8_name, nf4_name, type StoredTensor, scales_name } from "./weights.js";

/** Every tensor begins at a multiple of this many bytes, so that it can be mapped and read by vector instructions. */
const ALIGNMENT = 64;

/** How one tensor of a checkpoint is stored, and where its codes (or floats) and its scales begin. */
export interface Placement {
  name: string;
  shape: readonly number[];
  storage: Storage;
  values_at: number;
  /** Bytes of one element's code. */
  value_bytes: number;
  /** Elements that share a scale; null where there is none, or its scales are quantised again. */
  block_size: number | null;
  scales_at: number;
  double_at?: { codes: number; scales: number; offset: number };
}

export interface Layout {
  /** The tensors of the file in its order. */
  stored: Map<string, StoredTensor>;
  placements: Placement[];
}

/** @param location the name of the file of weights */
export function layout_of(config: ModelConfig, dtype: StoredDtype, location: string): Layout {
  const stored = new Map<string, StoredTensor>();
  const placements: Placement[] = [];
  let end = 0;
  const place = (name: string, dtype: "float32" | "uint8" | "int8", dims: readonly number[]): number => {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const byte_length = dims.reduce((product, dim) => product * dim, dtype === "float32" ? 4 : 1);
    stored.set(name, { dtype, dims, bytes: { location, offset, byte_length } });
    end = offset + byte_length;
    return offset;
  };
  const place_values = (name: string, shape: readonly number[], storage: Storage) => {
    if (storage === "float32") return { values_at: place(name, "float32", shape), value_bytes: 4 };
    const [rows, columns] = shape as [number, number];
    if (storage === "int8") return { values_at: place(int8_name(name), "int8", shape), value_bytes: 1 };
    if (typeof storage === "string")
      return { values_at: place(nf4_name(name), "uint8", [rows, columns / 2]), value_bytes: 1 / 2 };
    const { bits, block_size } = storage;
    const dims = [rows, columns / block_size, (block_size * bits) / 8];
    return { values_at: place(codes_name(name, bits), "uint8", dims), value_bytes: bits / 8 };
  };
  const place_scales = (name: string, shape: readonly number[], storage: Storage) => {
    const count = shape.reduce((product, dim) => product * dim, 1);
    if (storage !== "nf4_double") {
      const block_size = block_of(storage, shape);
      return { block_size, scales_at: block_size === null ? 0 : place(scales_name(name), "float32", [count / block_size]) }; // biome-ignore format: one line
    }
    const groups = Math.ceil(count / NF4_BLOCK / ABSMAX_BLOCK);
    const names = double_names(name);
    const codes = place(names.codes, "uint8", [groups, ABSMAX_BLOCK]);
    const scales = place(names.scales, "float32", [groups]);
    return {
      block_size: null,
      scales_at: 0,
      double_at: { codes, scales, offset: place(names.offset, "float32", [1]) },
    };
  };
  for (const group of neighbours(expected_tensors(config))) {
    const begun = group.map(({ name, shape }) => {
      const storage = storage_of(name, shape, dtype);
      return { name, shape, storage, ...place_values(name, shape, storage) };
    });
    for (const one of begun) placements.push({ ...one, ...place_scales(one.name, one.shape, one.storage) });
  }
  return { stored, placements };
}

/** Norms and the router stay float32; a table of embeddings takes 8 bits, as its rows are looked up and not summed. */
function storage_of(name: string, shape: readonly number[], dtype: StoredDtype): Storage {
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

function block_of(storage: Exclude<Storage, "nf4_double">, shape: readonly number[]): number | null {
  if (storage === "float32") return null;
  if (storage === "nf4") return NF4_BLOCK;
  return storage === "int8" ? shape[1]! : storage.block_size;
}

/** The tensors in order, in groups whose codes, and then scales, lie one behind the other: the decoder multiplies them as one. */
function* neighbours<T extends { name: string }>(tensors: Iterable<T>): Generator<T[]> {
  let group: T[] = [];
  for (const tensor of tensors) {
    if (!/\.(k_proj|v_proj|w3|up_proj)\.weight$/.test(tensor.name)) {
      if (group.length > 0) yield group;
      group = [];
    }
    group.push(tensor);
  }
  yield group;
}
