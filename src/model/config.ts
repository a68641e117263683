/**
 * config.json as the decoder needs it, in transformers' names and with its defaults
 * (configuration_mixtral.py, configuration_llama.py, configuration_mistral.py; versions 4 and 5).
 */
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";

export type RopeScaling =
  | { type: "none" }
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      low_freq_factor: number;
      high_freq_factor: number;
      original_max_position_embeddings: number;
    };

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
  rope: { theta: number; scaling: RopeScaling };
  max_position_embeddings: number;
  /** Tokens that a token sees, itself included; null for all. */
  sliding_window: number | null;
  tie_word_embeddings: boolean;
  bos_token_id: number | null;
  /** Empty when the configuration names none. */
  eos_token_id: number[];
}

type Json = Record<string, unknown>;

/** What a field may be: anything beyond is a mistake or an attack, not a model. */
const limits = { size: 2 ** 20, layers: 1024, vocab: 2 ** 22, positions: 2 ** 27 };
const defaults = {
  mixtral: { num_key_value_heads: 8, rope_theta: 1e6, rms_norm_eps: 1e-5, max_position_embeddings: 131072 },
  mistral: { num_key_value_heads: 8, rope_theta: 1e4, rms_norm_eps: 1e-6, max_position_embeddings: 131072 },
  llama: { num_key_value_heads: null, rope_theta: 1e4, rms_norm_eps: 1e-6, max_position_embeddings: 2048 },
};

/** @throws BimedixError file_not_found, bad_config, unsupported_architecture */
export async function read_config(dir: string): Promise<ModelConfig> {
  const file = join(dir, "config.json");
  return parse_config(await read_json(file, "bad_config"), file);
}

/** @param file names the source in errors. @throws BimedixError bad_config, unsupported_architecture */
export function parse_config(json: Json, file: string): ModelConfig {
  const bad = (field: string, expected: string): never => {
    const given = `${field} ${JSON.stringify(json[field]) ?? "missing"} in ${file}`;
    throw new BimedixError("bad_config", { given, expected, todo: "correct the file or download it again" });
  };
  const number = (field: string, fallback: number | null, max: number, min = 1): number => {
    const value = json[field] ?? fallback;
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
      return bad(field, `an integer from ${min} to ${max}`);
    }
    return value as number;
  };

  const model_type = architecture(json, file);
  const preset = defaults[model_type];
  const moe = model_type === "mixtral";
  const hidden_size = number("hidden_size", null, limits.size);
  const num_attention_heads = number("num_attention_heads", null, limits.size);
  const num_key_value_heads = number(
    "num_key_value_heads",
    preset.num_key_value_heads ?? num_attention_heads,
    limits.size,
  );
  if (num_attention_heads % num_key_value_heads !== 0) {
    bad("num_key_value_heads", `a divisor of num_attention_heads ${num_attention_heads}`);
  }
  if (json.head_dim == null && hidden_size % num_attention_heads !== 0) {
    bad("hidden_size", `a multiple of num_attention_heads ${num_attention_heads}`);
  }
  const head_dim = number("head_dim", Math.floor(hidden_size / num_attention_heads), 4096);
  if (head_dim % 2 !== 0) bad("head_dim", "an even number");
  const num_local_experts = moe ? number("num_local_experts", 8, 4096) : 0;
  const num_experts_per_tok = moe ? number("num_experts_per_tok", 2, limits.size) : 0;
  if (num_experts_per_tok > num_local_experts)
    bad("num_experts_per_tok", `at most num_local_experts ${num_local_experts}`);
  const rms_norm_eps = json.rms_norm_eps ?? preset.rms_norm_eps;
  if (typeof rms_norm_eps !== "number" || !(rms_norm_eps > 0 && rms_norm_eps < 1))
    bad("rms_norm_eps", "a number between 0 and 1");
  for (const field of ["attention_bias", "mlp_bias"]) {
    if (json[field]) bad(field, "false, as this decoder has no biases");
  }
  if ((json.hidden_act ?? "silu") !== "silu") bad("hidden_act", '"silu"');
  const vocab_size = number("vocab_size", 32000, limits.vocab);
  const token = (field: string, value: unknown): number => {
    if (!Number.isInteger(value) || (value as number) < 0 || (value as number) >= vocab_size) {
      bad(field, `ids from 0 to ${vocab_size - 1}`);
    }
    return value as number;
  };
  const eos = json.eos_token_id;
  return {
    model_type,
    vocab_size,
    hidden_size,
    intermediate_size: number("intermediate_size", null, limits.size),
    num_hidden_layers: number("num_hidden_layers", null, limits.layers),
    num_attention_heads,
    num_key_value_heads,
    head_dim,
    num_local_experts,
    num_experts_per_tok,
    rms_norm_eps: rms_norm_eps as number,
    rope: rope(json, preset.rope_theta, bad),
    max_position_embeddings: number("max_position_embeddings", preset.max_position_embeddings, limits.positions),
    sliding_window:
      model_type === "llama" || json.sliding_window == null ? null : number("sliding_window", null, limits.positions),
    tie_word_embeddings: json.tie_word_embeddings === true,
    bos_token_id: json.bos_token_id == null ? null : token("bos_token_id", json.bos_token_id),
    eos_token_id: eos == null ? [] : [eos].flat().map((id) => token("eos_token_id", id)),
  };
}

// BiMediX-Eng was saved with the base class's name, and some conversions keep only model_type: both are looked at.
function architecture(json: Json, file: string): ModelConfig["model_type"] {
  const named = [json.model_type, ...[json.architectures ?? []].flat()].map((name) => String(name).toLowerCase());
  const known = (["mixtral", "mistral", "llama"] as const).find((type) =>
    named.some((name) => [type, `${type}model`, `${type}forcausallm`].includes(name)),
  );
  if (known) return known;
  throw new BimedixError("unsupported_architecture", {
    given: `architecture ${JSON.stringify(json.architectures ?? json.model_type ?? null)} in ${file}`,
    expected: "Mixtral, Mistral or Llama",
    todo: "use a model of one of these families",
  });
}

function rope(json: Json, theta: number, bad: (field: string, expected: string) => never): ModelConfig["rope"] {
  // transformers 5 writes rope_parameters with rope_theta inside, where 4 wrote rope_theta and rope_scaling.
  const field = json.rope_parameters == null ? "rope_scaling" : "rope_parameters";
  const given = (json[field] ?? {}) as Json;
  if (typeof given !== "object" || Array.isArray(given)) bad(field, "an object");
  const positive = (name: string, value: unknown): number => {
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) bad(field, `a positive ${name}`);
    return value as number;
  };
  const rope_theta = positive("rope_theta", given.rope_theta ?? json.rope_theta ?? theta);
  const type = given.rope_type ?? given.type ?? "default";
  if (type === "default") return { theta: rope_theta, scaling: { type: "none" } };
  const factor = positive("factor", given.factor);
  if (type === "linear") return { theta: rope_theta, scaling: { type, factor } };
  if (type !== "llama3") bad(field, "rope_type default, linear or llama3");
  return {
    theta: rope_theta,
    scaling: {
      type: "llama3",
      factor,
      low_freq_factor: positive("low_freq_factor", given.low_freq_factor),
      high_freq_factor: positive("high_freq_factor", given.high_freq_factor),
      original_max_position_embeddings: positive("original length", given.original_max_position_embeddings),
    },
  };
}
