/** Damaged configurations: config.json, generation_config.json, and recipes. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "yaml";
import { check_generation_options } from "../../src/engine/generation_options.js";
import { parse_config, read_config } from "../../src/model/config.js";
import { read_generation_config } from "../../src/model/generation_config.js";
import { attention_factor, inverse_frequencies } from "../../src/model/rope.js";
import { parse_recipe } from "../../src/train/recipe.js";
import { root } from "../fixtures.js";
import { Folder } from "./folder.js";
import { fuzz, type Target } from "./harness.js";
import { mutate_bytes, mutate_json, pick } from "./mutate.js";

type Json = Record<string, unknown>;
const read = async (file: string): Promise<Json> => JSON.parse(await readFile(join(root, file), "utf8"));

/** Names of the fields in which two objects differ. */
const differing = (one: object, other: object): string =>
  Object.keys({ ...one, ...other })
    .filter((key) => JSON.stringify((one as Json)[key]) !== JSON.stringify((other as Json)[key]))
    .join(", ");

const outcome = (fields: string): string => (fields === "" ? "same" : `other: ${fields}`);

const ROPES = [
  null,
  { rope_type: "linear", factor: 2 },
  { rope_type: "dynamic", factor: 2 },
  {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  {
    rope_type: "yarn",
    factor: 4,
    original_max_position_embeddings: 32768,
    beta_fast: 32,
    beta_slow: 1,
    mscale: 1,
    mscale_all_dim: 1,
  },
];

const OVERRIDES = [
  "__proto__.x=1", "a.b.c=1", "constructor.prototype.x=1", "datasets.0.path=x", "datasets.9.path=x", "learning_rate=.inf",
  "learning_rate=.nan", "max_steps=1e400", "=", "x", "seed=!!binary x", "adapter.r=&a 1", "seed=*a", "datasets=[1,2]",
  "threads=0x10", "seed=0o7", "seed=1_000", "adapter.targets.0=[q]", `a=${"[".repeat(3000)}`, "seed: 1", "adapter=~",
]; // biome-ignore format: a list

const targets: Target[] = [
  {
    name: "config.json",
    harmless: [
      [/^other: /, "another shape is another model: its tensors are held against it before anything is computed"],
    ],
    make: async () => {
      const folder = await Folder.make();
      const base = {
        ...(await read("test/fixtures/twins/mixtral-2-experts/config.json")),
        sliding_window: null, bos_token_id: 1, eos_token_id: [2], hidden_act: "silu", attention_bias: false,
        tie_word_embeddings: false, max_position_embeddings: 128, rms_norm_eps: 1e-5, rope_theta: 1e4,
      }; // biome-ignore format: a list
      const all = ROPES.map((rope_scaling) => ({ ...base, rope_scaling }));
      const whole = all.map((json) => parse_config(json, "config.json"));
      return (random) => {
        const kind = Math.floor(random() * all.length);
        const bytes = Buffer.from(JSON.stringify(all[kind]));
        const { value, detail } = random() < 0.85 ? mutate_json(all[kind], random) : mutate_bytes(bytes, random);
        folder.write("config.json", value instanceof Uint8Array ? value : (JSON.stringify(value) ?? ""));
        return {
          detail,
          work: async () => {
            const config = await read_config(folder.path);
            const angles = [...inverse_frequencies(config), attention_factor(config.rope)];
            if (!angles.every((one) => Number.isFinite(one) && one >= 0)) return "rotations that are no numbers";
            return outcome(differing(whole[kind]!, config));
          },
        };
      };
    },
  },
  {
    name: "generation_config.json",
    harmless: [[/^other: /, "values that generate takes; all others are told and left out, as transformers does"]],
    make: async () => {
      const config = await read_config(join(root, "models/nano"));
      const folder = await Folder.make();
      const json = {
        ...(await read("models/nano/generation_config.json")),
        temperature: 0.7, top_k: 50, top_p: 0.9, min_p: 0.1, repetition_penalty: 1.1, max_new_tokens: 100, do_sample: true,
        eos_token_id: [2], bad_words_ids: [[5, 6]], suppress_tokens: [7], begin_suppress_tokens: [8], stop_strings: ["x"],
        no_repeat_ngram_size: 3, min_new_tokens: 1, max_time: 5,
      }; // biome-ignore format: a list
      folder.write("generation_config.json", json);
      const whole = await read_generation_config(folder.path, config);
      return (random) => {
        const bytes = Buffer.from(JSON.stringify(json));
        const { value, detail } = random() < 0.85 ? mutate_json(json, random) : mutate_bytes(bytes, random);
        folder.write("generation_config.json", value instanceof Uint8Array ? value : (JSON.stringify(value) ?? ""));
        return {
          detail,
          work: async () => {
            const { eos_token_id, ...defaults } = await read_generation_config(folder.path, config);
            check_generation_options(defaults);
            if (!eos_token_id.every((id) => id >= 0 && id < config.vocab_size)) return "an id outside the vocabulary";
            return outcome(differing(whole, { ...defaults, eos_token_id }));
          },
        };
      };
    },
  },
  {
    name: "recipes",
    harmless: [[/^other: /, "values that the schema takes; the run says them again in its log"]],
    make: async () => {
      const text = await readFile(join(root, "recipes/bimedix-8x7b.yaml"), "utf8");
      const [json, whole] = [parse(text) as unknown, parse_recipe(text, "recipe")];
      return (random) => {
        const { value, detail } = random() < 0.5 ? mutate_json(json, random) : mutate_bytes(Buffer.from(text), random);
        const changed =
          value instanceof Uint8Array ? Buffer.from(value).toString("latin1") : (JSON.stringify(value) ?? "");
        const overrides = random() < 0.2 ? [pick(random, OVERRIDES)] : [];
        return {
          detail: `${detail} ${overrides}`,
          work: () => {
            const recipe = parse_recipe(changed, "recipe", overrides);
            if ("x" in {}) throw new Error("the prototype of every object was changed");
            return outcome(differing(whole, recipe));
          },
        };
      };
    },
  },
];

for (const target of targets) fuzz(target);
