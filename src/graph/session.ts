/** ONNX Runtime, behind the few calls that the engine makes of it. */
import "./telemetry.js";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { BimedixError } from "../errors.js";
import { usable_cores } from "./cores.js";
import type { Graph } from "./graph.js";

export interface SessionOptions {
  /** The folder against which the graph's weight files are named. */
  folder: string;
  /** Threads of one operator; default: `usable_cores`, or where those are unknown ONNX Runtime's own count. */
  threads?: number;
  /**
   * Whether threads wait for the next operator with their cores busy, for a moment after a run too: of use where one session runs
   * again and again, harmful where several take turns. Default true.
   */
  spin?: boolean;
  /** Writes a profile with this prefix at `dispose`. */
  profile?: string;
}

export type Feeds = Record<string, Tensor>;

/** Builds a session from a graph in memory; its weights stay in their files. @throws BimedixError bad_checkpoint, out_of_memory */
export async function create_session(graph: Graph, options: SessionOptions): Promise<InferenceSession> {
  const threads = options.threads ?? usable_cores();
  try {
    return await InferenceSession.create(graph.serialize(), {
      executionProviders: ["cpu"],
      ...(threads === undefined ? {} : { intraOpNumThreads: threads }),
      // Its plan is made for one set of shapes and grows with every new one.
      enableMemPattern: false,
      logSeverityLevel: 3,
      ...(options.profile === undefined ? {} : { enableProfiling: true, profileFilePrefix: options.profile }),
      extra: {
        session: {
          model_external_initializers_file_folder_path: options.folder,
          intra_op: { allow_spinning: options.spin === false ? "0" : "1" },
        },
      },
    });
  } catch (error) {
    const message = (error as Error).message;
    if (/bad_alloc|out of memory|Failed to allocate/i.test(message)) {
      throw new BimedixError(
        "out_of_memory",
        {
          given: "a model larger than the free memory",
          expected: "room for its weights",
          todo: "use dtype q4, or a smaller model",
        },
        error,
      );
    }
    throw new BimedixError(
      "bad_checkpoint",
      {
        given: `a model that ONNX Runtime refuses (${message})`,
        expected: "weights that match config.json",
        todo: "convert the model again",
      },
      error,
    );
  }
}

export const int64 = (values: ArrayLike<number>, dims: readonly number[] = [values.length]) =>
  new Tensor("int64", BigInt64Array.from(values, BigInt), dims);

export const bool = (value: boolean) => new Tensor("bool", Uint8Array.of(Number(value)), []);

export const int32 = (values: Int32Array, dims: readonly number[]) => new Tensor("int32", values, dims);

/**
 * A tensor of float16 values given as their bits, or of float32 values. Where JavaScript has a Float16Array the runtime's own tensor turns
 * the bits into one, of which its native side reads no byte (microsoft/onnxruntime#32323): so it is given the bits back.
 */
export function floats(data: Float32Array | Uint16Array, dims: readonly number[]): Tensor {
  if (data instanceof Float32Array) return new Tensor("float32", data, dims);
  return Object.defineProperty(new Tensor("float16", data, dims), "data", { value: data });
}

/** The values of a float tensor; float16 as bits, also where JavaScript has a Float16Array. */
export function floats_of({ type, data }: Tensor): Float32Array | Uint16Array {
  const { buffer, byteOffset, length } = data as Float32Array | Uint16Array;
  return type === "float16" ? new Uint16Array(buffer, byteOffset, length) : (data as Float32Array);
}

export const float32 = (data: Float32Array, dims: readonly number[]) => new Tensor("float32", data, dims);
