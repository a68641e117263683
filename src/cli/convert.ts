/** The verb convert. */
import { stat } from "node:fs/promises";
import { open_checkpoint } from "../model/checkpoint.js";
import { convert, parse_dtype } from "../model/convert.js";
import { resolve_model } from "../model/hub.js";
import { progress_bar } from "./common.js";

export async function convert_model(model: string, options: { dtype: string; output?: string }): Promise<void> {
  const dir = await resolve_model(model, { on_progress: progress_bar("downloading") });
  const checkpoint = await open_checkpoint(dir);
  const file = await convert(checkpoint, {
    dtype: parse_dtype(options.dtype),
    on_progress: progress_bar("converting"),
    ...(options.output === undefined ? {} : { output: options.output }),
  });
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
