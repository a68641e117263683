/**
 * Rotary position embeddings as config.json names them, and the rotations that follow: what transformers'
 * modeling_rope_utils.py (5.17) computes for default, linear, dynamic, yarn and llama3.
 */

export type RopeScaling =
  | { type: "none" }
  | { type: "linear"; factor: number }
  | {
      type: "llama3";
      factor: number;
      low_freq_factor: number;
      high_freq_factor: number;
      original_max_position_embeddings: number;
    }
  | {
      type: "yarn";
      factor: number;
      /** Multiplies the cosines and sines. */
      attention_factor: number;
      beta_fast: number;
      beta_slow: number;
      truncate: boolean;
      original_max_position_embeddings: number;
    };

export interface Rope {
  theta: number;
  scaling: RopeScaling;
}

type Json = Record<string, unknown>;
type Bad = (field: string, expected: string) => never;

/**
 * The rope of a configuration. transformers 5 writes `rope_parameters` with `rope_theta` inside, where 4 wrote `rope_theta`
 * and `rope_scaling`; where both stand, `rope_scaling` counts, as there.
 *
 * @param theta the default of the architecture
 */
export function parse_rope(json: Json, theta: number, max_position_embeddings: number, bad: Bad): Rope {
  // What is false in Python stands for none, as there.
  const holds = (value: unknown) => Boolean(value) && (typeof value !== "object" || Object.keys(value!).length > 0);
  const field = holds(json.rope_scaling) ? "rope_scaling" : "rope_parameters";
  const given = (holds(json[field]) ? json[field] : {}) as Json;
  if (typeof given !== "object" || Array.isArray(given)) bad(field, "an object");
  for (const [key, value] of Object.entries(given))
    if (typeof value === "object" && value !== null && !Array.isArray(value))
      bad(field, `one rope for all layers, not one of its own for ${key}`);
  const positive = (name: string, value: unknown): number => {
    if (typeof value !== "number" || !Number.isFinite(value) || value <= 0) bad(field, `a positive ${name}`);
    return value as number;
  };
  const optional = (name: string, fallback: number) => (given[name] ? positive(name, given[name]) : fallback);
  const rope_theta = positive("rope_theta", given.rope_theta ?? json.rope_theta ?? theta);
  const type = given.rope_type ?? given.type ?? "default";
  const original = () =>
    positive(
      "original_max_position_embeddings",
      json.original_max_position_embeddings ?? given.original_max_position_embeddings ?? max_position_embeddings,
    );
  if (type === "default") return { theta: rope_theta, scaling: { type: "none" } };
  if (!["linear", "dynamic", "yarn", "llama3"].includes(type as string))
    bad(field, "rope_type default, linear, dynamic, yarn or llama3");
  // transformers rotates the scaled types by fewer channels then, which its own models of these families cannot add up.
  if ((given.partial_rotary_factor ?? json.partial_rotary_factor ?? 1) !== 1)
    bad(field, "a partial_rotary_factor of 1");
  // Its channels are found by a logarithm to this base.
  if (type === "yarn" && rope_theta <= 1) bad(field, "a rope_theta above 1");
  if (type === "yarn")
    return { theta: rope_theta, scaling: yarn(given, max_position_embeddings, original(), optional) };
  const factor = positive("factor", given.factor);
  // It stretches what lies beyond max_position_embeddings, where this engine ends, and nothing before.
  if (type === "dynamic") return { theta: rope_theta, scaling: { type: "none" } };
  if (type === "linear") return { theta: rope_theta, scaling: { type, factor } };
  return {
    theta: rope_theta,
    scaling: {
      type: "llama3",
      factor,
      low_freq_factor: positive("low_freq_factor", given.low_freq_factor),
      high_freq_factor: positive("high_freq_factor", given.high_freq_factor),
      original_max_position_embeddings: original(),
    },
  };
}

/** Keys of a rope that its type does not look at, here as in transformers, which warns of them. */
export function unread_rope_keys(json: Json): string[] {
  const given = (json.rope_scaling ?? json.rope_parameters ?? {}) as Json;
  const type = String(given.rope_type ?? given.type ?? "default");
  const read = new Set([
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    ...(Object.hasOwn(keys, type) ? keys[type]! : Object.keys(given)),
  ]);
  return Object.keys(given).filter((key) => !read.has(key));
}

const keys: Record<string, readonly string[]> = {
  default: [],
  linear: ["factor"],
  dynamic: ["factor"],
  llama3: ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
  yarn: ["factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale"].concat([
    "mscale_all_dim",
    "truncate",
  ]),
};

function yarn(
  given: Json,
  max_position_embeddings: number,
  original_max_position_embeddings: number,
  optional: (name: string, fallback: number) => number,
): RopeScaling {
  const factor = optional("factor", max_position_embeddings / original_max_position_embeddings);
  const scale = (by: number) => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
  const both = given.mscale && given.mscale_all_dim;
  const attention = both ? scale(optional("mscale", 1)) / scale(optional("mscale_all_dim", 1)) : scale(1);
  return {
    type: "yarn",
    factor,
    attention_factor: optional("attention_factor", attention),
    beta_fast: optional("beta_fast", 32),
    beta_slow: optional("beta_slow", 1),
    truncate: given.truncate !== false,
    original_max_position_embeddings,
  };
}

/** Rotations a position, for each pair of a head's channels: theta^(-2i / head_dim), rescaled as `rope.scaling` says. */
export function inverse_frequencies({ head_dim, rope }: { head_dim: number; rope: Rope }): number[] {
  const frequencies = Array.from({ length: head_dim / 2 }, (_, i) => 1 / rope.theta ** ((2 * i) / head_dim));
  const { scaling } = rope;
  if (scaling.type === "none") return frequencies;
  if (scaling.type === "linear") return frequencies.map((frequency) => frequency / scaling.factor);
  const { factor, original_max_position_embeddings: original } = scaling;
  if (scaling.type === "llama3") {
    const { low_freq_factor: low, high_freq_factor: high } = scaling;
    return frequencies.map((frequency) => {
      const turns = (original * frequency) / (2 * Math.PI);
      const keep = Math.min(1, Math.max(0, (turns - low) / (high - low)));
      return keep * frequency + ((1 - keep) * frequency) / factor;
    });
  }
  const { beta_fast, beta_slow, truncate } = scaling;
  // The channel whose frequency turns so often within the original length.
  const channel = (turns: number) =>
    (head_dim * Math.log(original / (turns * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  const [fast, slow] = [channel(beta_fast), channel(beta_slow)];
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(truncate ? Math.ceil(slow) : slow, head_dim - 1);
  const width = low === high ? 0.001 : high - low;
  return frequencies.map((frequency, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / width));
    return (1 - ramp) * frequency + (ramp * frequency) / factor;
  });
}

/** What cosines and sines are multiplied by. */
export const attention_factor = ({ scaling }: Rope): number => (scaling.type === "yarn" ? scaling.attention_factor : 1);
