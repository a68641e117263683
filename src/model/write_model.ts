/** A checkpoint written whole: made in a folder of its own inside the output, and moved in when nothing can go wrong any more. */
import { lstat, mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { file_error, part_in, read_json, write_atomically } from "../files.js";
import { copy_model_files } from "./model_files.js";
import { type TensorSource, write_shards } from "./safetensors.js";

export interface WriteModelOptions {
  config?: Record<string, unknown>;
  before_move?: () => void | Promise<void>;
  shard_bytes?: number | undefined;
}

/**
 * Writes a model's tensors into `output`, with the files of the one in `base` beside them. An earlier model there is replaced, its
 * converted weights too, as they would be read instead: on failure it is as it was. config.json goes first and comes last, so that a
 * folder that a killed process left is no model. The caller holds the lock of `output`.
 *
 * @param options.config keys of config.json that are other than the base's
 * @param options.before_move called when all is written; what it throws leaves `output` as it was
 * @param options.shard_bytes as in `write_shards`
 */
export async function write_model(
  output: string,
  base: string,
  tensors: Iterable<TensorSource>,
  { config = {}, before_move, shard_bytes }: WriteModelOptions = {},
): Promise<void> {
  const part = part_in(output);
  try {
    await mkdir(part);
    await copy_model_files(base, part);
    if (Object.keys(config).length > 0) {
      const json = { ...(await read_json(join(part, "config.json"), "bad_config")), ...config };
      await write_atomically(join(part, "config.json"), (handle) =>
        handle.writeFile(`${JSON.stringify(json, null, 2)}\n`),
      );
    }
    await write_shards(part, tensors, shard_bytes);
    await before_move?.();
    await rm(join(output, "config.json"), { force: true });
    await remove_weights(output);
    const names = await readdir(part);
    for (const name of [...names.filter((name) => name !== "config.json"), "config.json"]) {
      if ((await lstat(join(output, name)).catch(() => null))?.isDirectory())
        await rm(join(output, name), { recursive: true });
      await rename(join(part, name), join(output, name));
    }
    await rm(part, { recursive: true });
  } catch (error) {
    await rm(part, { recursive: true, force: true }).catch(() => {});
    throw file_error(error, output, "a place for the model");
  }
}

async function remove_weights(dir: string): Promise<void> {
  const weights = /^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/;
  for (const name of await readdir(dir)) if (weights.test(name)) await rm(join(dir, name));
  const converted = join(dir, "onnx");
  // What is behind a link is another's.
  if ((await lstat(converted).catch(() => null))?.isSymbolicLink()) return rm(converted);
  for (const name of await readdir(converted).catch(() => []))
    if (/^model.*\.onnx(_data)?$/.test(name)) await rm(join(converted, name));
}
