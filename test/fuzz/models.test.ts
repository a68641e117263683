/** Damaged models: safetensors files and their index, adapters, and what a conversion wrote. */
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { read_config } from "../../src/model/config.js";
import { read_adapter } from "../../src/model/read_adapter.js";
import { read_floats, read_safetensors_header } from "../../src/model/safetensors.js";
import { read_converted } from "../../src/model/store.js";
import { root, twins } from "../fixtures.js";
import { Folder } from "./folder.js";
import { fuzz, type Target } from "./harness.js";
import { type Mutated, mutate_bytes, mutate_json, pick, type Random } from "./mutate.js";

/** A safetensors file with its header damaged as JSON or as bytes, or any byte of it. */
function damaged(bytes: Buffer, random: Random): Mutated<Uint8Array> {
  const length = Number(bytes.readBigUInt64LE());
  if (random() < 0.5) return mutate_bytes(bytes, random, { to: random() < 0.9 ? 8 + length : bytes.length });
  const { value, detail } = mutate_json(JSON.parse(bytes.toString("utf8", 8, 8 + length)), random);
  const text = Buffer.from(JSON.stringify(value) ?? "null");
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  return { value: Buffer.concat([size, text, bytes.subarray(8 + length)]), detail };
}

async function values_of(file: string): Promise<string> {
  const handle = await open(file);
  try {
    const all: string[] = [];
    for (const [name, tensor] of await read_safetensors_header(file)) {
      const count = tensor.shape.reduce((product, dim) => product * dim, 1);
      all.push(name, String(tensor.shape), String(await read_floats(handle, tensor, 0, count)));
    }
    return all.join();
  } finally {
    await handle.close();
  }
}

const UNCHECKED = "the format has no checksum: names and shapes are held against config.json, values are what they are";

const targets: Target[] = [
  {
    name: "safetensors",
    harmless: [[/^other values$/, UNCHECKED]],
    make: async () => {
      const folder = await Folder.make();
      const bytes = await readFile(join(twins, "llama-tied-bf16/model.safetensors"));
      const whole = await values_of(folder.write("model.safetensors", bytes));
      return (random) => {
        const { value, detail } = damaged(bytes, random);
        const file = folder.write("model.safetensors", value);
        return { detail, work: async () => ((await values_of(file)) === whole ? "same" : "other values") };
      };
    },
  },
  {
    name: "a model's files",
    make: async () => {
      const names = ["config.json", "model.safetensors"];
      const folder = await Folder.make(join(twins, "llama-tied-bf16"), names);
      const bytes = await readFile(folder.file("model.safetensors"));
      const table = async () => [...(await open_checkpoint(folder.path)).tensors.keys()].sort().join();
      const whole = await table();
      return (random) => {
        const { value, detail } = damaged(bytes, random);
        folder.write("model.safetensors", value);
        return { detail, work: async () => ((await table()) === whole ? "same" : "other tensors") };
      };
    },
  },
  {
    name: "model.safetensors.index.json",
    make: async () => {
      const from = join(twins, "mixtral-8-experts-sharded");
      const index = JSON.parse(await readFile(join(from, "model.safetensors.index.json"), "utf8"));
      const shards = [...new Set(Object.values(index.weight_map as Record<string, string>))];
      const folder = await Folder.make(from, ["config.json", "model.safetensors.index.json", ...shards]);
      const table = async () => [...(await open_checkpoint(folder.path)).tensors.keys()].sort().join();
      const whole = await table();
      return (random) => {
        const bytes = Buffer.from(JSON.stringify(index));
        const { value, detail } = random() < 0.7 ? mutate_json(index, random) : mutate_bytes(bytes, random);
        const text = value instanceof Uint8Array ? value : (JSON.stringify(value) ?? "");
        folder.write("model.safetensors.index.json", text);
        return { detail, work: async () => ((await table()) === whole ? "same" : "other tensors") };
      };
    },
  },
  {
    name: "adapters",
    harmless: [[/^other matrices$/, `${UNCHECKED}; rank, alpha and targets are those that the file names`]],
    make: async () => {
      const config = await read_config(join(root, "test/fixtures/train/base"));
      const folder = await Folder.make(join(root, "test/fixtures/train/peft5"), [
        "adapter_config.json",
        "adapter_model.safetensors",
      ]);
      const settings = JSON.parse(await readFile(folder.file("adapter_config.json"), "utf8"));
      const bytes = await readFile(folder.file("adapter_model.safetensors"));
      const read = async () => {
        const { pairs } = await read_adapter(folder.path, config);
        for (const [name, { scale, a, b }] of pairs)
          if (![scale, ...a, ...b].every(Number.isFinite)) throw new Error(`${name} has values that are no numbers`);
        return JSON.stringify([...pairs]);
      };
      const whole = await read();
      return (random) => {
        const of_settings = random() < 0.5;
        const { value, detail } = of_settings ? mutate_json(settings, random) : damaged(bytes, random);
        folder.write("adapter_config.json", of_settings ? (JSON.stringify(value) ?? "") : settings);
        folder.write("adapter_model.safetensors", of_settings ? bytes : value);
        return { detail, work: async () => ((await read()) === whole ? "same" : "other matrices") };
      };
    },
  },
  {
    name: "converted models",
    harmless: [
      [/^converted anew$/, "a file without a table of this program is passed over"],
      [/^other table$/, "what is opened is held against config.json and against the checksum of its data"],
    ],
    make: async () => {
      const name = "model_quantized.onnx";
      const folder = await Folder.make(join(root, "models/nano/onnx"), [name, `${name}_data`]);
      const bytes = await readFile(folder.file(name));
      const table = async () => {
        const converted = await read_converted(folder.file(name));
        return converted && JSON.stringify([...converted.tensors]);
      };
      const whole = await table();
      const from = bytes.indexOf("bimedix.");
      return (random) => {
        const { value, detail } = mutate_bytes(bytes, random, pick(random, [{}, { from }]));
        folder.write(name, value);
        return {
          detail,
          work: async () => {
            const found = await table();
            return found === null ? "converted anew" : found === whole ? "same" : "other table";
          },
        };
      };
    },
  },
];

for (const target of targets) fuzz(target);
