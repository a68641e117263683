/** The model under evaluation: loaded here, or reached over the network. */
import { createHash } from "node:crypto";
import { open, readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, join, resolve } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, type PretrainedOptions } from "../engine/auto.js";
import { RemoteEngine, type RemoteOptions } from "../engine/remote.js";
import { BimedixError } from "../errors.js";
import { file_error } from "../files.js";
import { expected_tensors } from "../model/checkpoint.js";
import { read_config } from "../model/config.js";
import type { Dtype } from "../model/convert.js";
import { resolve_adapter, resolve_model } from "../model/hub.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { EvalModel } from "./run.js";

/** New tokens of one run: with long shared beginnings, the cost of attention outgrows what larger products save. */
const CHUNK_TOKENS = 256;

/** Up to so many parameters float32 is the default, whose digits are the harness's own; beyond, the copy would be large and slow. */
const FLOAT32_PARAMETERS = 1e9;

/**
 * A model that runs here. `dispose` frees it.
 * @param options.dtype default: fp32 up to a billion parameters, else q8
 * @throws BimedixError as `AutoModelForCausalLM.from_pretrained` does
 */
export async function local_model(
  id_or_dir: string,
  options: Omit<PretrainedOptions, "adapter" | "dtype"> & { adapter?: string; dtype?: Dtype } = {},
): Promise<EvalModel & { dispose: () => Promise<void> }> {
  const { on_progress, signal, revision, accuracy_level = 4, adapter } = options;
  const dir = await resolve_model(id_or_dir, {
    ...(on_progress ? { on_progress } : {}),
    ...(signal ? { signal } : {}),
    ...(revision === undefined ? {} : { revision }),
  });
  const shapes = [...expected_tensors(await read_config(dir))].map(({ shape }) => shape);
  const num_parameters = shapes.reduce((total, shape) => total + shape.reduce((product, dim) => product * dim, 1), 0);
  const { dtype = num_parameters <= FLOAT32_PARAMETERS ? "fp32" : "q8" } = options;
  const model = await AutoModelForCausalLM.from_pretrained(dir, { chunk_tokens: CHUNK_TOKENS, ...options, dtype });
  return {
    engine: model.engine,
    tokenizer: await AutoTokenizer.from_pretrained(dir),
    max_length: model.config.max_position_embeddings,
    name: `${dir === id_or_dir ? basename(resolve(dir)) : id_or_dir}${adapter === undefined ? "" : ` + ${basename(resolve(adapter))}`}`,
    info: {
      engine: "bimedix",
      dtype,
      // What quantised products round their activations to, and the type of the cache.
      activations: dtype === "fp32" || accuracy_level === 0 ? "float32" : "int8, float16 cache",
      num_parameters,
      sha256: await fingerprint(dir),
      ...(adapter === undefined ? {} : { adapter, adapter_sha256: await fingerprint(await resolve_adapter(adapter)) }),
      versions: versions(),
    },
    dispose: () => model.dispose(),
  };
}

/** Where neither the server nor the tokenizer says more: the harness's own assumption. */
const DEFAULT_LENGTH = 2048;

/**
 * A model on an OpenAI-compatible server. Its tokenizer is needed here, because what is scored are tokens.
 * @param options.tokenizer directory or hub id; default: the server's name of the model, when that is a hub id
 * @throws BimedixError server_refused, also for a server that does not score prompts
 */
export async function remote_model(
  url: string,
  { tokenizer: id, ...options }: RemoteOptions & { tokenizer?: string } = {},
): Promise<EvalModel> {
  const model_id = id ?? (await RemoteEngine.model_id(url, options));
  const tokenizer = await tokenizer_of(model_id, id !== undefined, options.signal);
  const engine = await RemoteEngine.connect(url, tokenizer.encode("The patient has a fever."), options);
  const { max_model_len, model } = engine;
  const known =
    tokenizer.model_max_length !== null && tokenizer.model_max_length < 1e9 ? tokenizer.model_max_length : null;
  return {
    engine,
    tokenizer,
    // The server also generates one token, which is thrown away.
    max_length: max_model_len === null ? (known ?? DEFAULT_LENGTH) : max_model_len - 1,
    name: model,
    info: {
      engine: "openai-completions",
      dtype: "the server's",
      num_parameters: -1,
      sha256: "",
      tokenizer: model_id,
      versions: versions(),
    },
  };
}

/** @param given whether a person named it, and not the server */
async function tokenizer_of(place: string, given: boolean, signal: AbortSignal | undefined): Promise<Tokenizer> {
  try {
    return await AutoTokenizer.from_pretrained(place, signal ? { signal } : {});
  } catch (error) {
    if (given || !(error instanceof BimedixError) || error.code === "aborted") throw error;
    throw new BimedixError(
      error.code,
      {
        given: `no tokenizer for the server's model ${JSON.stringify(place)}, whose tokens are what is scored`,
        expected: "--tokenizer with a directory or hub id, where the model's name on the server is none",
        todo: `pass --tokenizer (looked for under the model's name: ${error.message.replace(/\.$/, "")})`,
      },
      error,
    );
  }
}

export function versions(): Record<string, string> {
  const require = createRequire(import.meta.url);
  return {
    bimedix: (require("../../../package.json") as { version: string }).version,
    "onnxruntime-node": (require("onnxruntime-node/package.json") as { version: string }).version,
    node: process.versions.node,
  };
}

const EDGE = 2 ** 20;

/**
 * What tells one model's files from another's in a moment, whatever their size: the names, sizes and first and last megabyte of
 * the configuration, the tokenizer and the weights.
 */
async function fingerprint(dir: string): Promise<string> {
  const hash = createHash("sha256");
  for (const name of (await readdir(dir)).sort()) {
    if (!/^(config|adapter_config|tokenizer|tokenizer_config)\.json$|^tokenizer\.model$|\.safetensors$/.test(name))
      continue;
    const file = join(dir, name);
    try {
      const handle = await open(file);
      try {
        const { size } = await handle.stat();
        hash.update(`${name} ${size}\n`);
        for (const at of new Set([0, Math.max(0, size - EDGE)])) {
          const { buffer, bytesRead } = await handle.read(Buffer.alloc(EDGE), 0, EDGE, at);
          hash.update(buffer.subarray(0, bytesRead));
        }
      } finally {
        await handle.close();
      }
    } catch (error) {
      throw file_error(error, file, "a readable model");
    }
  }
  return hash.digest("hex");
}
