/** The verb convert. */
import { stat } from "node:fs/promises";
import { open_checkpoint } from "../model/checkpoint.js";
import { convert, parse_dtype } from "../model/convert.js";
import { resolve_model } from "../model/hub.js";
import { progress_bar } from "./common.js";

export async function convert_model(model: string, options: { dtype: string; output?: string }): Promise<void> {
  const dir = await resolve_model(model, { on_progress: progress_bar("downloading") });
  const file = await convert(await open_checkpoint(dir), {
    dtype: parse_dtype(options.dtype),
    on_progress: progress_bar("converting"),
    ...(options.output === undefined ? {} : { output: options.output }),
  });
  const { size } = await stat(`${file}_data`);
  process.stdout.write(`${file} and its weights, ${(size / 1e6).toFixed(1)} MB\n`);
}
