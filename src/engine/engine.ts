/** What every engine does, whether it runs in this thread, in a worker or on a server. One test suite runs over all of them. */

/** Anything with an `aborted` flag: an AbortSignal, or a flag shared between threads. */
export interface Abort {
  readonly aborted: boolean;
}

/** Sampling options in Hugging Face's names and with their meaning; the defaults are greedy decoding. */
export interface SamplingOptions {
  /** Sample (true) or take the likeliest token (false). Default false. */
  do_sample?: boolean;
  /** Divides the logits; above 0 where it samples. Default 1. */
  temperature?: number;
  /** Keep the k likeliest tokens; 0 keeps all. Default 0. */
  top_k?: number;
  /** Keep the fewest tokens whose probabilities reach this sum; [0, 1]. Default 1. */
  top_p?: number;
  /** Keep tokens at least this probable relative to the likeliest; [0, 1]. Default 0. */
  min_p?: number;
  /** Divides positive and multiplies negative logits of tokens that occurred, prompt included; above 0. Default 1. */
  repetition_penalty?: number;
  /** Taken from the logit of a token each time that the answer has it already, as in OpenAI's API. Default 0. */
  frequency_penalty?: number;
  /** Taken once from the logits of tokens that the answer has already, as in OpenAI's API. Default 0. */
  presence_penalty?: number;
  /** No sequence of so many tokens occurs twice, prompt included. Default 0, which allows all. */
  no_repeat_ngram_size?: number;
  /** Added to the logits of tokens by their ids, as in OpenAI's API. */
  logit_bias?: Readonly<Record<number, number>>;
  /** `[token ids, bias]`: added to the logit of the token that would end the sequence. */
  sequence_bias?: readonly (readonly [readonly number[], number])[];
  /** Sequences of tokens that do not occur. */
  bad_words_ids?: readonly (readonly number[])[];
  /** Tokens that are never chosen. */
  suppress_tokens?: number | readonly number[];
  /** Tokens that are not chosen first. */
  begin_suppress_tokens?: number | readonly number[];
  /** Makes sampling repeatable, sequence by sequence of a batch. Default: different each time. */
  seed?: number;
}

/** Which weights a call computes with. */
export interface AdapterOption {
  /** The name of a loaded adapter; null is the base model. Default: what the model was loaded with. */
  adapter?: string | null;
}

export interface GenerateOptions extends SamplingOptions, AdapterOption {
  /** Default 256. The context's length ends a sequence earlier. */
  max_new_tokens?: number;
  /** Before so many new tokens none of `eos_token_id` is chosen. Default 0. */
  min_new_tokens?: number;
  /** Tokens that end a sequence; null never stops. */
  eos_token_id?: number | readonly number[] | null;
  /** Gives with each token its log-probability and those of so many of the likeliest; of the model itself, before any option. */
  top_logprobs?: number;
  signal?: Abort;
}

/** A token with its natural log-probability. */
export interface TokenLogprob {
  token_id: number;
  logprob: number;
}

export interface GeneratedToken {
  /** Which of the prompts the token continues. */
  sequence: number;
  token_id: number;
  /** With `top_logprobs`. */
  logprob?: number;
  /** With `top_logprobs`: the likeliest, in order. */
  top?: TokenLogprob[];
}

export interface ScoreRequest {
  context: readonly number[];
  continuation: readonly number[];
}

export interface ScoreOptions extends AdapterOption {
  /**
   * So many of the first tokens are shared by these requests and by those of the next calls: they are computed on their own
   * and kept, and nothing else of earlier calls is used. The scores then do not depend on what was scored before, to the
   * last bit. Default: whatever is cached is used.
   */
  prefix?: number;
  /** Gives with each score its tokens one by one, and so many of the likeliest beside each. */
  top_logprobs?: number;
  signal?: Abort;
}

export interface Score {
  /** The sum of the natural log-probabilities of the continuation's tokens. */
  logprob: number;
  /** Whether each of them was the likeliest. */
  is_greedy: boolean;
  /** With `top_logprobs`: of each token of the continuation. */
  tokens?: { logprob: number; top: TokenLogprob[] }[];
}

export interface ForwardOptions extends AdapterOption {
  /** false leaves the logits where they are computed, when only the router's are looked at. Default true. */
  output_logits?: boolean;
  signal?: Abort;
}

export interface ForwardResult {
  /** A sequence of the batch: float32 `[length, vocab]`; none without `output_logits`. */
  logits: Float32Array[];
  /** A sequence of the batch: float32 `[layers, length, experts]` before the softmax; in mixture models only. */
  router_logits?: Float32Array[];
}

export interface EngineState {
  /** Sequences that are generated, and those that wait for their turn. */
  running: number;
  waiting: number;
  /** Tokens whose keys and values are in memory. */
  cached_tokens: number;
}

export interface Engine {
  /** Continues each prompt; the tokens of a step come in the order of the prompts. Ending the iteration ends the work. */
  generate(prompts: readonly (readonly number[])[], options?: GenerateOptions): AsyncIterable<GeneratedToken>;
  /** Scores continuations of contexts; what requests share is computed once. */
  score(requests: readonly ScoreRequest[], options?: ScoreOptions): Promise<Score[]>;
  /** Logits at every position of every sequence. */
  forward(sequences: readonly (readonly number[])[], options?: ForwardOptions): Promise<ForwardResult>;
  /** What it has to do at this moment. */
  state(): Promise<EngineState>;
  dispose(): Promise<void>;
  /** Of the process that it runs in, where that is another. */
  readonly pid?: number | undefined;
  /** Resolves with the reason when the engine ends by itself; absent where it cannot. */
  readonly ended?: Promise<unknown>;
}
