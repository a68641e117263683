/** Names of tasks and models as names of files. */
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
