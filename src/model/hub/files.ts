/** Which files of a repository are needed, and which of them a snapshot lacks. Others would only fill the disk. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { BimedixError } from "../../errors.js";
import { read_json } from "../../files.js";
import { LOADED_FILES, TEMPLATES } from "../model_files.js";
import { is_unknown } from "./cache.js";
import type { Entry } from "./client.js";

/** What of a repository is wanted. */
export interface Wanted {
  /** The folder that is listed; "" is the repository itself. */
  folder: string;
  /** A folder below it that is listed too, where there is one. */
  beside?: string;
  /** To be fetched before `choose` can tell: the index of the weights. */
  first?: (files: Entry[]) => Entry[];
  /** @throws BimedixError bad_checkpoint where the repository does not hold what is wanted */
  choose: (files: Entry[], snapshot: string, name: string) => Promise<Entry[]>;
  /** Files without which a snapshot is of no use. */
  lacks: (snapshot: string) => Promise<string[]>;
  /** Files that another tool may have left on the hub, and without which a model reads or writes something else. */
  doubts?: (snapshot: string) => Promise<string[]>;
}

const is_small = (path: string) =>
  LOADED_FILES.includes(path) || /^additional_chat_templates\/[^/]+\.jinja$/.test(path);

const TOKENIZERS = ["tokenizer.json", "tokenizer.model", "vocab.json"] as const;
const TEMPLATE = "chat_template.jinja";
const CONFIG = "tokenizer_config.json";

/** transformers fetches a tokenizer only when it is asked for it, and so leaves snapshots without one, or without its template. */
async function tokenizer_doubts(snapshot: string): Promise<string[]> {
  const has = (file: string) => existsSync(join(snapshot, file));
  const config = has(CONFIG) ? await read_json(join(snapshot, CONFIG), "bad_tokenizer").catch(() => null) : null;
  const doubts = [CONFIG];
  if (!TOKENIZERS.some(has)) doubts.push(TOKENIZERS[0]);
  if (!config?.chat_template) doubts.push(TEMPLATE);
  return doubts.filter((file) => is_unknown(snapshot, file));
}

const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";

export const model_files: Wanted = {
  folder: "",
  beside: TEMPLATES,
  first: (files) => (holds(files, WEIGHTS) ? [] : files.filter(({ path }) => path === INDEX)),
  choose: async (files, snapshot, name) => {
    if (!holds(files, "config.json")) throw no_model(files, name);
    return [...files.filter(({ path }) => is_small(path)), ...(await weights_of(files, snapshot, name))];
  },
  lacks: async (snapshot) => {
    const lacking = existsSync(join(snapshot, "config.json")) ? [] : ["config.json"];
    if (existsSync(join(snapshot, WEIGHTS))) return lacking;
    const shards = await shards_of(snapshot);
    if (shards === null) return [...lacking, WEIGHTS];
    return [...lacking, ...shards.filter((shard) => !existsSync(join(snapshot, shard)))];
  },
  doubts: tokenizer_doubts,
};

export const tokenizer_files: Wanted = {
  folder: "",
  beside: TEMPLATES,
  choose: async (files) => files.filter(({ path }) => is_small(path)),
  lacks: async (snapshot) => {
    return TOKENIZERS.some((file) => existsSync(join(snapshot, file))) ? [] : [TOKENIZERS[0]];
  },
  doubts: tokenizer_doubts,
};

/** A LoRA adapter in PEFT's form. */
export const adapter_files: Wanted = {
  folder: "",
  choose: async (files, _snapshot, name) => {
    const wanted = ["adapter_config.json", "adapter_model.safetensors"];
    const missing = wanted.find((file) => !holds(files, file));
    if (missing === undefined) return files.filter(({ path }) => wanted.includes(path));
    const torch = holds(files, "adapter_model.bin") ? ", only adapter_model.bin" : "";
    throw unfit(
      `${name} holds no ${missing}${torch}`,
      "an adapter in PEFT's form",
      "choose another, or save it as safetensors",
    );
  },
  lacks: async (snapshot) =>
    ["adapter_config.json", "adapter_model.safetensors"].filter((file) => !existsSync(join(snapshot, file))),
};

/** One file of a data set, which must be all of its split: a split in several would be read in part. */
export const one_file = (path: string): Wanted => ({
  folder: path.slice(0, path.lastIndexOf("/")),
  choose: async (files) => {
    const others = files.filter((file) => file.path !== path && file.path.endsWith(".parquet"));
    if (others.length > 0)
      throw unfit(
        `a split in ${others.length + 1} files, ${path} and ${others[0]!.path} among them`,
        "one in a single file",
        "download them, join them and give the folder with --data",
      );
    return files.filter((file) => file.path === path);
  },
  lacks: async (snapshot) => (existsSync(join(snapshot, path)) ? [] : [path]),
});

const holds = (files: Entry[], path: string) => files.some((file) => file.path === path);

/** As transformers chooses: one file before shards, and of shards those that the index names. */
async function weights_of(files: Entry[], snapshot: string, name: string): Promise<Entry[]> {
  const single = files.find(({ path }) => path === WEIGHTS);
  if (single) return [single];
  const shards = holds(files, INDEX) ? await shards_of(snapshot) : null;
  if (shards === null) throw no_model(files, name);
  return shards.map((shard) => {
    const file = files.find(({ path }) => path === shard);
    if (file) return file;
    throw unfit(
      `the index of ${name} names ${shard}, which it does not hold`,
      "every shard",
      "choose another revision",
    );
  });
}

async function shards_of(snapshot: string): Promise<string[] | null> {
  const index = await read_json(join(snapshot, INDEX), "bad_checkpoint", true);
  const shards = new Set(Object.values(index?.weight_map ?? {}).map(String));
  return shards.size === 0 ? null : [...shards];
}

/** Named by what the repository holds instead. */
function no_model(files: Entry[], name: string): BimedixError {
  const other = files.find(({ path }) => /\.(bin|pth|pt|gguf|h5|msgpack|onnx)$/.test(path))?.path;
  if (holds(files, "adapter_config.json"))
    return unfit(
      `${name} holds an adapter and no model`,
      "a model",
      "pass it as the adapter, and its base as the model",
    );
  return unfit(
    `${name} holds no ${holds(files, "config.json") ? WEIGHTS : "config.json"}${other ? `, but ${other}` : ""}`,
    "config.json and weights in safetensors",
    "choose another revision, such as OWNER/NAME@refs/pr/N where a conversion was proposed, or another model",
  );
}

const unfit = (given: string, expected: string, todo: string) =>
  new BimedixError("bad_checkpoint", { given, expected, todo });
