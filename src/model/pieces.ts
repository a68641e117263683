/**
 * The work of a conversion in threads of its own: reading, checking, quantising and writing one piece of a tensor. A
 * Mixtral-8x7B has eleven thousand pieces. This file is both ends of the conversation.
 */
import { type FileHandle, open } from "node:fs/promises";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { type ErrorMessage, error_from_message, error_message } from "../errors.js";
import { file_error } from "../files.js";
import { quantize_int8 } from "./int8.js";
import { quantize_absmax, quantize_nf4 } from "./nf4.js";
import { quantize } from "./quantize.js";
import { read_floats, type TensorInfo } from "./safetensors.js";

/** How a tensor is written: as codes and scales of blocks or of rows, in NF4, in NF4 with its magnitudes quantised again, or as it is. */
export type Storage = { bits: 4 | 8; block_size: number } | "int8" | "nf4" | "nf4_double" | "float32";

export interface Piece {
  tensor: TensorInfo;
  /** The first element and how many; whole blocks, or rows. */
  first: number;
  count: number;
  storage: Storage;
  /** The file that is being written, and where in it the piece's codes (or floats) and its scales go. */
  file: string;
  values_at: number;
  scales_at: number;
  /** Where the codes, scales and offset of double quantisation go. */
  double_at?: { codes: number; scales: number; offset: number };
}

interface Reply {
  error: ErrorMessage | null;
}

interface Job {
  resolve: () => void;
  reject: (error: Error) => void;
}

/** One thread that takes one piece at a time. */
export class PieceWorker {
  private readonly worker = new Worker(new URL(import.meta.url), { workerData: WORKER, execArgv: [] });
  private job: Job | undefined;

  constructor() {
    this.worker.on("message", (reply: Reply) => {
      if (reply.error) this.job?.reject(error_from_message(reply.error));
      else if (reply.error === null) this.job?.resolve();
      // Anything else is Node's own: with --watch a thread reports what it imports.
    });
    this.worker.on("error", (error: unknown) => this.job?.reject(error as Error));
  }

  run(piece: Piece): Promise<void> {
    return new Promise((resolve, reject) => {
      this.job = { resolve, reject };
      this.worker.postMessage(piece);
    });
  }

  async close(): Promise<void> {
    await this.worker.terminate();
  }
}

const WORKER = "bimedix-pieces";

if (!isMainThread && workerData === WORKER) {
  const port = parentPort!;
  const handles = new Map<string, FileHandle>();
  const opened = async (file: string, mode: "r" | "r+"): Promise<FileHandle> => {
    let handle = handles.get(file);
    if (!handle) {
      handle = await open(file, mode);
      handles.set(file, handle);
    }
    return handle;
  };
  const write_nf4 = async (
    target: FileHandle,
    values: Float32Array,
    at: Pick<Piece, "values_at" | "scales_at" | "double_at">,
  ) => {
    const { codes, absmax } = quantize_nf4(values);
    await write_at(target, codes, at.values_at);
    if (!at.double_at) return write_at(target, absmax, at.scales_at);
    const double = quantize_absmax(absmax);
    await write_at(target, double.codes, at.double_at.codes);
    await write_at(target, double.scales, at.double_at.scales);
    await write_at(target, Float32Array.of(double.offset), at.double_at.offset);
  };
  const convert_piece = async ({ tensor, first, count, storage, file, ...at }: Piece): Promise<void> => {
    const source = await opened(tensor.file, "r").catch((error) => {
      throw file_error(error, tensor.file, "a shard of the checkpoint");
    });
    const values = await read_floats(source, tensor, first, count);
    try {
      const target = await opened(file, "r+");
      if (storage === "float32") return await write_at(target, values, at.values_at);
      if (storage === "nf4" || storage === "nf4_double") return await write_nf4(target, values, at);
      const { codes, scales } =
        storage === "int8"
          ? quantize_int8(values, tensor.shape[1]!)
          : quantize(values, storage.bits, storage.block_size);
      await write_at(target, codes, at.values_at);
      await write_at(target, scales, at.scales_at);
    } catch (error) {
      throw file_error(error, file, "a place for the converted model");
    }
  };
  port.on("message", (piece: Piece) => {
    convert_piece(piece).then(
      () => port.postMessage({ error: null } satisfies Reply),
      (error: unknown) => port.postMessage({ error: error_message(error) } satisfies Reply),
    );
  });
}

async function write_at(
  handle: FileHandle,
  values: Uint8Array | Int8Array | Float32Array,
  position: number,
): Promise<void> {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  for (let at = 0; at < bytes.length; ) {
    at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
  }
}
