/** Reading and writing files so that a failure is one readable line, and so that a half-written file never counts as whole. */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, lstat, mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { BimedixError, type ErrorCode } from "./errors.js";

/** The error a person should read for a failed file operation. */
export function file_error(error: unknown, file: string, expected: string): BimedixError {
  if (error instanceof BimedixError) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const [kind, what, todo]: [ErrorCode, string, string] =
    code === "ENOENT" || code === "ENOTDIR"
      ? ["file_not_found", "does not exist", "check the path or download the file again"]
      : code === "ENOSPC" || code === "EDQUOT"
        ? ["disk_full", "does not fit on the disk", "free some space or choose another folder"]
        : code === "EACCES" || code === "EPERM" || code === "EROFS"
          ? ["file_unreadable", "may not be read or written", "check its permissions"]
          : code === "EISDIR"
            ? ["file_unreadable", "is a folder", "name a file in it"]
            : code === "EEXIST"
              ? ["file_unreadable", "is a file", "name a folder"]
              : code === "ENAMETOOLONG"
                ? ["bad_option", "has a longer name than the file system takes", "choose a shorter one"]
                : ["file_unreadable", `failed (${code || (error as Error).message})`, "check the file"];
  return new BimedixError(kind, { given: `${file} ${what}`, expected, todo }, error);
}

/** The user's own folder. @throws BimedixError bad_option where there is none, as for a user number without a name in a container */
export function home_folder(): string {
  try {
    return homedir();
  } catch (error) {
    const given = "a user without a home folder, and no HOME";
    const todo = "set HOME, or HF_HOME and BIMEDIX_CACHE";
    throw new BimedixError("bad_option", { given, expected: "a place for caches", todo }, error);
  }
}

/** The longest text that is read from what has no length: a pipe is as good as a file, and a device may have no end. */
const MOST_OF_A_STREAM = 2 ** 26;

async function read_stream(file: string, expected: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for await (const chunk of createReadStream(file) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    chunks.push(chunk);
    if (length > MOST_OF_A_STREAM)
      throw new BimedixError("file_unreadable", {
        given: `${file}, which has no end within ${MOST_OF_A_STREAM / 2 ** 20} MB`,
        expected,
        todo: "name a file",
      });
  }
  return Buffer.concat(chunks);
}

/** The whole of a UTF-8 text file. @throws BimedixError file_not_found, file_unreadable */
export async function read_text(file: string, expected: string): Promise<string> {
  try {
    const bytes = (await stat(file)).isFile() ? await readFile(file) : await read_stream(file, expected);
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    if (error instanceof TypeError && (error as { code?: string }).code === "ERR_ENCODING_INVALID_ENCODED_DATA") {
      throw new BimedixError("file_unreadable", {
        given: `${file} is not UTF-8 text`,
        expected,
        todo: "save it as UTF-8",
      });
    }
    throw file_error(error, file, expected);
  }
}

/**
 * A value of JSON as Python's json module writes and reads it: NaN, Infinity and -Infinity besides what the standard has.
 * @param missing makes null of them, which is what pandas and datasets mean by them in a table
 * @throws SyntaxError
 */
export function parse_json(text: string, missing = false): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    // Strings are matched first, so that what stands in them stays as it is.
    let found = false;
    const standard = text.replace(/"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g, (token) => {
      if (token.startsWith('"')) return token;
      found = true;
      if (missing) return "null";
      return token === "NaN" ? JSON.stringify(NOT_A_NUMBER) : token.replace("Infinity", "1e999");
    });
    if (!found) throw error;
    return JSON.parse(standard, (_, value) => (value === NOT_A_NUMBER ? Number.NaN : value));
  }
}

/** What stands for NaN while a text is read. */
const NOT_A_NUMBER = "\u0000NaN";

/**
 * That a path leads to a file: to open a pipe waits for a writer, and a device may have no end.
 * @throws BimedixError file_not_found, file_unreadable
 */
export async function check_file(file: string, expected: string): Promise<void> {
  const found = await stat(file).catch((error: unknown) => Promise.reject(file_error(error, file, expected)));
  if (!found.isFile() && !found.isDirectory())
    throw new BimedixError("file_unreadable", {
      given: `${file} is a pipe or a device`,
      expected,
      todo: "put a file there",
    });
}

/** A JSON object from a file, or null when `optional` and there is none. @throws BimedixError `code` when it is not one */
export async function read_json(file: string, code: ErrorCode, optional: true): Promise<Record<string, unknown> | null>;
export async function read_json(file: string, code: ErrorCode): Promise<Record<string, unknown>>;
export async function read_json(
  file: string,
  code: ErrorCode,
  optional = false,
): Promise<Record<string, unknown> | null> {
  let text: string;
  try {
    await check_file(file, "a JSON file");
    text = await read_text(file, "a JSON file");
  } catch (error) {
    if (optional && error instanceof BimedixError && error.code === "file_not_found") return null;
    throw error;
  }
  try {
    const value = parse_json(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Falls through to the one error below: which character was wrong helps nobody.
  }
  throw new BimedixError(code, {
    given: `${file} is not a JSON object`,
    expected: "valid JSON",
    todo: "download the file again",
  });
}

/** The sha256 of a file's bytes, in hexadecimal. */
export async function file_hash(file: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(file)) hash.update(chunk as Uint8Array);
  return hash.digest("hex");
}

/**
 * A name for what is renamed when it is whole, a file or a folder, that no other process has: not one of the same number in another
 * container either. It says nothing of the final name, which may be as long as the file system allows.
 */
export const part_in = (folder: string): string => join(folder, `.bimedix-${randomBytes(8).toString("hex")}.part`);

/** Whether a name is one that `part_in` gave. */
export const is_part = (name: string): boolean => /^\.bimedix-[0-9a-f]{16}\.part$/.test(name);

/** Removes what writers that were killed left in a folder. Only for who holds its lock, as the parts may be somebody's. */
export async function remove_parts(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (is_part(name)) await rm(join(folder, name), { recursive: true, force: true });
}

/**
 * Writes a file under a temporary name in the same folder and renames it when `write` has finished and the bytes are on
 * the disk; on failure the temporary file is removed and an existing `file` is untouched.
 */
export async function write_atomically(file: string, write: (handle: FileHandle) => Promise<void>): Promise<void> {
  const part = part_in(dirname(file));
  try {
    const handle = await open(part, "wx");
    try {
      await write(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(part, file);
  } catch (error) {
    // What went wrong is told, and not that nothing could be removed where nothing could be written.
    await rm(part, { force: true }).catch(() => {});
    throw file_error(error, file, "a place to write to");
  }
}

/**
 * Whether two paths lead to one folder, even where it is not there yet: through links, and, as the file system itself tells, through
 * bind mounts and in other spellings of one name.
 */
export async function same_folder(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map(real_place));
  return a!.id === b!.id && a!.rest === b!.rest;
}

/** The nearest folder that is there, by its device and inode, and the way on from it. */
async function real_place(path: string): Promise<{ id: string; rest: string }> {
  const whole = resolve(path);
  try {
    const { dev, ino } = await stat(whole, { bigint: true });
    return { id: `${dev} ${ino}`, rest: "" };
  } catch (error) {
    if (dirname(whole) === whole) throw file_error(error, whole, "a folder");
    const { id, rest } = await real_place(dirname(whole));
    return { id, rest: join(rest, basename(whole)) };
  }
}

/**
 * Makes a folder and those around it. Node's own recursive mkdir calls every failure of a parent ENOENT, one of a read-only file system too.
 * @throws BimedixError
 */
export async function make_folder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true }).catch(async (error: NodeJS.ErrnoException) => {
    let first = resolve(folder);
    while (error.code === "ENOENT" && dirname(first) !== first && (await is_missing(dirname(first))))
      first = dirname(first);
    const real = error.code === "ENOENT" ? await mkdir(first).catch((why: unknown) => why) : error;
    throw file_error(real ?? error, folder, "a folder to write to");
  });
}

const is_missing = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => false,
    () => true,
  );
