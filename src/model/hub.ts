/**
 * Models and data sets from the Hugging Face hub, in the cache that huggingface_hub keeps (`hub/cache.ts`), so that each finds
 * what the other downloaded. What of the environment is read stands in docs/hub.md.
 */
import { existsSync, statSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { warn } from "../warnings.js";
import { COMMIT, cached_commit, cached_commits, is_whole, note_absence, snapshot_of, write_ref } from "./hub/cache.js";
import { commit_of, type Entry, HubError, list_files } from "./hub/client.js";
import { fetch_file } from "./hub/download.js";
import { is_offline, offline_by } from "./hub/environment.js";
import { type Cached, check_space, readable, stopped } from "./hub/failure.js";
import { adapter_files, model_files, one_file, tokenizer_files, type Wanted } from "./hub/files.js";
import { check_revision, parse_id, type Repository } from "./hub/ids.js";

export interface HubOptions {
  /** Branch, tag, commit or `refs/pr/N`. Default "main", or what an id says as `owner/name@revision`. */
  revision?: string;
  /** Use only what is in the cache; also by HF_HUB_OFFLINE=1. */
  offline?: boolean;
  on_progress?: (progress: { file: string; done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** The directory of a model: `id_or_dir` itself when it is one, else the hub's snapshot of it, downloaded when needed. */
export function resolve_model(id_or_dir: string, options: HubOptions = {}): Promise<string> {
  return resolve_any(id_or_dir, "model", "config.json", model_files, options);
}

/** The same for all but the weights, which a tokenizer does not need. */
export function resolve_tokenizer(id_or_dir: string, options: HubOptions = {}): Promise<string> {
  return resolve_any(id_or_dir, "model", "config.json", tokenizer_files, options);
}

/** The same for a LoRA adapter. Its revision is `main` or what its own id says: the one in `options` is the model's. */
export function resolve_adapter(id_or_dir: string, { revision: _, ...options }: HubOptions = {}): Promise<string> {
  return resolve_any(id_or_dir, "adapter", "adapter_config.json", adapter_files, options);
}

async function resolve_any(
  id_or_dir: string,
  kind: "model" | "adapter",
  holds: string,
  wanted: Wanted,
  options: HubOptions,
): Promise<string> {
  if (typeof id_or_dir !== "string")
    throw new BimedixError("bad_option", {
      given: `a ${typeof id_or_dir} for ${kind === "model" ? "a model" : "an adapter"}`,
      expected: "the path of a directory, or a hub id",
      todo: "pass it as a text",
    });
  if (existsSync(id_or_dir)) {
    if (statSync(id_or_dir).isDirectory()) return id_or_dir;
    throw new BimedixError("bad_option", {
      given: `${id_or_dir}, which is a file`,
      expected: `the directory of ${kind === "model" ? "a model" : "an adapter"}`,
      todo: `pass the directory that holds ${holds}`,
    });
  }
  return resolve(parse_id(id_or_dir, kind, options.revision), wanted, options);
}

/** The hub keeps a Parquet copy of every data set in this branch, whatever form its authors gave it. */
const PARQUET = "refs/convert/parquet";

/**
 * The Parquet file of one split of a data set, from the hub's cache or the hub.
 * https://huggingface.co/docs/dataset-viewer/parquet
 */
export async function dataset_file(
  name: string,
  config: string,
  split: string,
  options: HubOptions = {},
): Promise<string> {
  const path = `${config}/${split}/0000.parquet`;
  const revision = check_revision(options.revision ?? PARQUET);
  const snapshot = await resolve({ type: "dataset", name, revision }, one_file(path), options);
  if (existsSync(join(snapshot, path))) return join(snapshot, path);
  throw new BimedixError("file_not_found", {
    given: `data set ${name} has no ${path} on the hub`,
    expected: "a Parquet copy of this split",
    todo: "give a folder with --data",
  });
}

/** A repository's snapshot: the hub's newest when it can be asked, and what is in the cache when it cannot. */
async function resolve(repository: Repository, wanted: Wanted, options: HubOptions): Promise<string> {
  const commit = await cached_commit(repository);
  const cached = commit && snapshot_of(repository, commit);
  const lacking = cached && existsSync(cached) ? await wanted.lacks(cached) : null;
  const usable = lacking?.length === 0 ? cached : null;
  const offline = options.offline ?? is_offline(repository.type);
  const doubts = (usable && (await wanted.doubts?.(usable))) || [];
  try {
    if (offline) throw new HubError(`offline mode${options.offline ? "" : `, by ${offline_by(repository.type)}`}`, 0);
    return await download(repository, wanted, options, usable !== null && doubts.length === 0);
  } catch (error) {
    if (options.signal?.aborted) throw stopped(repository);
    const gone = error instanceof HubError && error.code === "RevisionNotFound";
    if (usable && !gone && !(error instanceof BimedixError && error.code === "bad_option")) {
      const why = error instanceof Error ? error.message : String(error);
      if (doubts.length > 0)
        warn(
          `${repository.name} is in the cache without ${doubts.join(", ")}, and the hub cannot be asked for it (${why}): its prompts may differ from the model's own until it is loaded once with a connection.`,
        );
      return usable;
    }
    throw await readable(error, repository, await cached_state(repository, wanted, lacking));
  }
}

/** What an error can say of the cache. @param lacking what the wanted snapshot lacks, or null where there is none */
async function cached_state(repository: Repository, wanted: Wanted, lacking: string[] | null): Promise<Cached> {
  const others = lacking ? [] : await cached_commits(repository);
  const found = await Promise.all(
    others.map(async (commit) => ({ commit, lacking: await wanted.lacks(snapshot_of(repository, commit)) })),
  );
  // An interrupted first download has a snapshot, and no name for it yet.
  return {
    lacking: lacking ?? found.find((one) => one.lacking.length > 0)?.lacking ?? null,
    commits: found.filter((one) => one.lacking.length === 0).map(({ commit }) => commit),
  };
}

async function download(repository: Repository, wanted: Wanted, options: HubOptions, once: boolean): Promise<string> {
  const { on_progress, signal } = options;
  const asking = { once, ...(signal ? { signal } : {}) };
  const commit = COMMIT.test(repository.revision) ? repository.revision : await commit_of(repository, asking);
  const snapshot = snapshot_of(repository, commit);
  const { files, folders } = await list_files(repository, commit, wanted.folder, asking).catch((error: unknown) => {
    // A folder that does not exist: what is wanted from it is not there.
    if (error instanceof HubError && error.status === 404 && wanted.folder)
      return { files: [] as Entry[], folders: [] as string[] };
    throw error;
  });
  if (wanted.beside && folders.includes(wanted.beside))
    files.push(...(await list_files(repository, commit, wanted.beside, asking)).files);
  const fetch_all = async (needed: Entry[], report: typeof on_progress) => {
    const missing: Entry[] = [];
    for (const entry of needed) if (!(await is_whole(join(snapshot, entry.path), entry))) missing.push(entry);
    await check_space(repository, missing);
    const total = missing.reduce((sum, { size }) => sum + size, 0);
    let before = 0;
    // The weights last, so that a snapshot with weights has all that lies beside them.
    for (const entry of missing.sort((a, b) => a.size - b.size)) {
      const file_report = (bytes: number) => report?.({ file: entry.path, done: before + bytes, total });
      await fetch_file(repository, commit, entry, { report: file_report, ...(signal ? { signal } : {}) });
      before += entry.size;
    }
  };
  await fetch_all(wanted.first?.(files) ?? [], undefined);
  await fetch_all(await wanted.choose(files, snapshot, repository.name), on_progress);
  for (const file of (await wanted.doubts?.(snapshot)) ?? []) await note_absence(snapshot, file);
  await mkdir(snapshot, { recursive: true }).catch(() => {});
  // A cache that may not be written holds what it holds.
  await write_ref(repository, commit).catch(() => {});
  return snapshot;
}
