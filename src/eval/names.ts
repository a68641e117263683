/** Names of tasks and models as names of files, and the files of a folder. */
import { readdir, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { sha256 } from "./python.js";

/** Bytes that a name may have, so that it has room for what stands around it: file systems take 255. */
const MOST = 200;

/** A name that file systems take: the name itself or, where it is too long for them, its beginning and what tells it from others. */
export function file_stem(name: string): string {
  if (Buffer.byteLength(name) <= MOST) return name;
  const hash = sha256(name).slice(0, 8);
  let [beginning, bytes] = ["", hash.length + 1];
  for (const letter of name) {
    bytes += Buffer.byteLength(letter);
    if (bytes > MOST) break;
    beginning += letter;
  }
  return `${beginning}_${hash}`;
}

/** The folder of a model's results: the harness's `sanitize_model_name`, but for names that are no names of folders. */
export const folder_name = (name: string): string =>
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a server may name its model as it likes
  file_stem(name.replace(/["<>:/|\\?*[\]]+/g, "__").replace(/^\.*$|\u0000/g, "_"));

/** The files at or below a path in the order of their names; folders behind links are looked into, each once. */
export async function files_below(path: string, seen = new Set<string>()): Promise<string[]> {
  const kind = await stat(path);
  if (!kind.isDirectory()) return [path];
  const folder = await realpath(path);
  if (seen.has(folder)) return [];
  seen.add(folder);
  const found: string[] = [];
  for (const name of (await readdir(path)).sort()) {
    // A link to nothing is as a file that is not there: whoever asks for it hears of it.
    const below = await files_below(join(path, name), seen).catch((error) =>
      error.code === "ENOENT" ? [join(path, name)] : Promise.reject(error),
    );
    found.push(...below);
  }
  return found;
}
