// The shapes that are measured, as config.json has them. Weights are random: speed does not depend on their values.
const mixtral = (shape) => ({
  architectures: ["MixtralForCausalLM"],
  model_type: "mixtral",
  vocab_size: 32000,
  num_local_experts: 8,
  num_experts_per_tok: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 1e6,
  max_position_embeddings: 8192,
  tie_word_embeddings: false,
  bos_token_id: 1,
  eos_token_id: 2,
  torch_dtype: "bfloat16",
  ...shape,
});

export const shapes = {
  /** 791 M parameters. */
  A: mixtral({
    hidden_size: 1024,
    intermediate_size: 3584,
    num_hidden_layers: 8,
    num_attention_heads: 16,
    num_key_value_heads: 4,
  }),
  /** Shape A with four of its layers. */
  A4: mixtral({
    hidden_size: 1024,
    intermediate_size: 3584,
    num_hidden_layers: 4,
    num_attention_heads: 16,
    num_key_value_heads: 4,
  }),
  /** One layer of Mixtral-8x7B at its true width, 1.7 G parameters with the vocabulary. */
  W: mixtral({
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 1,
    num_attention_heads: 32,
    num_key_value_heads: 8,
  }),
  /** 4.5 G parameters, 9 GB in bfloat16: three layers of the true width. */
  L: mixtral({
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 3,
    num_attention_heads: 32,
    num_key_value_heads: 8,
  }),
};
