/**
 * safetensors files: 8 bytes of header length, a JSON header, then the tensors' bytes with no holes.
 * The checks are those of the format's own specification (https://github.com/huggingface/safetensors#format):
 * a header may lie, so every offset is held against the file's size before a byte of a tensor is read.
 */
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { check_file, file_error, write_atomically } from "../files.js";

const bytes_per_element = {
  C64: 8, F64: 8, I64: 8, U64: 8, F32: 4, I32: 4, U32: 4, F16: 2, BF16: 2, I16: 2, U16: 2, I8: 1, U8: 1, BOOL: 1,
  F8_E4M3: 1, F8_E4M3FNUZ: 1, F8_E5M2: 1, F8_E5M2FNUZ: 1, F8_E8M0: 1, F6_E2M3: 0.75, F6_E3M2: 0.75, F4: 0.5,
} as const; // biome-ignore format: a table
export type TensorDtype = keyof typeof bytes_per_element;

/** What weights may be in. */
export const FLOATS = ["F64", "F32", "F16", "BF16"] as const;
type FloatDtype = (typeof FLOATS)[number];

export interface TensorInfo {
  name: string;
  dtype: TensorDtype;
  shape: number[];
  /** Where the bytes lie: file, absolute offset and length. */
  file: string;
  offset: number;
  byte_length: number;
}

const MAX_HEADER = 100_000_000;

/** The tensors of a file by name. @throws BimedixError file_not_found, file_unreadable, bad_checkpoint */
export async function read_safetensors_header(file: string): Promise<Map<string, TensorInfo>> {
  const bad = (given: string, expected: string): never => {
    throw new BimedixError("bad_checkpoint", { given: `${file}: ${given}`, expected, todo: "download the file again" });
  };
  let handle: FileHandle | undefined;
  try {
    await check_file(file, "a safetensors file");
    handle = await open(file, "r");
    const { size } = await handle.stat();
    const head = Buffer.alloc(8);
    if ((await handle.read(head, 0, 8, 0)).bytesRead < 8) bad(`${size} bytes`, "at least a header of 8 bytes");
    const length = head.readBigUInt64LE();
    if (length > BigInt(Math.min(MAX_HEADER, size - 8)))
      bad(`a header of ${length} bytes`, `at most ${Math.min(MAX_HEADER, size - 8)}`);
    const text = Buffer.alloc(Number(length));
    await handle.read(text, 0, text.length, 8);
    return parse_header(text.toString("utf8"), file, 8 + text.length, size, bad);
  } catch (error) {
    throw file_error(error, file, "a safetensors file");
  } finally {
    await handle?.close();
  }
}

type Bad = (given: string, expected: string) => never;

function parse_header(text: string, file: string, start: number, size: number, bad: Bad): Map<string, TensorInfo> {
  if (!text.startsWith("{")) bad("the header is not JSON", "a header that begins with {");
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch {
    bad("the header is not JSON", "a JSON object");
  }
  const tensors = new Map<string, TensorInfo>();
  const entries = Object.entries(header as Record<string, unknown>);
  // JSON.parse keeps the last of two equal keys, so a duplicate shows as more `"name":` in the text than entries.
  if (has_duplicate_keys(text)) bad("a tensor named twice", "every name once");
  for (const [name, entry] of entries) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets } = (entry ?? {}) as {
      dtype: TensorDtype;
      shape: number[];
      data_offsets: number[];
    };
    if (!Object.hasOwn(bytes_per_element, dtype))
      bad(`dtype ${JSON.stringify(dtype)} of ${name}`, Object.keys(bytes_per_element).join(", "));
    const natural = (list: unknown): list is number[] =>
      Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);
    if (!natural(shape) || shape.length > 8)
      bad(`shape ${JSON.stringify(shape)} of ${name}`, "up to 8 non-negative integers");
    if (!natural(data_offsets) || data_offsets.length !== 2)
      bad(`offsets ${JSON.stringify(data_offsets)} of ${name}`, "two non-negative integers");
    const [begin, end] = data_offsets as [number, number];
    const byte_length = shape.reduce((product, dim) => product * dim, bytes_per_element[dtype]);
    if (end - begin !== byte_length)
      bad(`${end - begin} bytes for ${name}`, `${byte_length}, as ${dtype} ${JSON.stringify(shape)} takes`);
    if (start + end > size) bad(`${name} ends at byte ${start + end} of ${size}`, "a file that is not cut short");
    tensors.set(name, { name, dtype, shape, file, offset: start + begin, byte_length });
  }
  let at = start;
  for (const { name, offset, byte_length } of [...tensors.values()].sort(
    (a, b) => a.offset - b.offset || a.byte_length - b.byte_length,
  )) {
    if (offset !== at) bad(`${name} begins at byte ${offset}`, `byte ${at}, without a hole or an overlap`);
    at += byte_length;
  }
  if (at !== size) bad(`${size - at} bytes after the last tensor`, "none");
  return tensors;
}

/** Whether a key stands twice in the outermost object of a JSON text that parses. */
function has_duplicate_keys(text: string): boolean {
  const seen = new Set<string>();
  let depth = 0;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"\s*:?|[{}[\]]/g)) {
    if (token === "{" || token === "[") depth++;
    else if (token === "}" || token === "]") depth--;
    else if (depth === 1 && token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, -1)) as string;
      if (seen.has(key)) return true;
      seen.add(key);
    }
  }
  return false;
}

/**
 * `count` elements of a float tensor from element `first` on, as float32.
 * @throws BimedixError nan_weights when a value is NaN or infinite, bad_checkpoint for a dtype that is not a float
 */
export async function read_floats(
  handle: FileHandle,
  tensor: TensorInfo,
  first: number,
  count: number,
): Promise<Float32Array> {
  const { name, file, dtype } = tensor;
  if (!is_float(dtype)) {
    throw new BimedixError("bad_checkpoint", {
      given: `${name} in ${file} has dtype ${dtype}`,
      expected: FLOATS.join(", "),
      todo: "use the unquantised checkpoint",
    });
  }
  const width = bytes_per_element[dtype];
  const bytes = new Uint8Array(count * width);
  for (let at = 0; at < bytes.length; ) {
    const { bytesRead } = await handle.read(
      bytes,
      at,
      Math.min(bytes.length - at, 2 ** 30),
      tensor.offset + first * width + at,
    );
    if (bytesRead === 0) {
      throw new BimedixError("bad_checkpoint", {
        given: `${file} ends inside ${name}`,
        expected: "the whole tensor",
        todo: "download the file again",
      });
    }
    at += bytesRead;
  }
  const floats = to_float32(bytes, dtype);
  if (!all_finite(floats)) {
    throw new BimedixError("nan_weights", {
      given: `${name} in ${file} holds NaN or infinite values`,
      expected: "finite weights",
      todo: "download the file again, or ask its author",
    });
  }
  return floats;
}

export const is_float = (dtype: TensorDtype): dtype is FloatDtype => (FLOATS as readonly string[]).includes(dtype);

/** Little-endian bytes as float32. */
export function to_float32(bytes: Uint8Array, dtype: FloatDtype): Float32Array {
  if (dtype === "F64") return Float32Array.from(new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8));
  if (dtype === "F32") return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  const bits = new Uint32Array(halves.length);
  if (dtype === "BF16") for (let i = 0; i < halves.length; i++) bits[i] = halves[i]! << 16;
  else {
    const table = half_table();
    for (let i = 0; i < halves.length; i++) bits[i] = table[halves[i]!]!;
  }
  return new Float32Array(bits.buffer);
}

let halves_to_floats: Uint32Array | undefined;

/** The float32 bits of every float16. */
function half_table(): Uint32Array {
  if (!halves_to_floats) {
    const floats = Float32Array.from({ length: 65536 }, (_, half) => {
      const sign = half & 0x8000 ? -1 : 1;
      const exponent = (half >> 10) & 31;
      const fraction = half & 1023;
      if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
      return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
    });
    halves_to_floats = new Uint32Array(floats.buffer);
  }
  return halves_to_floats;
}

// x - x is 0 for every finite x and NaN otherwise; a sum stays NaN, so one comparison at the end is enough.
function all_finite(values: Float32Array): boolean {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! - values[i]!;
  return sum === 0;
}

/** A tensor to be written: its values, or what computes them when their turn comes. */
export interface TensorSource {
  name: string;
  shape: readonly number[];
  data: Float32Array | (() => Promise<Float32Array>);
  /** Default F32; BF16 rounds to the nearest, ties to even. */
  dtype?: "F32" | "BF16" | undefined;
}

/** Writes float tensors as a safetensors file, whole or not at all; one tensor is in memory at a time. */
export async function write_safetensors(
  file: string,
  tensors: Iterable<TensorSource>,
  metadata: Record<string, string> = {},
): Promise<void> {
  const list = [...tensors];
  let at = 0;
  const entries = list.map((tensor) => {
    const data_offsets = [at, (at += source_bytes(tensor))];
    return [tensor.name, { dtype: tensor.dtype ?? "F32", shape: tensor.shape, data_offsets }];
  });
  let header = JSON.stringify({ __metadata__: { format: "pt", ...metadata }, ...Object.fromEntries(entries) });
  header += " ".repeat(-Buffer.byteLength(header) & 7);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(Buffer.byteLength(header)));
  await write_atomically(file, async (handle) => {
    await handle.writeFile(Buffer.concat([length, Buffer.from(header)]));
    for (const { data, dtype } of list) {
      const values = typeof data === "function" ? await data() : data;
      const { buffer, byteOffset, byteLength } = dtype === "BF16" ? to_bfloat16(values) : values;
      await handle.writeFile(new Uint8Array(buffer, byteOffset, byteLength));
    }
  });
}

const source_bytes = ({ shape, dtype }: TensorSource) =>
  shape.reduce((product, dim) => product * dim, dtype === "BF16" ? 2 : 4);

function to_bfloat16(values: Float32Array): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  return Uint16Array.from(bits, (b) => (b + 0x7fff + ((b >>> 16) & 1)) >>> 16);
}

/** The values as they will be read again. */
export const round_floats = (values: Float32Array, dtype: "F32" | "BF16"): Float32Array =>
  dtype === "BF16" ? to_float32(new Uint8Array(to_bfloat16(values).buffer), "BF16") : values;

/** Writes a checkpoint's tensors into a folder without one: model.safetensors, or shards of about `shard_bytes` and model.safetensors.index.json. */
export async function write_shards(dir: string, tensors: Iterable<TensorSource>, shard_bytes = 5e9): Promise<void> {
  const shards: TensorSource[][] = [[]];
  let size = 0;
  let total_size = 0;
  for (const tensor of tensors) {
    const bytes = source_bytes(tensor);
    if (size > 0 && size + bytes > shard_bytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)!.push(tensor);
    size += bytes;
    total_size += bytes;
  }
  if (shards.length === 1) return write_safetensors(join(dir, "model.safetensors"), shards[0]!);
  const weight_map: Record<string, string> = {};
  const number = (n: number) => String(n).padStart(5, "0");
  for (const [i, shard] of shards.entries()) {
    const file = `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    await write_safetensors(join(dir, file), shard);
    for (const { name } of shard) weight_map[name] = file;
  }
  const index = `${JSON.stringify({ metadata: { total_size }, weight_map }, null, 2)}\n`;
  await write_atomically(join(dir, "model.safetensors.index.json"), (handle) => handle.writeFile(index));
}
