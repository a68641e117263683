/**
 * The cache that huggingface_hub keeps, where both find what the other downloaded:
 *
 *     models--owner--name/blobs/HASH              a file's bytes
 *     models--owner--name/snapshots/COMMIT/PATH   a link to them
 *     models--owner--name/refs/main               the commit that a branch or tag stood for
 *
 * https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, existsSync, statSync } from "node:fs";
import { copyFile, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { basename, dirname, join, relative } from "node:path";
import { write_atomically } from "../../files.js";
import { with_output } from "../../lock.js";
import type { Entry } from "./client.js";
import { cache_dir } from "./environment.js";
import type { Repository } from "./ids.js";

export const COMMIT = /^[0-9a-f]{40}$/;

export const storage_of = ({ type, name }: Repository): string =>
  join(cache_dir(), [`${type}s`, ...name.split("/")].join("--"));

export const snapshot_of = (repository: Repository, commit: string): string =>
  join(storage_of(repository), "snapshots", commit);

/** Where huggingface_hub notes the files that a commit does not have. */
const no_exist_of = (snapshot: string) => join(dirname(dirname(snapshot)), ".no_exist", basename(snapshot));

/** Whether a snapshot lacks a file, and nobody has ever seen that the commit has none. */
export const is_unknown = (snapshot: string, file: string): boolean =>
  !existsSync(join(snapshot, file)) && !existsSync(join(no_exist_of(snapshot), file));

/** Notes that a commit has no such file. A cache that may not be written holds what it holds. */
export async function note_absence(snapshot: string, file: string): Promise<void> {
  const note = join(no_exist_of(snapshot), file);
  const work = mkdir(dirname(note), { recursive: true }).then(() => writeFile(note, ""));
  await work.catch(() => {});
}

/** The commit that a revision stood for when somebody last asked the hub, or null. */
export async function cached_commit(repository: Repository): Promise<string | null> {
  const { revision } = repository;
  if (COMMIT.test(revision)) return revision;
  const text = await readFile(join(storage_of(repository), "refs", revision), "utf8").catch(() => "");
  // huggingface_hub takes whatever stands there; here it must not lead out of the folder.
  return /^\w+$/.test(text.trim()) ? text.trim() : null;
}

/** Commits of which something is in the cache. */
export const cached_commits = (repository: Repository): Promise<string[]> =>
  readdir(join(storage_of(repository), "snapshots")).catch(() => []);

export async function write_ref(repository: Repository, commit: string): Promise<void> {
  const { revision } = repository;
  if (revision === commit || (!COMMIT.test(revision) && (await cached_commit(repository)) === commit)) return;
  const file = join(storage_of(repository), "refs", revision);
  await with_output(dirname(file), "a download", () => write_atomically(file, (handle) => handle.writeFile(commit)));
}

/** Up to this size a file's bytes are checked at each start, and not its length alone. */
const SMALL = 32 * 2 ** 20;

/** Whether a file, or what a link points to, has the length that the hub announces, and, where it is small, the hash. */
export async function is_whole(file: string, entry: Entry): Promise<boolean> {
  const found = statSync(file, { throwIfNoEntry: false });
  if (!found?.isFile() || found.size !== entry.size) return false;
  if (entry.size > SMALL) return true;
  const check = new Check(entry);
  await check.read(file, entry.size);
  return check.matches();
}

/** The hash of bytes against what the hub announces: sha256, or git's sha1 of a blob. */
export class Check {
  private readonly hashes: ReturnType<typeof createHash>[];

  constructor(private readonly entry: Entry) {
    // Mirrors that hold no git repository announce the sha1 of the bytes alone.
    this.hashes =
      entry.hash.length === 64
        ? [createHash("sha256")]
        : [createHash("sha1").update(`blob ${entry.size}\0`), createHash("sha1")];
  }

  update(bytes: Uint8Array): void {
    for (const hash of this.hashes) hash.update(bytes);
  }

  async read(file: string, length: number): Promise<void> {
    if (length === 0) return;
    for await (const chunk of createReadStream(file, { end: length - 1 })) this.update(chunk as Uint8Array);
  }

  matches(): boolean {
    return this.hashes.some((hash) => hash.digest("hex") === this.entry.hash);
  }
}

/**
 * Makes a snapshot's file of a blob: a link, or, where the file system has none, the blob itself when it is `fresh`, and a copy when
 * another snapshot may use it. Whatever stood there is replaced.
 */
export async function link(blob: string, file: string, fresh: boolean): Promise<void> {
  await mkdir(dirname(file), { recursive: true });
  const part = `${blob}.${randomBytes(4).toString("hex")}${LINK}`;
  try {
    try {
      if (process.env.HF_HUB_DISABLE_SYMLINKS?.match(/^(1|on|yes|true)$/i)) throw new Error("not wanted");
      await symlink(relative(dirname(file), blob), part);
    } catch {
      if (fresh) return await rename(blob, file);
      await copyFile(blob, part);
    }
    await rename(part, file);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}

/** The end of a link's name before it stands in its snapshot. */
const LINK = ".link";

/** Removes the links of killed processes; only with the blob's lock. */
export async function remove_links(blob: string): Promise<void> {
  for (const name of await readdir(dirname(blob)))
    if (name.startsWith(`${basename(blob)}.`) && name.endsWith(LINK))
      await rm(join(dirname(blob), name), { force: true });
}

/** Whether something has this name, be it a link to nothing. */
export const is_there = (file: string): Promise<boolean> =>
  lstat(file).then(
    () => true,
    () => false,
  );

export const size_of = (file: string): Promise<number> =>
  stat(file).then(
    ({ size }) => size,
    () => 0,
  );
