import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * The directory of `models/nano`, the small demonstration inside this package: a model to begin with wherever the package lies. It knows no
 * medicine. (Not `new URL(path, import.meta.url)`, which bundlers take for a file of theirs.)
 */
export const EMBEDDED_MODEL: string = join(dirname(fileURLToPath(import.meta.url)), "../../models/nano");
