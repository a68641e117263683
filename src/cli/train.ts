/** The verb train. */
import { join, relative, resolve } from "node:path";
import { EMBEDDED_MODEL } from "../embedded.js";
import { BimedixError } from "../errors.js";
import { launch, write_axolotl } from "../train/axolotl.js";
import { checkpoints } from "../train/checkpoint.js";
import { read_log } from "../train/log.js";
import { type Recipe, read_recipe, recipe_keys } from "../train/recipe.js";
import { run_training } from "../train/run.js";
import { print_json } from "./common.js";
import { stoppable } from "./ending.js";
import { called } from "./terminal.js";
import { narrator, tell_data } from "./train_progress.js";

export interface TrainCommand {
  resume?: boolean;
  keys?: boolean;
  engine: string;
  dryRun?: boolean;
  json?: boolean;
}

export async function train([recipe_file, ...overrides]: readonly string[], options: TrainCommand): Promise<void> {
  if (options.keys) {
    process.stdout.write(recipe_keys());
    return;
  }
  if (recipe_file === undefined || recipe_file.includes("="))
    throw new BimedixError("bad_option", {
      given: "no recipe",
      expected: "bimedix train RECIPE.yaml [key=value ...]",
      todo: "name a recipe; --keys lists what stands in one",
    });
  check_together(options, overrides);
  const recipe = await read_recipe(recipe_file, overrides);
  if (options.engine === "axolotl") {
    const command = await write_axolotl(recipe, tell_data);
    process.stdout.write(`${command.join(" ")}\n`);
    if (!options.dryRun) await launch(command);
    return;
  }
  try {
    await stoppable(
      (signal) => run(recipe, options, signal),
      () => process.stderr.write("\nStopping, with a checkpoint of what was learnt. Once more stops at once.\n"),
    );
  } catch (error) {
    if (error instanceof BimedixError && error.code === "aborted") {
      const saved = (await checkpoints(recipe.output_dir)).length > 0;
      process.stderr.write(
        saved ? "Stopped. The same command with --resume goes on.\n" : "Stopped before anything was learnt.\n",
      );
    }
    throw error;
  }
}

function check_together({ engine, resume, dryRun }: TrainCommand, overrides: readonly string[]): void {
  const remote = engine === "axolotl";
  const misplaced = remote ? resume && "--resume" : dryRun && "--dry-run";
  if (misplaced)
    throw new BimedixError("bad_option", {
      given: `${misplaced} with --engine ${engine}`,
      expected: remote ? "Axolotl's own resume_from_checkpoint" : "--engine axolotl, which it belongs to",
      todo: `leave ${misplaced} out`,
    });
  const folder = resume ? overrides.find((one) => !one.includes("=")) : undefined;
  if (folder !== undefined)
    throw new BimedixError("bad_option", {
      given: `--resume with ${folder}`,
      expected: "--resume alone, which goes on from the newest checkpoint in the recipe's output_dir",
      todo: `to go on with another run, add output_dir=${folder}`,
    });
}

async function run(recipe: Recipe, { resume, json }: TrainCommand, signal: AbortSignal): Promise<void> {
  const result = await run_training(recipe, { signal, on_event: narrator(), ...(resume ? { resume: true } : {}) });
  if (json) print_json(result);
  else process.stdout.write(`${result.output_dir}\n`);
  process.stderr.write(`curves: ${result.plot}\n${await learnt(result.output_dir)}${what_next(recipe)}`);
}

/** The loss on every held-out set, before and after. */
async function learnt(output_dir: string): Promise<string> {
  const measured = (await read_log(join(output_dir, "log.jsonl"))).filter(({ eval_loss }) => eval_loss !== undefined);
  const [first, last] = [measured[0], measured.at(-1)];
  if (!first || !last || first === last) return "";
  const sets = Object.keys(last).filter((key) => /^eval_.*_loss$/.test(key)) as `eval_${string}_loss`[];
  const lines = sets.map((key) => `  ${key.slice(5, -5)}: ${first[key]?.toFixed(2)} -> ${last[key]?.toFixed(2)}\n`);
  return `what is held out, in nats a token (less is better), from step ${first.step} to ${last.step}:\n${lines.join("")}`;
}

function what_next({ base_model, output_dir, adapter }: Recipe): string {
  const shown = (path: string) => {
    const near = relative("", path);
    const one = near.startsWith("..") ? path : near;
    return /^[\w./\\:@+-]+$/.test(one) ? one : JSON.stringify(one);
  };
  const output = shown(output_dir);
  const model = resolve(base_model) === resolve(EMBEDDED_MODEL) ? "" : ` --model ${shown(base_model)}`;
  const commands =
    adapter === "none"
      ? [`chat --model ${output}`]
      : [`chat${model} --adapter ${output}`, `merge ${shown(base_model)} ${output} --output my-model`];
  return `next:\n${commands.map((command) => `  ${called(command)}\n`).join("")}`;
}
