/**
 * The base model's tensors as the trainer asks for them: a layer at a time. They are kept in memory, or read from the disk
 * at each use into buffers that are used again, so that the base needs the memory of one or two layers, whatever its depth.
 */
import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import type { ModelConfig } from "../model/config.js";
import type { Store } from "../model/store.js";
import type { StoredTensor } from "../model/weights.js";

/** Layers up to this many bytes are read ahead: beyond, reading takes little beside computing, and memory more. */
const MAX_AHEAD = 2 ** 28;

/** Of each tensor. */
const FINGERPRINT_BYTES = 2 ** 12;

export type TensorData = Float32Array | Uint8Array | Int8Array;

/** What was read from the disk, for reports. */
export interface Traffic {
  bytes: number;
  /** Milliseconds in which nothing else could be done. */
  waited: number;
}

export class BaseModel {
  readonly traffic: Traffic = { bytes: 0, waited: 0 };
  private readonly handles = new Map<string, Promise<FileHandle>>();
  private readonly kept = new Map<string, TensorData>();
  /** Two buffers in turn: one layer is computed while the next is read. Large layers have one, and are waited for. */
  private readonly buffers: ArrayBuffer[] = [];
  private turn = 0;
  private ahead: { layer: number; tensors: Promise<Map<string, TensorData>> } | null = null;

  private constructor(
    readonly config: ModelConfig,
    private readonly store: Store,
    private readonly stream: boolean,
  ) {}

  /** @param stream read a layer's tensors from the disk at each use */
  static async open(store: Store, { stream }: { stream: boolean }): Promise<BaseModel> {
    const base = new BaseModel(store.config, store, stream);
    try {
      if (!stream) for (const name of store.tensors.keys()) base.kept.set(name, await base.read(name));
      return base;
    } catch (error) {
      await base.close();
      throw error;
    }
  }

  private get layer_bytes(): number {
    let bytes = 0;
    for (const [name, stored] of this.store.tensors)
      if (name.startsWith("model.layers.0.")) bytes += byte_length(stored);
    return bytes;
  }

  get stored(): ReadonlyMap<string, StoredTensor> {
    return this.store.tensors;
  }

  /** Layer `layer`'s tensors by name. What an earlier call but the last returned is void. */
  async layer(layer: number): Promise<Map<string, TensorData>> {
    if (!this.stream) return this.kept;
    const began = performance.now();
    const tensors = await (this.ahead?.layer === layer ? this.ahead.tensors : this.read_layer(layer));
    this.ahead = null;
    this.traffic.waited += performance.now() - began;
    return tensors;
  }

  /** Begins to read a layer that will be asked for next. */
  prefetch(layer: number): void {
    if (
      !this.stream ||
      this.layer_bytes > MAX_AHEAD ||
      layer < 0 ||
      layer >= this.config.num_hidden_layers ||
      this.ahead?.layer === layer
    )
      return;
    const tensors = this.read_layer(layer);
    tensors.catch(() => {});
    this.ahead = { layer, tensors };
  }

  /** A tensor outside the layers, which is kept. */
  async tensor(name: string): Promise<TensorData> {
    let data = this.kept.get(name);
    if (!data) this.kept.set(name, (data = await this.read(name)));
    return data;
  }

  /** Rows of the table of embeddings: `[ids.length, hidden_size]`. */
  async embeddings(ids: Int32Array): Promise<Float32Array> {
    const name = "model.embed_tokens.weight";
    const { hidden_size } = this.config;
    const rows = new Float32Array(ids.length * hidden_size);
    const table = this.kept.get(name) as Float32Array | undefined;
    if (table) {
      for (const [i, id] of ids.entries())
        rows.set(table.subarray(id * hidden_size, (id + 1) * hidden_size), i * hidden_size);
      return rows;
    }
    const { handle, offset } = await this.place(name);
    const first = new Map<number, number>();
    for (const [i, id] of ids.entries()) {
      const known = first.get(id);
      const target = rows.subarray(i * hidden_size, (i + 1) * hidden_size);
      if (known !== undefined) target.set(rows.subarray(known * hidden_size, (known + 1) * hidden_size));
      else {
        first.set(id, i);
        await this.fill(name, handle, target, offset + id * hidden_size * 4);
      }
    }
    return rows;
  }

  /** A hash of all tensors' names, shapes and first bytes: a base that was trained further has another. */
  async fingerprint(): Promise<string> {
    const hash = createHash("sha256");
    for (const [name, stored] of this.store.tensors) {
      const { handle, offset } = await this.place(name);
      const bytes = new Uint8Array(Math.min(byte_length(stored), FINGERPRINT_BYTES));
      await this.fill(name, handle, bytes, offset);
      hash.update(`${name} ${stored.dtype} ${stored.dims}\n`).update(bytes);
    }
    return hash.digest("hex");
  }

  async close(): Promise<void> {
    await this.ahead?.tensors.catch(() => {});
    await Promise.all([...this.handles.values()].map(async (handle) => (await handle).close()));
    this.handles.clear();
  }

  private async read_layer(layer: number): Promise<Map<string, TensorData>> {
    const prefix = `model.layers.${layer}.`;
    const names = [...this.store.tensors.keys()].filter((name) => name.startsWith(prefix));
    const lengths = names.map((name) => Math.ceil(byte_length(this.store.tensors.get(name)!) / 64) * 64);
    const total = lengths.reduce((sum, length) => sum + length, 0);
    if (this.layer_bytes <= MAX_AHEAD) this.turn = 1 - this.turn;
    let buffer = this.buffers[this.turn];
    if (!buffer || buffer.byteLength < total) buffer = this.buffers[this.turn] = new ArrayBuffer(total);
    const tensors = new Map<string, TensorData>();
    let at = 0;
    await Promise.all(
      names.map(async (name, i) => {
        const start = at;
        at += lengths[i]!;
        const { handle, offset } = await this.place(name);
        const data = view(this.store.tensors.get(name)!, buffer, start);
        tensors.set(name, data);
        await this.fill(name, handle, data, offset);
      }),
    );
    return tensors;
  }

  private async read(name: string): Promise<TensorData> {
    const { handle, offset } = await this.place(name);
    const stored = this.store.tensors.get(name)!;
    const data = view(stored, new ArrayBuffer(byte_length(stored)), 0);
    await this.fill(name, handle, data, offset);
    return data;
  }

  private async place(name: string): Promise<{ handle: FileHandle; offset: number }> {
    const bytes = this.store.tensors.get(name)?.bytes;
    if (!bytes || !("location" in bytes)) throw new TypeError(`no tensor ${name} in a file`);
    const file = join(this.store.folder, bytes.location);
    let handle = this.handles.get(file);
    if (!handle) {
      handle = open(file).catch((error) => Promise.reject(file_error(error, file, "the weights of a model")));
      this.handles.set(file, handle);
    }
    return { handle: await handle, offset: bytes.offset };
  }

  private async fill(name: string, handle: FileHandle, data: TensorData, position: number): Promise<void> {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, 2 ** 30);
      const { bytesRead } = await handle.read(bytes, at, length, position + at);
      if (bytesRead === 0)
        throw new BimedixError("bad_checkpoint", {
          given: `weights that end inside ${name}`,
          expected: "the whole tensor",
          todo: "convert the model again",
        });
      at += bytesRead;
      this.traffic.bytes += bytesRead;
    }
  }
}

const byte_length = ({ bytes }: StoredTensor) => ("location" in bytes ? bytes.byte_length : bytes.length);

function view({ dtype, bytes }: StoredTensor, buffer: ArrayBuffer, at: number): TensorData {
  const length = "location" in bytes ? bytes.byte_length : bytes.length;
  if (dtype === "float32") return new Float32Array(buffer, at, length / 4);
  return dtype === "int8" ? new Int8Array(buffer, at, length) : new Uint8Array(buffer, at, length);
}
