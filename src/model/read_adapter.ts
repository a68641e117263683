/**
 * Reads a LoRA adapter as PEFT 0.21 does: adapter_config.json and adapter_model.safetensors.
 *
 * Two layouts exist for a mixture of experts. The classic one names every expert (`block_sparse_moe.experts.3.w1`); transformers 5
 * fused the experts, and PEFT's keys with them (`mlp.experts.base_layer` is gate_up_proj, `mlp.experts` is down_proj). A fused lora_B is
 * `[out, r * experts]` with the rank outside in PEFT and inside in other tools, and its shape does not tell which: so it is read only
 * where PEFT says that it wrote it. Source: https://github.com/huggingface/peft/blob/v0.21.0/src/peft/tuners/lora/layer.py (ParamWrapper)
 *
 * A tensor of the file that is no half of a pair is a whole module: it takes the place of the base's (modules_to_save, and the tables that PEFT
 * adds where they were resized or adapted).
 */
import { access, open } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, read_json } from "../files.js";
import { warn } from "../warnings.js";
import { type Adapter, adaptable_tensors, type LoraPair } from "./adapter.js";
import { AdapterConfig, bad_adapter } from "./adapter_config.js";
import type { ModelConfig } from "./config.js";
import { foreign_adapter } from "./formats.js";
import { read_floats, read_safetensors_header, type TensorInfo } from "./safetensors.js";
import { misnamed, over, whole, whole_tensors } from "./whole_modules.js";

/** @throws BimedixError file_not_found */
async function no_adapter(dir: string): Promise<never> {
  const foreign = await foreign_adapter(dir);
  throw new BimedixError("file_not_found", {
    given: `${join(dir, "adapter_config.json")} does not exist${foreign ? `; the folder holds ${foreign.what}` : ""}`,
    expected: "a LoRA adapter in PEFT's form",
    todo: foreign?.todo ?? "check the path or download the file again",
  });
}

/**
 * Reads an adapter for a model of this configuration.
 * @throws BimedixError file_not_found, bad_adapter for anything that would be dropped or put in the wrong place
 */
export async function read_adapter(dir: string, config: ModelConfig): Promise<Adapter> {
  const json = (await read_json(join(dir, "adapter_config.json"), "bad_adapter", true)) ?? (await no_adapter(dir));
  const settings = new AdapterConfig(json, dir);
  const file = join(dir, "adapter_model.safetensors");
  await refuse_pickle(dir, file);
  const contents = sort_keys(await read_safetensors_header(file), file);
  const shapes = adaptable_tensors(config);
  const reader = await Reader.open(file);
  try {
    const pairs = new Map<string, LoraPair>();
    const told = new Set<string>();
    for (const [module, halves] of contents.halves) {
      const { a, b } = await reader.halves(module, halves);
      for (const { name, targeted, ...pair } of placed(module, a, b, settings, config, file)) {
        const shape = shapes.get(name);
        if (shape?.length !== 2) throw bad_adapter(`${module} in ${file}${misnamed(module)}`, "a matrix of the model");
        const given = `[${pair.b.length / pair.rank}, ${pair.a.length / pair.rank}]`;
        if (pair.a.length !== pair.rank * shape[1]! || pair.b.length !== pair.rank * shape[0]!)
          throw bad_adapter(`${module} in ${file} for a matrix ${given}`, `one for [${shape.join(", ")}]`);
        if (targeted) pairs.set(name, pair);
        else told.add(module);
      }
    }
    if (told.size > 0)
      tell(`${file}: adapter_config.json does not target these modules, so they are not applied, as in PEFT`, [
        ...told,
      ]);
    const vectors = new Map<string, Float32Array>();
    for (const [name, tensor] of whole_tensors(contents.whole, settings, config, file)) {
      const shape = shapes.get(name)!;
      const values = await reader.floats(tensor);
      if (shape.length === 1) vectors.set(name, values);
      else pairs.set(name, over(whole(values, shape as [number, number]), pairs.get(name)));
    }
    if (pairs.size + vectors.size === 0) throw bad_adapter(`${file} without a tensor that is applied`, "an adapter");
    for (const [name, { scale, b }] of pairs)
      if (!b.every((value) => Number.isFinite(Math.fround(value * scale))))
        throw bad_adapter(`${file}: lora_B of ${name} times the scale ${scale}`, "values that float32 can hold");
    tell_missing(settings, config, pairs, file);
    return { pairs, vectors, config: json };
  } finally {
    await reader.close();
  }
}

function tell(what: string, names: readonly string[]): void {
  warn(`${what} (${names.length}): ${names.slice(0, 5).join(", ")}${names.length > 5 ? ", …" : ""}`);
}

async function refuse_pickle(dir: string, file: string): Promise<void> {
  const exists = (name: string) => access(name).then(() => true, () => false); // biome-ignore format: one thing
  if ((await exists(file)) || !(await exists(join(dir, "adapter_model.bin")))) return;
  throw bad_adapter(
    `${dir} with adapter_model.bin alone, Python's pickle`,
    "adapter_model.safetensors",
    "load it with PEFT and save it again with save_pretrained",
  );
}

interface Halves {
  a?: TensorInfo;
  b?: TensorInfo;
  /** Of a table of embeddings, whose halves are stored the other way round. */
  table?: boolean;
}

/** The keys of a file, by module: the halves of a pair, and what stands whole. */
function sort_keys(header: ReadonlyMap<string, TensorInfo>, file: string) {
  const halves = new Map<string, Halves>();
  const whole = new Map<string, TensorInfo>();
  for (const [key, tensor] of header) {
    const name = key.replace(/^base_model\.model\./, "");
    const half = /^(.+)\.lora_(embedding_)?(A|B)(?:\.default)?(\.weight)?$/.exec(name);
    // The table's halves are parameters and the others modules, which is why only these end in .weight.
    if (half && Boolean(half[2]) !== Boolean(half[4])) {
      if (tensor.shape.length !== 2) throw bad_adapter(`${key} in ${file}`, "a matrix");
      const of = halves.get(half[1]!) ?? {};
      halves.set(half[1]!, { ...of, [half[3] === "A" ? "a" : "b"]: tensor, table: half[2] !== undefined });
      continue;
    }
    if (/\.lora_|trainable_tokens_delta/.test(name))
      throw bad_adapter(`${key} in ${file}${extra(name)}`, "lora_A and lora_B matrices and whole modules");
    whole.set(name.replace(/\.(base_layer|modules_to_save(\.default)?)\.weight$/, ".weight"), tensor);
  }
  return { halves, whole };
}

function extra(name: string): string {
  if (name.includes("lora_magnitude_vector")) return ", which is DoRA's";
  if (name.includes("trainable_tokens_delta")) return ", which trainable_token_indices writes";
  if (/\.lora_B(\.\w+)?\.bias$/.test(name)) return ", which lora_bias writes";
  const adapter = /\.lora_(?:embedding_)?[AB]\.(\w+)/.exec(name)?.[1];
  return adapter && adapter !== "weight" ? `, with the name ${adapter} of an adapter, which PEFT leaves out` : "";
}

interface Matrix {
  rows: number;
  columns: number;
  data: Float32Array;
}

class Reader {
  private constructor(
    private readonly file: string,
    private readonly handle: Awaited<ReturnType<typeof open>>,
  ) {}

  static async open(file: string): Promise<Reader> {
    return new Reader(file, await open(file).catch((error) => Promise.reject(file_error(error, file, "an adapter"))));
  }

  floats(tensor: TensorInfo): Promise<Float32Array> {
    return read_floats(this.handle, tensor, 0, tensor.shape.reduce((product, dim) => product * dim, 1)); // biome-ignore format: one line
  }

  /** A and B so that the change is B A, of a table of embeddings too. */
  async halves(module: string, { a, b, table = false }: Halves): Promise<{ a: Matrix; b: Matrix }> {
    if (!a || !b) throw bad_adapter(`only one half of ${module} in ${this.file}`, "lora_A and lora_B");
    const [one, other] = table ? [b, a] : [a, b];
    return { a: await this.matrix(one, table), b: await this.matrix(other, table) };
  }

  close(): Promise<void> {
    return this.handle.close();
  }

  private async matrix(tensor: TensorInfo, transposed: boolean): Promise<Matrix> {
    const [rows, columns] = tensor.shape as [number, number];
    const data = await this.floats(tensor);
    if (!transposed) return { rows, columns, data };
    const turned = new Float32Array(data.length);
    for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) turned[j * rows + i] = data[i * columns + j]!;
    return { rows: columns, columns: rows, data: turned };
  }
}

type Placed = LoraPair & { name: string; targeted: boolean };

/** One module of a file as pairs of the tensors that it adapts: one, or in the fused layout one or two an expert. */
function placed(
  module: string,
  a: Matrix,
  b: Matrix,
  settings: AdapterConfig,
  config: ModelConfig,
  file: string,
): Placed[] {
  const { num_local_experts: experts, hidden_size, intermediate_size } = config;
  const fused = /^(.*\.layers\.\d+)\.mlp\.experts(?:\.base_layer)?$/.exec(module);
  if (!fused) {
    const name = experts > 0 ? module.replace(".mlp.gate", ".block_sparse_moe.gate") : module;
    const rank = a.rows;
    if (b.columns !== rank) throw bad_adapter(`ranks ${rank} and ${b.columns} of ${module} in ${file}`, "equal ranks");
    const scale = settings.scale(module_names(name), rank);
    const targeted = is_targeted(name, settings);
    return [{ name: `${name}.weight`, rank, scale, a: a.data, b: b.data, replaces: false, targeted }];
  }
  const rank = a.rows / experts;
  if (!Number.isInteger(rank) || b.columns !== a.rows)
    throw bad_adapter(
      `shapes [${a.rows}, ${a.columns}] and [${b.rows}, ${b.columns}] of ${module}`,
      `${experts} experts of one rank`,
    );
  if (!("peft_version" in settings.json))
    throw bad_adapter(
      `fused experts in ${file} that do not say that PEFT wrote them`,
      "PEFT's order of lora_B",
      "convert the adapter to the per-expert layout",
    );
  // Which of the two wrappers is the outer one depends on the order of an unordered set: the shapes tell.
  const down = a.columns === intermediate_size && b.rows === hidden_size;
  const parts = down ? ["w2"] : ["w1", "w3"];
  const rows = b.rows / parts.length;
  const scale = settings.scale([`${fused[1]}.mlp.experts.${down ? "down_proj" : "gate_up_proj"}`], rank);
  return Array.from({ length: experts }, (_, e) =>
    parts.map((part, half) => {
      const own = new Float32Array(rows * rank);
      // [out, rank, experts]
      for (let row = 0; row < rows; row++)
        for (let r = 0; r < rank; r++) own[row * rank + r] = b.data[((half * rows + row) * rank + r) * experts + e]!;
      const name = `${fused[1]}.block_sparse_moe.experts.${e}.${part}`;
      const matrix = a.data.slice(e * rank * a.columns, (e + 1) * rank * a.columns);
      const targeted = is_targeted(name, settings);
      return { name: `${name}.weight`, rank, scale, a: matrix, b: own, replaces: false, targeted };
    }),
  ).flat();
}

/** What PEFT calls a module, given its classic name: on transformers 4 that, on 5 the router's parameter and its module. */
function module_names(name: string): string[] {
  const router = name.endsWith(".block_sparse_moe.gate") ? name.replace(".block_sparse_moe.", ".mlp.") : null;
  return router ? [`${router}.weight`, router, name] : [name];
}

/**
 * Whether a configuration targets a module of this classic name, under any of the names that it has had: on transformers 5 PEFT asks for
 * an expert's matrix also as `mlp.experts.w1`, and for all experts' as one parameter.
 */
function is_targeted(name: string, settings: AdapterConfig): boolean {
  const linear = !/^(lm_head|model\.embed_tokens)$/.test(name);
  const expert = /^(.*)\.block_sparse_moe\.experts\.\d+\.(w\d)$/.exec(name);
  const modules = expert ? [name, `${expert[1]}.mlp.experts.${expert[2]}`] : module_names(name);
  const fused = expert && `${expert[1]}.mlp.experts.${expert[2] === "w2" ? "down_proj" : "gate_up_proj"}`;
  if (modules.some((one) => settings.targets_module(one, linear))) return true;
  return [...(fused ? [fused] : modules)].some((one) => settings.targets_parameter(one));
}

function tell_missing(
  settings: AdapterConfig,
  config: ModelConfig,
  pairs: ReadonlyMap<string, LoraPair>,
  file: string,
): void {
  const missing = [...adaptable_tensors(config)]
    .filter(([name, { length }]) => length === 2 && !pairs.has(name))
    .map(([name]) => name.replace(/\.weight$/, ""))
    .filter((name) => is_targeted(name, settings));
  if (missing.length > 0) tell(`${file}: adapter_config.json targets modules that are not in the file`, missing);
  if (settings.unused.size > 0)
    tell(`${file}: patterns of adapter_config.json that no module has, and that count for none`, [...settings.unused]);
  if (settings.unknown.length > 0)
    tell(`${file}: keys of adapter_config.json that PEFT 0.21 does not know, and ignores`, settings.unknown);
}
