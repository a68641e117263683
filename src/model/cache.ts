/** The program's own folder of what it makes once: converted weights, and which large files it has read through and found whole. */
import { createHash } from "node:crypto";
import { access, mkdir, realpath, stat, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { home_folder } from "../files.js";

/** `BIMEDIX_CACHE`, or `bimedix` in the user's cache folder. A variable that is empty counts as not set. */
export function cache_folder(): string {
  const { BIMEDIX_CACHE, XDG_CACHE_HOME } = process.env;
  return BIMEDIX_CACHE || join(XDG_CACHE_HOME || join(home_folder(), ".cache"), "bimedix");
}

/** Changes when the converter writes something else, so that an older cache is not read. */
const CONVERTER = "6";

/**
 * A folder for the converted weights of a model, whose name changes when a source file does. Its ctime is part of that: images of
 * containers give all files one mtime, and two fine-tunes of a model have one size.
 */
export async function converted_folder(dir: string, files: ReadonlySet<string>): Promise<string> {
  const hash = createHash("sha256").update(CONVERTER);
  for (const file of [join(dir, "config.json"), ...files]) {
    const { size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
    hash.update(`${await realpath(file)} ${size} ${mtimeNs} ${ctimeNs}\n`);
  }
  return join(cache_folder(), `${basename(await realpath(dir))}-${hash.digest("hex").slice(0, 16)}`);
}

/** What was checked of which file: a name that changes when the file does. */
async function record_of(file: string, what: string): Promise<string> {
  const { ino, size, mtimeNs, ctimeNs } = await stat(file, { bigint: true });
  const hash = createHash("sha256").update(`${ino} ${size} ${mtimeNs} ${ctimeNs} ${what}`);
  return join(cache_folder(), "verified", hash.digest("hex"));
}

/** Does `check`, which reads a whole file, unless it has passed before and the file is the one that it was. */
export async function check_once(file: string, what: string, check: () => Promise<void>): Promise<void> {
  const record = await record_of(file, what).catch(() => null);
  if (record !== null && (await exists(record))) return;
  await check();
  if (record !== null) await write_record(record);
}

/** That the file as it is now has passed a check. */
export async function remember(file: string, what: string): Promise<void> {
  const record = await record_of(file, what).catch(() => null);
  if (record !== null) await write_record(record);
}

/** Where nothing can be written, the next start checks again. */
async function write_record(record: string): Promise<void> {
  try {
    await mkdir(join(record, ".."), { recursive: true });
    await writeFile(record, "");
  } catch {}
}

const exists = (file: string) =>
  access(file).then(
    () => true,
    () => false,
  );
