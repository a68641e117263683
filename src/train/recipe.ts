/**
 * A recipe: everything that decides a training run, in one YAML file. The schema below is the only description of it: it checks
 * the file, fills in the defaults and prints the documentation (`bimedix train --keys`). Keys are those of Axolotl, where it has one.
 */
import { basename, dirname, resolve } from "node:path";
import { parseDocument } from "yaml";
import { z } from "zod";
import { BimedixError } from "../errors.js";
import { read_text } from "../files.js";
import { lora_targets } from "../model/adapter.js";
import { did_you_mean } from "../nearest.js";
import { schedules } from "./optimizer.js";

const count = (minimum = 1) => z.int().min(minimum);
const positive = z.number().positive();
const share = z.number().min(0).lt(1);

const source = z.strictObject({
  path: z.string().min(1).describe(".jsonl, .json, .csv, .tsv or .parquet, plain or .gz; relative to the recipe"),
  type: z
    .enum(["chat", "instruction", "prompt_completion", "mcqa"])
    .describe(
      "chat: {messages} or {conversations}; instruction: {instruction, output}; mcqa: {question, options, answer}; see docs/data.md",
    ),
});
const dataset = source.extend({ repeat: count().default(1).describe("how often an epoch holds it") });

const adapter = z.strictObject({
  r: count().max(65536).describe("rank"),
  lora_alpha: positive.max(1e30).describe("the adapter is scaled by lora_alpha / r"),
  lora_dropout: share.default(0).describe("of the adapters' inputs"),
  use_rslora: z.boolean().default(false).describe("scale by lora_alpha / sqrt(r) instead"),
  targets: z
    .array(z.enum(lora_targets))
    .min(1)
    .refine((targets) => new Set(targets).size === targets.length, "names a target twice")
    .default([...lora_targets])
    .describe("attention q k v o, each expert's (or the MLP's) w1 w2 w3, the router gate"),
});

const schema = z.strictObject({
  base_model: z.string().min(1).describe("directory (relative to the recipe where it begins with ./ or ../) or hub id"),
  output_dir: z
    .string()
    .min(1)
    .describe("where the adapter, checkpoints and logs go; relative to the working directory"),
  adapter: z.union([z.literal("none"), adapter]).describe("LoRA, or none to train every tensor of the model"),
  quantization: z
    .enum(["none", "int8", "nf4", "nf4_double"])
    .default("none")
    .describe(
      "of the frozen base: int8 with a scale a row, the fastest; NF4 in blocks of 64, nf4_double with the blocks' magnitudes in 8 bits",
    ),
  stream_weights: z
    .boolean()
    .default(false)
    .describe("read the base from the disk, layer by layer, instead of keeping it in memory"),
  datasets: z.array(dataset).min(1).describe("what is learnt"),
  eval_datasets: z.array(source).default([]).describe("what is measured: path and type as in datasets"),
  on_damaged_line: z
    .enum(["stop", "skip"])
    .default("stop")
    .describe("what a line that cannot be read does; skipped ones are counted"),
  train_on_inputs: z.boolean().default(false).describe("learn the users' words too, not only the answers"),
  sequence_len: count(2).describe("tokens of a row; longer examples are cut"),
  sample_packing: z.boolean().default(true).describe("put several examples into a row; they do not see one another"),
  micro_batch_size: count().default(1).describe("rows that are computed together"),
  gradient_accumulation_steps: count().default(1).describe("micro-batches of a step"),
  num_epochs: positive.max(1e6).optional().describe("passes over the data; this or max_steps"),
  max_steps: count().optional().describe("optimizer steps; this or num_epochs"),
  learning_rate: positive.describe("at its peak"),
  lr_scheduler: z.enum(schedules).default("cosine"),
  warmup_steps: count(0).optional().describe("this or warmup_ratio"),
  warmup_ratio: share.optional().describe("share of all steps"),
  weight_decay: z.number().min(0).default(0).describe("of matrices; norms are never decayed"),
  adam_beta1: share.default(0.9),
  adam_beta2: share.default(0.999),
  adam_epsilon: positive.default(1e-8),
  max_grad_norm: z.number().min(0).default(1).describe("gradients are scaled down to this norm; 0 never does"),
  router_aux_loss_coef: z.number().min(0).default(0.02).describe("of the load-balancing loss"),
  router_aux_loss_per_layer: z
    .boolean()
    .default(false)
    .describe("of each layer by itself; else of all layers together, as transformers does"),
  gradient_checkpointing: z
    .boolean()
    .default(true)
    .describe("compute a layer's products again in the backward pass instead of keeping them"),
  seed: count(0).default(0).describe("of the adapter's start, the order of the data and dropout"),
  logging_steps: count().default(10),
  eval_steps: count().optional().describe("default: at the beginning and the end"),
  save_steps: count().default(100).describe("checkpoints are also written at the end, and when the run is stopped"),
  save_total_limit: count().default(2).describe("older checkpoints are removed"),
  max_skipped_steps: count()
    .default(5)
    .describe("steps in a row with gradients that are not finite, after which the run stops"),
  threads: count()
    .max(1024)
    .optional()
    .describe("of one operator; default: the physical cores that the process may use"),
});

export type Recipe = z.infer<typeof schema>;
/** One file of data. */
export type SourceRecipe = z.infer<typeof source>;
export type AdapterRecipe = z.infer<typeof adapter>;

/**
 * Reads a recipe. `overrides` are `key=value` or `key.key=value`, the value in YAML; `~` takes the key out.
 * @throws BimedixError file_not_found, bad_recipe with every problem at once
 */
export async function read_recipe(file: string, overrides: readonly string[] = []): Promise<Recipe> {
  const text = await read_text(file, "a recipe in YAML");
  const recipe = parse_recipe(text, file, overrides);
  const here = (path: string) => resolve(dirname(file), path);
  const place = <T extends { path: string }>(one: T): T => ({ ...one, path: here(one.path) });
  return {
    ...recipe,
    base_model: /^\.{0,2}\//.test(recipe.base_model) ? here(recipe.base_model) : recipe.base_model,
    datasets: recipe.datasets.map(place),
    eval_datasets: recipe.eval_datasets.map(place),
  };
}

/** @param name of the file, for errors */
export function parse_recipe(text: string, name: string, overrides: readonly string[] = []): Recipe {
  const document = parseDocument(text);
  const problems = document.errors.map((error) => error.message.split("\n")[0]!.replace(/:$/, ""));
  const named = new Set(overrides.map((override) => override.split("=")[0]!));
  for (const override of overrides) {
    const at = override.indexOf("=");
    const value = at > 0 ? parseDocument(override.slice(at + 1)) : null;
    if (!value || value.errors.length > 0) problems.push(`${JSON.stringify(override)} is not key=value`);
    else if (problems.length === 0) {
      const path = override
        .slice(0, at)
        .split(".")
        .map((key) => (/^\d+$/.test(key) ? Number(key) : key));
      let set: unknown;
      try {
        set = value.toJS();
      } catch (error) {
        problems.push(`${JSON.stringify(override)}: ${(error as Error).message}`);
        continue;
      }
      try {
        if (set === null) document.deleteIn(path);
        else {
          document.setIn(path, set);
          // The other of two that exclude each other gives way to the one that was set by hand.
          for (const other of excluded(path[0]!)) if (!named.has(other)) document.deleteIn([other]);
        }
      } catch {
        problems.push(`${JSON.stringify(override)} sets a key inside a value that has none`);
      }
    }
  }
  let value: unknown = null;
  try {
    if (problems.length === 0) value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    // An alias without its anchor, or of thousands of copies.
    problems.push((error as Error).message);
  }
  const parsed = problems.length === 0 ? schema.safeParse(value) : null;
  if (parsed && !parsed.success) problems.push(...parsed.error.issues.flatMap(explain));
  if (typeof value === "object" && value !== null) problems.push(...impossible(value));
  if (parsed?.success && problems.length === 0) return parsed.data;
  throw new BimedixError("bad_recipe", {
    given: `${name} with ${problems.length === 1 ? "this problem" : `${problems.length} problems`}: ${problems.join(" · ")}`,
    expected: "the keys that bimedix train --keys lists",
    todo: overrides.length > 0 ? "correct the recipe, or the keys set after it" : "correct the recipe",
  });
}

/** The name under which the loss on a file of `eval_datasets` is logged. */
export const eval_name = (path: string): string => basename(path).replace(/\.[^.]*$/, "");

/** Two ways to say one thing, of which a recipe has one at most. */
const pairs: readonly (readonly [keyof Recipe, keyof Recipe])[] = [
  ["num_epochs", "max_steps"],
  ["warmup_steps", "warmup_ratio"],
];

const excluded = (key: string | number): string[] =>
  pairs.filter((pair) => pair.some((one) => one === key)).map(([a, b]) => (a === key ? b : a));

/** What no single key shows to be wrong, in a recipe that may have other faults. */
function impossible(recipe: { [key in keyof Recipe]?: unknown }): string[] {
  const problems: string[] = [];
  const measured = Array.isArray(recipe.eval_datasets) ? recipe.eval_datasets : [];
  const names = measured.map((one) => eval_name(String(one?.path)));
  if (recipe.num_epochs === undefined && recipe.max_steps === undefined)
    problems.push("neither num_epochs nor max_steps");
  for (const [a, b] of pairs)
    if (recipe[a] !== undefined && recipe[b] !== undefined) problems.push(`both ${a} and ${b}`);
  if (recipe.eval_steps !== undefined && measured.length === 0) problems.push("eval_steps without eval_datasets");
  for (const name of new Set(names.filter((name, i) => names.indexOf(name) < i)))
    problems.push(`several eval_datasets named ${name}, under which one loss is logged: rename a file`);
  if (recipe.adapter === "none") {
    if (recipe.quantization !== undefined && recipe.quantization !== "none")
      problems.push(`quantization ${recipe.quantization} with adapter none: quantised weights cannot be learnt`);
    if (recipe.stream_weights) problems.push("stream_weights with adapter none: learnt weights stay in memory");
  }
  return problems;
}

function explain(issue: z.core.$ZodIssue): string[] {
  const at = issue.path.join(".") || "the recipe";
  if (issue.code === "unrecognized_keys") {
    const inside = issue.path.length > 0 ? ` in ${at}` : "";
    const shape = issue.path[0] === "adapter" ? adapter.shape : issue.path.length > 0 ? dataset.shape : schema.shape;
    return issue.keys.map((key) => `unknown key ${key}${inside}${did_you_mean(key, Object.keys(shape))}`);
  }
  // Of a union only the branch that was meant says something: the object, unless a text was given.
  if (issue.code === "invalid_union") {
    const branch = issue.errors.find((errors) =>
      errors.some((error) => error.path.length > 0 || error.code === "unrecognized_keys"),
    );
    if (branch)
      return branch.flatMap((error) => explain({ ...error, path: [...issue.path, ...error.path] } as z.core.$ZodIssue));
    return [`${at}: expected none, or r, lora_alpha and so on`];
  }
  return [`${at}: ${issue.message.replace(/^Invalid input: /, "")}`];
}

/** Every key with its type, default and meaning, one a line. */
export function recipe_keys(): string {
  const lines: string[] = [];
  const list = (shape: Record<string, z.ZodType>, prefix: string) => {
    for (const [key, field] of Object.entries(shape)) {
      const json = z.toJSONSchema(field, { io: "input", unrepresentable: "any" }) as Json;
      const optional = field.safeParse(undefined).success;
      const fallback =
        json.default === undefined ? (optional ? "optional" : "required") : `default ${JSON.stringify(json.default)}`;
      lines.push(
        `${`${prefix}${key}`.padEnd(30)} ${type_of(json).padEnd(22)} ${fallback.padEnd(16)} ${json.description ?? ""}`.trimEnd(),
      );
      if (key === "adapter") list(adapter.shape, "  adapter.");
      if (key === "datasets") list(dataset.shape, "  datasets[].");
    }
  };
  list(schema.shape, "");
  return `${lines.join("\n")}\n`;
}

interface Json {
  type?: string;
  enum?: string[];
  const?: string;
  anyOf?: Json[];
  items?: Json;
  default?: unknown;
  description?: string;
}

function type_of(json: Json): string {
  if (json.anyOf) return json.anyOf.map(type_of).join(" | ");
  if (json.const) return json.const;
  if (json.enum) return json.enum.join(" | ");
  if (json.type === "array") return "list";
  return json.type ?? "";
}
