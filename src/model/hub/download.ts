/**
 * One file from the hub into the cache. It is written under a name that no other process has, checked, and renamed, so a name in
 * the cache always means whole bytes; parts that interrupted downloads left are gone on with by whoever has the blob's lock.
 */
import { randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { BimedixError } from "../../errors.js";
import { with_lock } from "../../lock.js";
import { Check, is_whole, link, remove_links, size_of, snapshot_of, storage_of } from "./cache.js";
import { Deadline, type Entry, file_url, get, HubError, persist } from "./client.js";
import { timeouts } from "./environment.js";
import type { Repository } from "./ids.js";

export interface FetchOptions {
  signal?: AbortSignal;
  /** Called with the bytes that are there. */
  report: (bytes: number) => void;
}

export const blob_of = (repository: Repository, { hash }: Entry): string => join(storage_of(repository), "blobs", hash);

/** @throws HubError; BimedixError bad_checkpoint, aborted; errors of the file system */
export async function fetch_file(
  repository: Repository,
  commit: string,
  entry: Entry,
  options: FetchOptions,
): Promise<void> {
  const file = join(snapshot_of(repository, commit), entry.path);
  const blob = blob_of(repository, entry);
  await mkdir(dirname(blob), { recursive: true });
  const on_wait = () => void parts_of(blob).then((parts) => options.report(parts[0]?.size ?? 0));
  const work = async () => {
    await remove_links(blob);
    // Another process may have been here meanwhile.
    if (await is_whole(file, entry)) return;
    const fresh = !(await is_whole(blob, entry));
    if (fresh) await fetch_blob(file_url(repository, commit, entry.path), blob, entry, options);
    await link(blob, file, fresh);
  };
  await with_lock(`${blob}.lock`, work, { on_wait, ...(options.signal ? { signal: options.signal } : {}) });
}

/** What interrupted downloads of a blob left, the longest first. */
export async function parts_of(blob: string): Promise<{ file: string; size: number }[]> {
  const names = await readdir(dirname(blob)).catch(() => []);
  const own = names.filter((name) => name.startsWith(`${basename(blob)}.`) && name.endsWith(".part"));
  const parts = await Promise.all(
    own.map(async (name) => ({ file: join(dirname(blob), name), size: await size_of(join(dirname(blob), name)) })),
  );
  return parts.sort((a, b) => b.size - a.size);
}

async function fetch_blob(url: string, blob: string, entry: Entry, options: FetchOptions): Promise<void> {
  const part = `${blob}.${randomBytes(8).toString("hex")}.part`;
  const [longest, ...others] = await parts_of(blob);
  for (const { file } of others) await rm(file, { force: true });
  let resumed = false;
  if (longest) {
    if (longest.size > 0 && longest.size <= entry.size) {
      await rename(longest.file, part);
      resumed = true;
    } else await rm(longest.file, { force: true });
  }
  const handle = await open(part, resumed ? "r+" : "wx+");
  try {
    const right = await fill(handle, url, entry, options, resumed ? longest!.size : 0);
    // What the first try left may be of other bytes, as where a mirror changed: then all of it is fetched once more.
    if (!right && !(resumed && (await fill(handle, url, entry, options, 0)))) {
      await rm(part, { force: true });
      throw new BimedixError("bad_checkpoint", {
        given: `${entry.path} arrived with other bytes than the hub announced`,
        expected: `${entry.size} bytes of ${entry.hash.length === 64 ? "sha256" : "sha1"} ${entry.hash}`,
        todo: "start again to download it anew",
      });
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(part, blob);
}

/** Writes what is missing after `have` bytes. Whether the whole is what the hub announced. */
async function fill(
  handle: FileHandle,
  url: string,
  entry: Entry,
  options: FetchOptions,
  have: number,
): Promise<boolean> {
  const { signal, report } = options;
  const state = { have, check: new Check(entry) };
  await read_into(handle, state.check, have);
  const pull = async () => {
    if (state.have === entry.size) return;
    const deadline = new Deadline(timeouts().bytes, signal);
    try {
      const range: Record<string, string> = state.have > 0 ? { range: `bytes=${state.have}-` } : {};
      const response = await get(url, range, deadline.controller.signal).catch((error: unknown) => {
        // The server has fewer bytes than are here: they are not the same file's.
        if (error instanceof HubError && error.status === 416 && state.have > 0) return null;
        throw error;
      });
      const starts = response?.status === 206 && response.headers.get("content-range")?.match(/bytes (\d+)-/)?.[1];
      const goes_on = response?.status === 206 && (starts === undefined || Number(starts) === state.have);
      if (!goes_on) Object.assign(state, { have: 0, check: new Check(entry) });
      if (!response?.body || (response.status === 206 && !goes_on)) {
        await response?.body?.cancel();
        throw new HubError(`${new URL(url).host} does not send the rest of ${entry.path}`, 0);
      }
      if (total_of(response) !== null && total_of(response) !== entry.size) {
        await response.body.cancel();
        throw new OtherSize();
      }
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        deadline.put_off();
        if (state.have + chunk.length > entry.size) throw new OtherSize();
        await write_all(handle, chunk, state.have);
        state.check.update(chunk);
        report((state.have += chunk.length));
      }
      if (state.have < entry.size) throw new HubError(`${new URL(url).host} broke off ${entry.path}`, 0);
    } catch (error) {
      throw error instanceof OtherSize ? error : deadline.explain(error, url);
    } finally {
      deadline.end();
    }
  };
  try {
    await persist(pull, { progress: () => state.have, ...(signal ? { signal } : {}) });
  } catch (error) {
    if (error instanceof OtherSize) return false;
    throw error;
  }
  await handle.truncate(entry.size);
  return state.check.matches();
}

class OtherSize extends Error {}

/** The length of the whole file, where the answer's head says it. */
function total_of({ status, headers }: Response): number | null {
  if (headers.has("content-encoding")) return null;
  const text = status === 206 ? headers.get("content-range")?.split("/")[1] : headers.get("content-length");
  return text && /^\d+$/.test(text) ? Number(text) : null;
}

/** At its place, and not at the end: who had the lock before and only slept may still write here, and writes the same bytes. */
async function write_all(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

async function read_into(handle: FileHandle, check: Check, length: number): Promise<void> {
  const buffer = Buffer.alloc(Math.min(length, 2 ** 20));
  for (let at = 0; at < length; ) {
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, length - at), at);
    if (bytesRead === 0) return;
    check.update(buffer.subarray(0, bytesRead));
    at += bytesRead;
  }
}
