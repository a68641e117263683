/** `from_pretrained`, in the conventions of Transformers.js. */
import { basename, resolve } from "node:path";
import { BimedixError } from "../errors.js";
import { type ModelConfig, read_config } from "../model/config.js";
import type { Dtype } from "../model/convert.js";
import { read_generation_config } from "../model/generation_config.js";
import { type HubOptions, resolve_adapter, resolve_model, resolve_tokenizer } from "../model/hub.js";
import { fallback_template } from "../text/prompts.js";
import { load_tokenizer, type Tokenizer } from "../text/tokenizer.js";
import type { Engine, ForwardOptions, GeneratedToken } from "./engine.js";
import {
  type Call,
  check_batch,
  check_no_padding,
  type GenerationConfig,
  type ModelGenerateOptions,
  prepare_call,
  StopWatch,
} from "./generate.js";
import type { Isolation } from "./link.js";
import {
  type Aliases,
  check_hub_options,
  chosen_dtype,
  pretrained_options,
  tokenizer_options,
} from "./pretrained_options.js";
import type { LocalOptions } from "./runner.js";
import { WorkerEngine } from "./worker.js";

/** docs/options.md lists them, and what of Transformers.js and transformers is accepted besides. Any other is refused by name. */
export interface PretrainedOptions
  extends Omit<LocalOptions, "adapters" | "adapter">,
    Omit<HubOptions, "on_progress">,
    Aliases {
  /**
   * A LoRA adapter in PEFT's form, directory or hub id, which every call uses; or several by name, of which each call chooses one
   * (`adapter: "name"`), the base model where it chooses none.
   */
  adapter?: string | Readonly<Record<string, string>>;
  /** fp32, q8, q4 or bnb4; auto is q8. Default q8. */
  dtype?: Dtype | "auto" | { model: Dtype };
  /** A thread of this process (default), or a process that may crash without it. */
  isolation?: Isolation;
  /** Called while the model is downloaded (`file` is set) and converted (`waiting` names another process that does it). */
  on_progress?: (progress: { file?: string; done: number; total: number; waiting?: string }) => void;
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
  static async from_pretrained(id_or_dir: string, options: HubOptions & Aliases = {}): Promise<Tokenizer> {
    const dir = await resolve_tokenizer(id_or_dir, check_hub_options(id_or_dir, options, tokenizer_options));
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
    readonly generation_config: GenerationConfig,
    readonly engine: Engine,
  ) {}

  /** Loads a directory or hub id in a thread of its own. @throws BimedixError */
  static async from_pretrained(id_or_dir: string, options: PretrainedOptions = {}): Promise<AutoModelForCausalLM> {
    const {
      revision,
      offline,
      signal,
      adapter: given,
      ...rest
    } = check_hub_options(id_or_dir, options, pretrained_options);
    const {
      dtype: _,
      torch_dtype: __,
      quantized: ___,
      ...local
    } = rest as Omit<PretrainedOptions, "adapter"> & Record<string, unknown>;
    const dtype = chosen_dtype(rest);
    const adapter = (given ?? {}) as NonNullable<PretrainedOptions["adapter"]>;
    const hub: HubOptions = {
      ...(revision === undefined ? {} : { revision }),
      ...(offline === undefined ? {} : { offline }),
      ...(signal === undefined ? {} : { signal }),
      ...(rest.on_progress ? { on_progress: rest.on_progress } : {}),
    };
    const dir = await resolve_model(id_or_dir, hub);
    const config = await read_config(dir);
    const generation_config = await read_generation_config(dir, config);
    const named: [string, string][] = [];
    for (const [name, id] of Object.entries(typeof adapter === "string" ? { [DEFAULT]: adapter } : adapter))
      named.push([name, await resolve_adapter(id, hub)]);
    // Not by assignment, which __proto__ would swallow.
    const adapters = Object.fromEntries(named);
    const chosen = typeof adapter === "string" ? { adapter: DEFAULT } : {};
    const engine = await WorkerEngine.create(dir, { dtype, ...local, adapters, ...chosen }, signal);
    return new AutoModelForCausalLM(dir, config, generation_config, engine);
  }

  /**
   * Prompts with their continuations, `[batch, length]`, at least one. What is not given comes from the model's generation_config.json.
   */
  async generate(options: ModelGenerateOptions): Promise<[number[], ...number[][]]> {
    const call = prepare_call(options, this.generation_config);
    const outputs = call.rows.map((ids) => [...ids]);
    for await (const { sequence, token_id } of this.run(call)) outputs[sequence]!.push(token_id);
    return outputs as [number[], ...number[][]];
  }

  /** The tokens of `generate` as they come. Leaving the loop ends the work. */
  async *stream(options: ModelGenerateOptions): AsyncGenerator<GeneratedToken> {
    yield* this.run(prepare_call(options, this.generation_config));
  }

  private async *run({ prompts, options, stop, streamer, max_time }: Call): AsyncGenerator<GeneratedToken> {
    const end = performance.now() + 1000 * max_time;
    const tokenizer = stop.length === 0 ? null : await (this.tokenizer ??= load_tokenizer(this.dir));
    const watches = prompts.map((prompt) => tokenizer && new StopWatch(tokenizer, prompt, stop));
    const running = new Set(prompts.keys());
    const { put, tell } =
      typeof streamer === "function" ? { put: undefined, tell: streamer } : { put: streamer, tell: undefined };
    try {
      put?.put([[...prompts[0]!]]);
      for await (const token of this.engine.generate(prompts, options)) {
        if (!running.has(token.sequence)) continue;
        put?.put([[token.token_id]]);
        tell?.(token);
        yield token;
        if (watches[token.sequence]?.push(token.token_id)) running.delete(token.sequence);
        if (running.size === 0 || performance.now() >= end) break;
      }
    } catch (error) {
      put?.abort?.(error);
      throw error;
    }
    put?.end();
  }

  /** Logits at every position, and with `output_router_logits` what the router chose. */
  async forward({
    input_ids,
    attention_mask,
    output_router_logits = false,
    ...options
  }: {
    input_ids: readonly (readonly number[])[];
    /** Ones alone, as a block without padding has. */
    attention_mask?: ModelGenerateOptions["attention_mask"];
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
    check_no_padding(input_ids, attention_mask);
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
  dispose(): Promise<void> {
    return this.engine.dispose();
  }
}

/** The chosen experts, likeliest first, and the probabilities of all. */
function routing(logits: Float32Array, top_k: number): { experts: number[]; probabilities: number[] } {
  const max = Math.max(...logits);
  const weights = [...logits].map((logit) => Math.exp(logit - max));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const order = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]! || a - b);
  return { experts: order.slice(0, top_k), probabilities: weights.map((weight) => weight / total) };
}
