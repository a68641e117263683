/** The verb merge. */
import { readdir } from "node:fs/promises";
import { resolve_adapter, resolve_model } from "../model/hub.js";
import { merge_adapter } from "../model/merge.js";
import { may_replace, progress_bar } from "./common.js";
import { stoppable } from "./ending.js";

export async function merge(
  model: string,
  adapter: string,
  { output, force, allowUnchanged = false }: { output: string; force?: boolean; allowUnchanged?: boolean },
): Promise<void> {
  // What a merge that was killed left there is its own.
  const there = (await readdir(output).catch(() => [])).filter((name) => !name.startsWith(".bimedix"));
  if (there.length > 0) await may_replace(`${output} exists and is not empty`, force);
  const dir = await resolve_model(model, { on_progress: progress_bar("downloading") });
  const adapter_dir = await resolve_adapter(adapter, { on_progress: progress_bar("downloading") });
  const { changed, unchanged } = await stoppable((signal) =>
    merge_adapter(dir, adapter_dir, output, {
      allow_unchanged: allowUnchanged,
      on_progress: progress_bar("merging"),
      signal,
    }),
  );
  process.stdout.write(`${output}: ${changed} tensors changed\n`);
  if (unchanged.length > 0)
    process.stderr.write(
      `${unchanged.length} that the adapter names did not change, such as ${unchanged[0]}: no token reached them in training.\n`,
    );
}
