/** Training, as an application or a script uses it: `import { run_training } from "bimedix/train"`. */
/// <reference types="node" preserve="true" />
export { type LogEntry, read_log } from "./log.js";
export { parse_recipe, type Recipe, read_recipe, recipe_keys } from "./recipe.js";
export { run_training, type TrainEvent, type TrainOptions, type TrainResult } from "./run.js";
