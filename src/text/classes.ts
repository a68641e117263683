/**
 * What the tokenizer classes of transformers 5.17 put on top of a tokenizer's files. A class is named by tokenizer_config.json or
 * config.json; for the models in `AS_FILES` it counts for nothing.
 */
import type { Json } from "./component.js";

/** Models whose tokenizer is its file, whatever class is named. */
const AS_FILES: ReadonlySet<unknown> = new Set([
  "mistral",
  "mistral3",
  "ministral",
  "ministral3",
  "mixtral",
  "phi3",
  "deepseek_v2",
  "deepseek_v3",
]);

export interface TokenizerClass {
  name: string;
  /** Special tokens that the files need not name. */
  defaults: Readonly<Record<string, string>>;
  padding_side: "left" | "right";
}

const GPT = { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>", unk_token: "<|endoftext|>" };
const LLAMA = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" };
const BERT = { unk_token: "[UNK]", sep_token: "[SEP]", pad_token: "[PAD]", cls_token: "[CLS]", mask_token: "[MASK]" };
const ROBERTA = { ...LLAMA, sep_token: "</s>", cls_token: "<s>", pad_token: "<pad>", mask_token: "<mask>" };

const CLASSES: Readonly<Record<string, Omit<TokenizerClass, "name">>> = {
  BertTokenizer: { defaults: BERT, padding_side: "right" },
  CodeLlamaTokenizer: { defaults: LLAMA, padding_side: "left" },
  GemmaTokenizer: {
    defaults: { bos_token: "<bos>", eos_token: "<eos>", unk_token: "<unk>", pad_token: "<pad>", mask_token: "<mask>" },
    padding_side: "left",
  },
  GPT2Tokenizer: { defaults: GPT, padding_side: "right" },
  GPTNeoXTokenizer: { defaults: { ...GPT, pad_token: "<|padding|>" }, padding_side: "right" },
  LlamaTokenizer: { defaults: LLAMA, padding_side: "left" },
  Qwen2Tokenizer: {
    defaults: { eos_token: "<|endoftext|>", unk_token: "<|endoftext|>", pad_token: "<|endoftext|>" },
    padding_side: "right",
  },
  RobertaTokenizer: { defaults: ROBERTA, padding_side: "right" },
  T5Tokenizer: { defaults: { eos_token: "</s>", unk_token: "<unk>", pad_token: "<pad>" }, padding_side: "right" },
  XLMRobertaTokenizer: { defaults: ROBERTA, padding_side: "right" },
};

export function tokenizer_class(config: Json, model_config: Json): TokenizerClass {
  const named = String(config.tokenizer_class ?? model_config.tokenizer_class ?? "").replace(/Fast$/, "");
  const name = AS_FILES.has(model_config.model_type) ? "" : named;
  return { name, ...(Object.hasOwn(CLASSES, name) ? CLASSES[name]! : { defaults: {}, padding_side: "right" }) };
}

function only(part: unknown, allowed: readonly string[]): boolean {
  const { type, normalizers } = (part ?? { type: allowed[0] }) as Json;
  if (type === "Sequence" && Array.isArray(normalizers)) return normalizers.every((one) => only(one, allowed));
  return allowed.includes(String(type));
}

/**
 * LlamaTokenizer of a Llama takes the vocabulary alone from tokenizer.json, and makes the rest from `legacy` and
 * `add_prefix_space`. Where the file has more than a Llama's, the file is right: the class was never meant for it.
 */
export function as_llama(json: Json, config: Json, model_config: Json): Json {
  const { normalizer, pre_tokenizer } = json;
  if (
    typeof json.model !== "object" ||
    json.model === null ||
    model_config.model_type !== "llama" ||
    !only(normalizer, ["Prepend", "Replace"]) ||
    !only(pre_tokenizer, ["Metaspace"])
  )
    return json;
  const prefix = config.add_prefix_space !== false;
  const replace = { type: "Replace", pattern: { String: "\u2581" }, content: " " };
  const strip = prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [];
  const { vocab, merges } = json.model as Json;
  return {
    ...json,
    model: { type: "BPE", vocab, merges, fuse_unk: true, byte_fallback: true },
    normalizer: null,
    pre_tokenizer: {
      type: "Metaspace",
      replacement: "\u2581",
      prepend_scheme: prefix ? (config.legacy === true ? "always" : "first") : "never",
      split: false,
    },
    decoder: { type: "Sequence", decoders: [replace, { type: "ByteFallback" }, { type: "Fuse" }, ...strip] },
  };
}

const QWEN2 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** tokenizer.json as the class would write it for vocab.json and merges.txt; null where it takes no such files. */
export function from_vocabulary(name: string, vocab: Json, merges: readonly string[], config: Json): Json | null {
  const add_prefix_space = config.add_prefix_space === true;
  const byte_level = { type: "ByteLevel", add_prefix_space, trim_offsets: true };
  const model = { type: "BPE", vocab, merges };
  const decoder = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true };
  if (name === "GPT2Tokenizer" || name === "GPTNeoXTokenizer") return { model, decoder, pre_tokenizer: byte_level };
  if (name !== "Qwen2Tokenizer") return null;
  const split = { type: "Split", pattern: { Regex: QWEN2 }, behavior: "Isolated", invert: false };
  return {
    model,
    decoder,
    normalizer: { type: "NFC" },
    pre_tokenizer: { type: "Sequence", pretokenizers: [split, { ...byte_level, use_regex: false }] },
  };
}
