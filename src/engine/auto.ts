/** `from_pretrained`, in the conventions of Transformers.js. */
import { basename, resolve } from "node:path";
import { BimedixError } from "../errors.js";
import { type ModelConfig, read_config } from "../model/config.js";
import { type Dtype, parse_dtype } from "../model/convert.js";
import { read_generation_config } from "../model/generation_config.js";
import { type HubOptions, resolve_adapter, resolve_model, resolve_tokenizer } from "../model/hub.js";
import { fallback_template } from "../text/prompts.js";
import { StopStrings } from "../text/stop.js";
import { load_tokenizer, StreamingDecoder, type Tokenizer } from "../text/tokenizer.js";
import type {
  AdapterOption,
  Engine,
  ForwardOptions,
  GeneratedToken,
  GenerateOptions,
  SamplingOptions,
} from "./engine.js";
import type { LocalOptions } from "./runner.js";
import { type Isolation, WorkerEngine } from "./worker.js";

export interface PretrainedOptions extends Omit<LocalOptions, "adapters" | "adapter">, Omit<HubOptions, "on_progress"> {
  /**
   * A LoRA adapter in PEFT's form, directory or hub id, which every call uses; or several by name, of which each call chooses one
   * (`adapter: "name"`), the base model where it chooses none.
   */
  adapter?: string | Readonly<Record<string, string>>;
  /** fp32, q8 or q4. Default q8. */
  dtype?: Dtype;
  /** A thread of this process (default), or a process that may crash without it. */
  isolation?: Isolation;
  /** Called while the model is downloaded (`file` is set) and converted. */
  on_progress?: (progress: { file?: string; done: number; total: number }) => void;
}

export interface ModelGenerateOptions extends SamplingOptions, AdapterOption {
  /** `[batch, length]`, of different lengths if need be. */
  input_ids: readonly (readonly number[])[];
  /** Accepted because tokenizers return it; nothing is padded, so it must be all ones. */
  attention_mask?: readonly (readonly number[])[];
  /** Keep the k likeliest tokens when sampling; 0 keeps all. Default: the model's, else 50, as in transformers. */
  top_k?: number;
  max_new_tokens?: number;
  /** null never stops. Default: what generation_config.json or config.json says. */
  eos_token_id?: number | readonly number[] | null;
  /** Texts that end a sequence; they stay in the output, as in Hugging Face's `stop_strings`. */
  stop?: string | readonly string[];
  streamer?: (token: GeneratedToken) => void;
  signal?: AbortSignal;
}

export interface Logits {
  /** float32, row after row. */
  data: Float32Array;
  /** `[batch, length, vocab]`; the batch's sequences must be equally long. `[0, length, vocab]` without `output_logits`. */
  dims: [number, number, number];
}

export interface ForwardOutput {
  logits: Logits;
  /** With `output_router_logits`, of a mixture model: by sequence, layer and token. */
  router?: { experts: number[]; probabilities: number[] }[][][];
}

/** The name of an adapter that was given without one, as in PEFT. */
const DEFAULT = "default";

export class AutoTokenizer {
  /**
   * The tokenizer of a directory or hub id, with a chat template (its own, or the one its family is known to use).
   * @throws BimedixError
   */
  static async from_pretrained(id_or_dir: string, options: HubOptions = {}): Promise<Tokenizer> {
    const dir = await resolve_tokenizer(id_or_dir, options);
    const tokenizer = await load_tokenizer(dir);
    if (tokenizer.chat_template === null) {
      const { model_type } = await read_config(dir).catch(() => ({ model_type: "mixtral" }));
      // The folder's own name, or the repository's in the hub's cache: a folder further up may be named after anything.
      const name = /models--([^/\\]+)[/\\]snapshots/.exec(dir)?.[1] ?? basename(resolve(dir));
      tokenizer.chat_template = fallback_template(name, model_type).chat_template;
    }
    return tokenizer;
  }
}

export class AutoModelForCausalLM {
  /** Read once, at the first call with `stop`. */
  private tokenizer: Promise<Tokenizer> | undefined;

  private constructor(
    /** The model's directory. */
    readonly dir: string,
    readonly config: ModelConfig,
    /** generation_config.json, as far as it concerns sampling. */
    readonly generation_config: Omit<ModelGenerateOptions, "input_ids">,
    readonly engine: Engine,
  ) {}

  /** Loads a directory or hub id in a thread of its own. @throws BimedixError */
  static async from_pretrained(id_or_dir: string, options: PretrainedOptions = {}): Promise<AutoModelForCausalLM> {
    const { dtype = "q8", revision, offline, signal, adapter = {}, ...rest } = options;
    parse_dtype(dtype);
    const hub: HubOptions = {
      ...(revision === undefined ? {} : { revision }),
      ...(offline === undefined ? {} : { offline }),
      ...(signal === undefined ? {} : { signal }),
      ...(rest.on_progress ? { on_progress: rest.on_progress } : {}),
    };
    const dir = await resolve_model(id_or_dir, hub);
    const config = await read_config(dir);
    const generation_config = await read_generation_config(dir, config);
    const adapters: Record<string, string> = {};
    for (const [name, id] of Object.entries(typeof adapter === "string" ? { [DEFAULT]: adapter } : adapter))
      adapters[name] = await resolve_adapter(id, hub);
    const chosen = typeof adapter === "string" ? { adapter: DEFAULT } : {};
    const engine = await WorkerEngine.create(dir, { dtype, ...rest, adapters, ...chosen }, signal);
    return new AutoModelForCausalLM(dir, config, generation_config, engine);
  }

  /**
   * Prompts with their continuations, `[batch, length]`, at least one. What is not given comes from the model's generation_config.json.
   */
  async generate(options: ModelGenerateOptions): Promise<[number[], ...number[][]]> {
    check_batch(options?.input_ids);
    const outputs = options.input_ids.map((ids) => [...ids]);
    for await (const { sequence, token_id } of this.stream(options)) outputs[sequence]!.push(token_id);
    return outputs as [number[], ...number[][]];
  }

  /** The tokens of `generate` as they come. Leaving the loop ends the work. */
  async *stream({
    input_ids,
    attention_mask,
    stop,
    streamer,
    ...options
  }: ModelGenerateOptions): AsyncGenerator<GeneratedToken> {
    check_batch(input_ids);
    if (attention_mask?.some((row) => row.some((value) => value !== 1))) {
      throw new BimedixError("bad_option", {
        given: "an attention_mask with zeros",
        expected: "sequences of their own lengths",
        todo: "leave the padding out",
      });
    }
    const merged: GenerateOptions = { ...this.generation_config, ...options };
    const tokenizer = stop === undefined ? null : await (this.tokenizer ??= load_tokenizer(this.dir));
    const texts = input_ids.map(
      () => tokenizer && { decoder: new StreamingDecoder(tokenizer), stop: new StopStrings(stop) },
    );
    const running = new Set(input_ids.keys());
    for await (const token of this.engine.generate(input_ids, merged)) {
      if (!running.has(token.sequence)) continue;
      streamer?.(token);
      yield token;
      const text = texts[token.sequence];
      if (!text || token.token_id >= tokenizer!.vocab_size) continue;
      text.stop.push(text.decoder.push(token.token_id));
      if (text.stop.found !== null) running.delete(token.sequence);
      if (running.size === 0) return;
    }
  }

  /** Logits at every position, and with `output_router_logits` what the router chose. */
  async forward({
    input_ids,
    output_router_logits = false,
    ...options
  }: {
    input_ids: readonly (readonly number[])[];
    output_router_logits?: boolean;
  } & ForwardOptions): Promise<ForwardOutput> {
    check_batch(input_ids);
    const length = input_ids[0]?.length ?? 0;
    if (input_ids.some((ids) => ids.length !== length)) {
      throw new BimedixError("bad_option", {
        given: "sequences of different lengths",
        expected: "equal lengths, as logits are one block",
        todo: "call forward once for each",
      });
    }
    const { vocab_size, num_hidden_layers: layers, num_local_experts: experts, num_experts_per_tok } = this.config;
    const { logits, router_logits } = await this.engine.forward(input_ids, options);
    const data = new Float32Array(logits.length * length * vocab_size);
    for (const [i, one] of logits.entries()) data.set(one, i * length * vocab_size);
    const output: ForwardOutput = { logits: { data, dims: [logits.length, length, vocab_size] } };
    if (output_router_logits && router_logits) {
      output.router = router_logits.map((all) =>
        Array.from({ length: layers }, (_, layer) =>
          Array.from({ length }, (_, token) => {
            const at = (layer * length + token) * experts;
            return routing(all.subarray(at, at + experts), num_experts_per_tok);
          }),
        ),
      );
    }
    return output;
  }

  /** Frees the model and ends its thread. Later calls fail. */
  async dispose(): Promise<void> {
    await this.engine.dispose();
  }
}

function check_batch(input_ids: unknown): void {
  if (Array.isArray(input_ids) && input_ids.length > 0 && input_ids.every(Array.isArray)) return;
  throw new BimedixError("bad_option", {
    given: "input_ids that are not a batch",
    expected: "number[][], as the tokenizer returns",
    todo: "pass the tokenizer's output",
  });
}

/** The chosen experts, likeliest first, and the probabilities of all. */
function routing(logits: Float32Array, top_k: number): { experts: number[]; probabilities: number[] } {
  const max = Math.max(...logits);
  const weights = [...logits].map((logit) => Math.exp(logit - max));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const order = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]! || a - b);
  return { experts: order.slice(0, top_k), probabilities: weights.map((weight) => weight / total) };
}
