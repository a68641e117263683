/** The options of `from_pretrained`: this project's, and those of Transformers.js and transformers that mean something here. */
import { BimedixError } from "../errors.js";
import { type Dtype, dtypes, parse_dtype } from "../model/convert.js";
import type { HubOptions } from "../model/hub.js";
import { check_options, type OptionTable, shown } from "./options.js";

/** What Transformers.js tells its `progress_callback`. */
export interface ProgressInfo {
  status: "initiate" | "progress" | "done" | "ready";
  /** The model as it was asked for. */
  name: string;
  file?: string;
  /** Of 100. */
  progress?: number;
  loaded?: number;
  total?: number;
}

/** How Transformers.js and transformers say what `offline` and `on_progress` say. */
export interface Aliases {
  /** The same as `offline`. */
  local_files_only?: boolean;
  /** Progress in the form of Transformers.js. */
  progress_callback?: (progress: ProgressInfo) => void;
}

const of_the_hub = {
  revision: { type: "text", meaning: "branch, tag or commit of the hub's repository" },
  offline: { type: "boolean", meaning: "use only what is in the hub's cache" },
  local_files_only: { type: "boolean", meaning: "the same as offline" },
  on_progress: { type: "function", meaning: "called while files are downloaded and converted" },
  progress_callback: { type: "function", meaning: "the same, in the form of Transformers.js" },
  signal: { type: "signal", meaning: "ends the loading" },
} as const satisfies OptionTable["options"];

const instead = {
  cache_dir: "set HF_HUB_CACHE",
  token: "set HF_TOKEN, or run: hf auth login",
  use_auth_token: "set HF_TOKEN, or run: hf auth login",
  proxies: "set HTTPS_PROXY",
  config: "change config.json in a copy of the directory",
  session_options: "use threads, accuracy_level or profile",
  max_memory: "choose a smaller dtype",
  load_in_4bit: 'give dtype: "q4"',
  load_in_8bit: 'give dtype: "q8"',
  quantization_config: 'give dtype: "q8" or "q4"',
};

/** Options that change nothing at these values. No code of a repository is ever run, whatever `trust_remote_code` allows. */
const hub_without_effect: OptionTable["without_effect"] = {
  cache_dir: [],
  config: [],
  force_download: [false],
  proxies: [],
  resume_download: "any",
  subfolder: [""],
  token: [],
  trust_remote_code: "any",
  use_auth_token: [],
};

export const tokenizer_options: OptionTable = {
  options: of_the_hub,
  without_effect: { ...hub_without_effect, use_fast: "any" },
  instead,
};

export const pretrained_options: OptionTable = {
  options: {
    ...of_the_hub,
    adapter: { type: "directories", meaning: "a LoRA adapter, directory or hub id; or several by name" },
    dtype: { type: "any", meaning: `precision of the weights: ${dtypes.join(", ")}; auto is q8` },
    torch_dtype: { type: "any", meaning: "the same as dtype" },
    quantized: { type: "boolean", meaning: "true is q8 and false fp32, as in Transformers.js 2" },
    isolation: { type: "text", values: ["thread", "process"], meaning: "where inference runs" },
    accuracy_level: { type: "integer", values: [0, 4], meaning: "of quantised products; 0 is exact" },
    threads: { type: "integer", least: 1, most: 1024, meaning: "of one operator" },
    max_sequences: { type: "integer", least: 1, meaning: "sequences that are generated at one time" },
    chunk_tokens: { type: "integer", least: 1, meaning: "new tokens in one run" },
    cached_tokens: { type: "integer", least: 0, meaning: "tokens of earlier calls that stay cached" },
    profile: { type: "text", meaning: "prefix of a profile that the runtime writes" },
  },
  without_effect: {
    ...hub_without_effect,
    attn_implementation: ["eager", "sdpa"],
    device: ["cpu", "auto"],
    device_map: ["cpu", "auto"],
    load_in_4bit: [false],
    load_in_8bit: [false],
    low_cpu_mem_usage: "any",
    max_memory: [],
    model_file_name: ["model"],
    output_loading_info: [false],
    quantization_config: [],
    session_options: [{}],
    subfolder: ["", "onnx"],
    use_external_data_format: "any",
    use_safetensors: [true],
  },
  instead,
};

/** Checked, with the aliases under their own names here. @throws BimedixError bad_option */
export function check_hub_options(
  name: string,
  given: object,
  table: OptionTable,
): HubOptions & Record<string, unknown> {
  const { local_files_only, progress_callback, ...own } = check_options(given, table, "from_pretrained");
  if (local_files_only === true) own.offline = true;
  if (progress_callback && !own.on_progress)
    own.on_progress = told(name, progress_callback as (progress: ProgressInfo) => void);
  return own as HubOptions & Record<string, unknown>;
}

/** One precision for the model's one graph, however it was said. @throws BimedixError bad_option */
export function chosen_dtype({ dtype, torch_dtype = dtype, quantized }: Record<string, unknown>): Dtype {
  const bad = (value: unknown) => {
    const given = `dtype ${shown(value)}`;
    return new BimedixError("bad_option", { given, expected: dtypes.join(", "), todo: "choose one of them" });
  };
  const by_module = typeof torch_dtype === "object" && torch_dtype !== null;
  const [one = quantized === false ? "fp32" : "q8", ...others] = by_module ? Object.values(torch_dtype) : [torch_dtype];
  if (others.length > 0 || typeof one !== "string" || (by_module && !("model" in torch_dtype))) throw bad(torch_dtype);
  const chosen = parse_dtype(one === "auto" ? "q8" : one === "float32" ? "fp32" : one);
  if (quantized !== undefined && quantized !== (chosen !== "fp32")) throw bad(`${chosen} with quantized ${quantized}`);
  return chosen;
}

function told(name: string, tell: (progress: ProgressInfo) => void): NonNullable<HubOptions["on_progress"]> {
  const begun = new Set<string>();
  return ({ file = "", done, total }: { file?: string; done: number; total: number }) => {
    if (!begun.has(file)) tell({ status: "initiate", name, file });
    begun.add(file);
    const progress = total > 0 ? (100 * done) / total : 100;
    tell({ status: done < total ? "progress" : "done", name, file, progress, loaded: done, total });
  };
}
