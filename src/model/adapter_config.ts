/**
 * adapter_config.json as PEFT 0.21 reads it (src/peft/tuners/lora/config.py and tuners_utils.py): what each key is to this reader, and which
 * modules it speaks of. docs/adapters.md holds the table below; a test compares the two.
 */
import { BimedixError } from "../errors.js";
import { Pattern, starts } from "./pattern.js";

export type Json = Record<string, unknown>;

export const bad_adapter = (
  given: string,
  expected: string,
  todo = "use an adapter that was made for this model",
): BimedixError => new BimedixError("bad_adapter", { given, expected, todo });

/**
 * What is done with a key: `applied`, or `without effect` on what is computed, or refused unless it has one of the `off` values (null, false,
 * and what is empty always are).
 */
export interface KeyRule {
  is: "applied" | "without effect" | "refused";
  why: string;
}

const applied = (why: string): KeyRule => ({ is: "applied", why });
const idle = (why: string): KeyRule => ({ is: "without effect", why });
const refused = (why: string): KeyRule => ({ is: "refused", why });

/** Every key that PEFT 0.21 writes. */
export const lora_keys: Readonly<Record<string, KeyRule>> = {
  alora_invocation_tokens: refused("Activated LoRA: the adapter begins at a token of the prompt"),
  alpha_pattern: applied("lora_alpha of the modules that a regular expression names"),
  arrow_config: refused("Arrow: several adapters, routed by token"),
  auto_mapping: idle("a class of Python"),
  base_model_name_or_path: idle("a name; which base is used is what the caller says"),
  bias: idle("these families have no biases; a bias in the file is refused"),
  corda_config: idle("how training began; see init_lora_weights"),
  ensure_weight_tying: refused("one adapter for embeddings and output of a tied model"),
  eva_config: idle("how training began, from the unchanged base"),
  exclude_modules: applied("modules that are left out: a list of ends, or a regular expression"),
  fan_in_fan_out: idle("PEFT sets it to false for these families' layers"),
  inference_mode: idle("whether it is trained"),
  init_lora_weights: applied(
    "how training began; pissa, corda, olora, loftq and lora_ga changed the base and are refused",
  ),
  kasa_config: refused("KaSA: singular values between A and B, and a truncated base"),
  layer_replication: refused("layers of the base that are used several times"),
  layers_pattern: applied("the name before the index of a layer, for layers_to_transform"),
  layers_to_transform: applied("the layers that are adapted"),
  loftq_config: idle("how training began; see init_lora_weights"),
  lora_alpha: applied("the scale is lora_alpha / r"),
  lora_bias: refused("a bias beside B"),
  lora_dropout: idle("acts while training alone"),
  lora_ga_config: idle("how training began; see init_lora_weights"),
  megatron_config: refused("layers of Megatron"),
  megatron_core: idle("the name of a package of Python"),
  modules_to_save: applied("modules that the file holds whole: they take the place of the base's"),
  monteclora_config: refused("MonteCLoRA: sampled perturbations"),
  peft_type: applied("LORA; every other type is refused by its name"),
  peft_version: applied("tells that fused experts are in PEFT's order"),
  qalora_group_size: idle("see use_qalora"),
  r: applied("the rank"),
  rank_pattern: applied("the rank of the modules that a regular expression names"),
  revision: idle("of the base on the hub"),
  runtime_config: idle("where PEFT computes"),
  target_modules: applied(
    "a list of ends of names, a regular expression, or all-linear; q_proj and v_proj where it is null",
  ),
  target_parameters: applied("ends of names of parameters: fused experts, the router"),
  task_type: applied("CAUSAL_LM or none; a classifier's is refused"),
  trainable_token_indices: refused("single rows of the table of embeddings"),
  use_bdlora: refused("BD-LoRA: block-diagonal A or B"),
  use_dora: refused("DoRA: the adapted weights are scaled row by row"),
  use_qalora: refused("QA-LoRA: pooled inputs"),
  use_rslora: applied("the scale is lora_alpha / sqrt(r)"),
  velora_config: idle("saves memory while training"),
};

/** Values of init_lora_weights with which training begins by changing the base, so that the adapter fits that base alone. */
const CHANGES_BASE = /^(pissa|corda|olora|loftq|lora_ga)/i;

/** PEFT's targets of these families where the configuration names none. */
const DEFAULT_TARGETS = ["q_proj", "v_proj"];

const is_off = (value: unknown): boolean =>
  value == null || value === false || (typeof value === "object" && Object.keys(value).length === 0);

/** A text as it is, and what is none in JSON. */
const shown = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** Which modules and parameters a configuration speaks of, with their ranks and scales. */
export class AdapterConfig {
  /** Keys that PEFT 0.21 does not know and ignores. */
  readonly unknown: string[];
  /** Patterns of ranks and scales that no module was found for yet. */
  readonly unused = new Set<string>();
  private readonly rank_pattern: [Pattern, unknown][];
  private readonly alpha_pattern: [Pattern, unknown][];
  private readonly modules: Pattern | readonly string[] | "all-linear";
  private readonly excluded: Pattern | readonly string[];
  private readonly saved: readonly Pattern[];
  private readonly layers: readonly number[] | null;
  private readonly layers_pattern: readonly Pattern[];

  /** @throws BimedixError bad_adapter for what PEFT computes and this does not */
  constructor(
    readonly json: Json,
    private readonly where: string,
  ) {
    const { peft_type = "LORA", init_lora_weights, task_type } = json;
    if (peft_type !== "LORA") throw bad_adapter(`${where} with peft_type ${shown(peft_type)}`, "LORA");
    for (const [key, { is, why }] of Object.entries(lora_keys))
      if (is === "refused" && !is_off(json[key]))
        throw bad_adapter(`${where} with ${key} (${why})`, "an adapter of A and B matrices and whole modules");
    if (CHANGES_BASE.test(String(init_lora_weights)))
      throw bad_adapter(
        `${where} with init_lora_weights ${init_lora_weights}, which is for a base that was changed`,
        "an adapter for the unchanged base",
        "convert it with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...)",
      );
    if (!is_off(task_type) && task_type !== "CAUSAL_LM" && task_type !== "FEATURE_EXTRACTION")
      throw bad_adapter(`${where} with task_type ${shown(task_type)}`, "CAUSAL_LM");
    this.unknown = Object.keys(json).filter((key) => !(key in lora_keys) && !is_off(json[key]));
    this.rank_pattern = this.patterns("rank_pattern");
    this.alpha_pattern = this.patterns("alpha_pattern");
    const { target_modules } = json;
    const all = typeof target_modules === "string" && target_modules.toLowerCase() === "all-linear";
    this.modules = all ? "all-linear" : (this.names("target_modules") ?? DEFAULT_TARGETS);
    this.excluded = this.names("exclude_modules") ?? [];
    this.saved = this.saved_modules.map((one) => new Pattern(one, `modules_to_save in ${where}`));
    const { layers_to_transform: layers } = json;
    this.layers = is_off(layers) ? null : ([layers].flat() as number[]);
    if (this.layers?.some((layer) => !Number.isInteger(layer))) this.bad("layers_to_transform", "layers by number");
    const pattern = is_off(json.layers_pattern) || json.layers_pattern === "" ? [] : [json.layers_pattern].flat();
    this.layers_pattern = pattern.map((one) => new Pattern(String(one), `layers_pattern in ${where}`));
    if (this.layers && typeof target_modules === "string")
      this.bad("target_modules", "a list of names beside layers_to_transform, as in PEFT");
  }

  /** Names, by whose ends PEFT finds the modules that the file holds whole. */
  get saved_modules(): readonly string[] {
    const names = this.list("modules_to_save");
    return names ?? [];
  }

  /** Whether PEFT adapts the module of this name. `linear` tells whether `all-linear` means it. */
  targets_module(name: string, linear: boolean): boolean {
    const ends = (list: readonly string[]) => list.some((one) => name === one || name.endsWith(`.${one}`));
    const { excluded, modules } = this;
    if (excluded instanceof Pattern ? excluded.full(name) : ends(excluded)) return false;
    if (this.saved.some((one) => starts(name).some((at) => ends_at_dot(one.from(name, at), name)))) return false;
    if (modules instanceof Pattern) return modules.full(name);
    if (modules === "all-linear") return linear;
    return modules.includes(name) || (ends(modules) && this.in_layers(name));
  }

  /** Whether PEFT adapts the parameter of this name, such as `model.layers.0.mlp.experts.down_proj`. */
  targets_parameter(name: string): boolean {
    return (this.list("target_parameters") ?? []).some((one) => name === one || name.endsWith(`.${one}`));
  }

  /** The names are what a module is called in PEFT's two layouts; the first that a pattern knows counts. */
  scale(names: readonly string[], rank: number): number {
    const of = (patterns: [Pattern, unknown][]): unknown => {
      for (const name of names) {
        const fitting = patterns.filter(([pattern]) => pattern.suffix(name));
        for (const [{ source }] of fitting) this.unused.delete(source);
        if (fitting.length > 0) return fitting[0]![1];
      }
      return undefined;
    };
    const stated = of(this.rank_pattern) ?? this.json.r ?? 8;
    const alpha = of(this.alpha_pattern) ?? this.json.lora_alpha ?? 8;
    if (typeof alpha !== "number" || !Number.isFinite(alpha) || alpha === 0)
      throw bad_adapter(`lora_alpha ${JSON.stringify(alpha)} in ${this.where}`, "a number other than 0");
    if (stated !== rank)
      throw bad_adapter(`rank ${rank} of ${names[0]}`, `${JSON.stringify(stated)}, as adapter_config.json says`);
    const scale = alpha / (this.json.use_rslora === true ? Math.sqrt(rank) : rank);
    if (!Number.isFinite(Math.fround(scale)))
      throw bad_adapter(`lora_alpha ${alpha} in ${this.where}`, "a scale that float32 can hold");
    return scale;
  }

  private in_layers(name: string): boolean {
    if (!this.layers) return true;
    const layer = this.layers_pattern.length === 0 ? /^.*?\.[^.]*\.(\d+)\./.exec(name)?.[1] : this.layer_of(name);
    return layer !== undefined && this.layers.includes(Number(layer));
  }

  private layer_of(name: string): string | undefined {
    for (const pattern of this.layers_pattern)
      for (const start of starts(name))
        for (const end of [...pattern.from(name, start)].sort((a, b) => b - a)) {
          const index = /^\.(\d+)\./.exec(name.slice(end))?.[1];
          if (index !== undefined) return index;
        }
    return undefined;
  }

  private patterns(key: "rank_pattern" | "alpha_pattern"): [Pattern, unknown][] {
    const given = this.json[key] ?? {};
    if (typeof given !== "object" || Array.isArray(given)) this.bad(key, "numbers by pattern");
    return Object.entries(given as Json).map(([source, value]) => {
      this.unused.add(source);
      return [new Pattern(source, `${key} in ${this.where}`), value];
    });
  }

  private names(key: "target_modules" | "exclude_modules"): Pattern | readonly string[] | null {
    const given = this.json[key];
    return typeof given === "string" ? new Pattern(given, `${key} in ${this.where}`) : this.list(key);
  }

  private list(key: string): readonly string[] | null {
    const given = this.json[key];
    if (given == null) return null;
    if (!Array.isArray(given) || !given.every((one) => typeof one === "string")) this.bad(key, "a list of names");
    return given as string[];
  }

  private bad(key: string, expected: string): never {
    throw bad_adapter(`${key} ${JSON.stringify(this.json[key])} in ${this.where}`, expected);
  }
}

const ends_at_dot = (ends: ReadonlySet<number>, name: string) =>
  [...ends].some((end) => end === name.length || name[end] === ".");
