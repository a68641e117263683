// Whether PEFT reads an adapter that was trained here. Run: BIMEDIX_PYTHON=python node tools/check_peft.mjs MODEL ADAPTER
// BIMEDIX_PYTHON may hold arguments, for an environment with another version of transformers.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { AutoModelForCausalLM } from "../dist/src/index.js";

const [model, adapter] = process.argv.slice(2);
const loaded = await AutoModelForCausalLM.from_pretrained(model, { dtype: "fp32", adapter });
const input_ids = Array.from({ length: 48 }, (_, i) => 5 + ((i * 37) % (loaded.config.vocab_size - 5)));
const { logits } = await loaded.forward({ input_ids: [input_ids] });
await loaded.dispose();
const [python, ...rest] = (process.env.BIMEDIX_PYTHON ?? "python3").split(" ");
const script = fileURLToPath(new URL("check_peft.py", import.meta.url));
const input = JSON.stringify({ model, adapter, input_ids, logits: [...logits.data] });
const { stdout, stderr, status } = spawnSync(python, [...rest, script], {
  input,
  encoding: "utf8",
  maxBuffer: 2 ** 30,
});
console.log(status === 0 ? stdout.trim().split("\n").at(-1) : stderr);
process.exitCode = status ?? 1;
