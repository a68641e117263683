/** The verb convert. */
import { existsSync } from "node:fs";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { open_checkpoint } from "../model/checkpoint.js";
import { convert, model_file, parse_dtype } from "../model/convert.js";
import { resolve_model } from "../model/hub.js";
import { may_replace, progress_bar } from "./common.js";
import { stoppable } from "./ending.js";

export async function convert_model(
  model: string,
  options: { dtype: string; output?: string; force?: boolean },
): Promise<void> {
  const dtype = parse_dtype(options.dtype);
  const dir = await resolve_model(model, { on_progress: progress_bar("downloading") });
  const checkpoint = await open_checkpoint(dir);
  const target = join(options.output ?? dir, "onnx", model_file(dtype));
  if (existsSync(target)) await may_replace(`${target} exists`, options.force);
  const file = await stoppable((signal) =>
    convert(checkpoint, {
      dtype,
      on_progress: progress_bar("converting"),
      signal,
      ...(options.output === undefined ? {} : { output: options.output }),
    }),
  );
  const { size } = await stat(`${file}_data`);
  process.stdout.write(
    `${file} and its weights, ${(size / 1e6).toFixed(1)} MB\n${for_others(checkpoint.config.model_type, options.output !== undefined)}\n`,
  );
}

/** What Transformers.js, whose layout this is, can do with it: it has Llama and Mistral, and up to version 4 no Mixtral. */
function for_others(model_type: string, own_folder: boolean): string {
  if (model_type === "mixtral")
    return "This project runs it. Transformers.js has no Mixtral: it reads the tokenizer and the template, and cannot load the model.";
  return own_folder
    ? "This project and Transformers.js run it from its folder."
    : "This project runs it, and Transformers.js with use_external_data_format: true; with --output it gets a folder that needs no option.";
}
