/**
 * config.json as the decoder needs it, in transformers' names and with its defaults
 * (configuration_mixtral.py, configuration_llama.py, configuration_mistral.py; versions 4 and 5). What would change the
 * computation and is not understood is refused by name; the many fields that only describe a model are not looked at.
 */
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";
import { foreign_model } from "./formats.js";
import { attention_factor, inverse_frequencies, parse_rope, type Rope } from "./rope.js";

export interface ModelConfig {
  model_type: "mixtral" | "llama" | "mistral";
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  /** 0 in a dense model. */
  num_local_experts: number;
  num_experts_per_tok: number;
  rms_norm_eps: number;
  rope: Rope;
  max_position_embeddings: number;
  /** Tokens that a token sees, itself included; null for all. */
  sliding_window: number | null;
  tie_word_embeddings: boolean;
  bos_token_id: number | null;
  /** Those within the vocabulary; no other is ever generated. */
  eos_token_id: number[];
}

type Json = Record<string, unknown>;

/** What a field may be: anything beyond is a mistake or an attack, not a model. */
const limits = { size: 2 ** 20, head: 4096, experts: 4096, layers: 1024, vocab: 2 ** 22, positions: 2 ** 27 };
/** Of a whole model. Mixtral-8x22B has 1,739; the time that ONNX Runtime takes to load a graph grows with the square. */
const MAX_MATRICES = 2 ** 14;
/** What transformers 5.17 takes where config.json has no such field; null is the number of attention heads, or no window. */
const common = { vocab_size: 32000, hidden_size: 4096, num_hidden_layers: 32, num_attention_heads: 32 };
const mistral = { ...common, intermediate_size: 14336, num_key_value_heads: 8, max_position_embeddings: 131072 };
const llama = { ...common, intermediate_size: 11008, num_key_value_heads: null, max_position_embeddings: 2048 };
const defaults = {
  mixtral: { ...mistral, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null },
  mistral: { ...mistral, rms_norm_eps: 1e-6, rope_theta: 1e4, sliding_window: 4096 },
  llama: { ...llama, rms_norm_eps: 1e-6, rope_theta: 1e4, sliding_window: null },
};

/** Fields of other architectures that would change the computation, with the values that leave it as it is. */
const foreign_fields: Record<string, unknown[]> = {
  attention_multiplier: [],
  attn_logit_softcapping: [],
  embedding_multiplier: [1],
  final_logit_softcapping: [],
  logit_scale: [1],
  logits_scaling: [1],
  num_shared_experts: [0],
  query_pre_attn_scalar: [],
  residual_multiplier: [1],
  use_qk_norm: [false],
};

/** @throws BimedixError file_not_found, bad_config, unsupported_architecture */
export async function read_config(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  return parse_config(await read_config_json(dir), file);
}

/** config.json as it stands. @throws BimedixError file_not_found, which names what the directory holds instead */
export async function read_config_json(dir: string): Promise<Json> {
  const file = join(dir, "config.json");
  const json = await read_json(file, "bad_config", true);
  if (json) return json;
  const foreign = await foreign_model(dir);
  throw new BimedixError("file_not_found", {
    given: `${file} does not exist${foreign ? `; the folder holds ${foreign.what}` : ""}`,
    expected: "the configuration of a model",
    todo: foreign?.todo ?? "check the path or download the file again",
  });
}

type Bad = (field: string, expected: string) => never;

/** @param file names the source in errors. @throws BimedixError bad_config, unsupported_architecture */
export function parse_config(json: Json, file: string): ModelConfig {
  const bad: Bad = (field, expected) => {
    const given = `${field} ${JSON.stringify(json[field]) ?? "missing"} in ${file}`;
    throw new BimedixError("bad_config", { given, expected, todo: "correct the file or download it again" });
  };
  const integer = (field: string, value: unknown, max: number): number => {
    if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > max)
      bad(field, `an integer from 1 to ${max}`);
    return value as number;
  };
  const model_type = architecture(json, file);
  const preset = defaults[model_type];
  // null is a value of these fields, and no value of all others.
  const field = (name: "num_key_value_heads" | "sliding_window"): unknown => (name in json ? json[name] : preset[name]);
  const number = (name: keyof typeof preset, max: number): number => integer(name, json[name] ?? preset[name], max);

  const hidden_size = number("hidden_size", limits.size);
  const num_attention_heads = number("num_attention_heads", limits.size);
  const kv_heads = field("num_key_value_heads") ?? num_attention_heads;
  const num_key_value_heads = integer("num_key_value_heads", kv_heads, limits.size);
  if (num_attention_heads % num_key_value_heads !== 0)
    bad("num_key_value_heads", `a divisor of num_attention_heads ${num_attention_heads}`);
  if (json.head_dim == null && hidden_size % num_attention_heads !== 0)
    bad("hidden_size", `a multiple of num_attention_heads ${num_attention_heads}`);
  const head_dim = integer("head_dim", json.head_dim ?? Math.floor(hidden_size / num_attention_heads), limits.head);
  if (head_dim % 2 !== 0) bad("head_dim", "an even number");
  const rms_norm_eps = json.rms_norm_eps ?? preset.rms_norm_eps;
  if (typeof rms_norm_eps !== "number" || !(rms_norm_eps > 0 && rms_norm_eps < 1))
    bad("rms_norm_eps", "a number between 0 and 1");
  const tie_word_embeddings = json.tie_word_embeddings ?? false;
  if (typeof tie_word_embeddings !== "boolean") bad("tie_word_embeddings", "true or false");
  refuse_foreign(json, model_type, bad);

  const vocab_size = number("vocab_size", limits.vocab);
  const max_position_embeddings = number("max_position_embeddings", limits.positions);
  const ids = token_ids(json, vocab_size, bad);
  const num_hidden_layers = number("num_hidden_layers", limits.layers);
  const mixture = experts(json, model_type, integer, bad);
  if (num_hidden_layers * (4 + 3 * Math.max(mixture.num_local_experts, 1)) > MAX_MATRICES)
    bad("num_hidden_layers", `fewer, as with ${mixture.num_local_experts} experts a layer they make more than ${MAX_MATRICES} matrices`); // biome-ignore format: one line
  const rope = parse_rope(json, preset.rope_theta, max_position_embeddings, bad);
  if (![...inverse_frequencies({ head_dim, rope }), attention_factor(rope)].every(Number.isFinite))
    bad("rope_scaling", "numbers of which finite angles are made");
  return {
    model_type,
    vocab_size,
    hidden_size,
    intermediate_size: number("intermediate_size", limits.size),
    num_hidden_layers,
    num_attention_heads,
    num_key_value_heads,
    head_dim,
    ...mixture,
    rms_norm_eps: rms_norm_eps as number,
    rope,
    max_position_embeddings,
    sliding_window: sliding_window(json, model_type, field("sliding_window"), integer, bad),
    tie_word_embeddings: tie_word_embeddings as boolean,
    bos_token_id: ids("bos_token_id", 1)[0] ?? null,
    eos_token_id: ids("eos_token_id", 2),
  };
}

type Integer = (field: string, value: unknown, max: number) => number;

function experts(json: Json, model_type: ModelConfig["model_type"], integer: Integer, bad: Bad) {
  if (model_type !== "mixtral") return { num_local_experts: 0, num_experts_per_tok: 0 };
  // transformers' other name of the same field counts where both stand.
  const num_local_experts = integer(
    "num_local_experts",
    json.num_experts ?? json.num_local_experts ?? 8,
    limits.experts,
  );
  const num_experts_per_tok = integer("num_experts_per_tok", json.num_experts_per_tok ?? 2, limits.experts);
  if (num_experts_per_tok > num_local_experts)
    bad("num_experts_per_tok", `at most num_local_experts ${num_local_experts}`);
  return { num_local_experts, num_experts_per_tok };
}

// transformers takes a Mistral with layer_types for its Ministral, in which each layer has its own kind of attention.
function sliding_window(json: Json, model_type: string, window: unknown, integer: Integer, bad: Bad): number | null {
  const kinds = new Set(Array.isArray(json.layer_types) && model_type === "mistral" ? json.layer_types : []);
  if (kinds.size > 1) bad("layer_types", "one kind of attention in all layers");
  if (model_type === "llama" || window === null || kinds.has("full_attention")) return null;
  return integer("sliding_window", window, limits.positions);
}

/** Ids outside the vocabulary are left out, as no token ever is one: many published files hold -1 or the id of a token that was removed. */
function token_ids(json: Json, vocab_size: number, bad: Bad): (field: string, fallback: number) => number[] {
  return (field, fallback) => {
    const ids = [field in json ? json[field] : fallback].flat().filter((id) => id !== null);
    if (!ids.every(Number.isInteger)) bad(field, "an integer, a list of integers, or null");
    return (ids as number[]).filter((id) => id >= 0 && id < vocab_size);
  };
}

function refuse_foreign(json: Json, model_type: ModelConfig["model_type"], bad: Bad): void {
  for (const field of ["attention_bias", "mlp_bias"])
    if (json[field]) bad(field, "false, as this decoder has no biases");
  if (!["silu", "swish"].includes((json.hidden_act ?? "silu") as string))
    bad("hidden_act", '"silu", which is also called "swish"');
  for (const [field, neutral] of Object.entries(foreign_fields))
    if (json[field] != null && !neutral.includes(json[field]))
      bad(field, `a model of the family ${model_type}, which has no such field`);
}

// model_type decides, as in transformers; a few conversions keep only `architectures`.
function architecture(json: Json, file: string): ModelConfig["model_type"] {
  const named = json.model_type == null ? [json.architectures ?? []].flat() : [json.model_type];
  const known = (["mixtral", "mistral", "llama"] as const).find((type) =>
    named.some((name) => [type, `${type}model`, `${type}forcausallm`].includes(String(name).toLowerCase())),
  );
  if (known) return known;
  throw new BimedixError("unsupported_architecture", {
    given: `architecture ${JSON.stringify(json.model_type ?? json.architectures ?? null)} in ${file}`,
    expected: "Mixtral, Mistral or Llama",
    todo: "use a model of one of these families",
  });
}
