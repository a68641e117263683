/**
 * Models and data sets from the Hugging Face hub, in its standard cache (HF_HOME, HF_HUB_CACHE), so that other tools find them there.
 *
 * @huggingface/hub lists repositories and knows the cache's layout, but starts an interrupted download from the beginning;
 * so the bytes of a file are fetched here, with a range request for what is missing, into the library's `.incomplete` name,
 * checked, and renamed. Then the library finds the blob there and only links it into the snapshot.
 */
import { createWriteStream, existsSync, statSync } from "node:fs";
import { mkdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { ReadableStream } from "node:stream/web";
import {
  datasetInfo,
  downloadFileToCacheDir,
  getHFHubCachePath,
  getRepoFolderName,
  type ListFileEntry,
  listFiles,
  modelInfo,
} from "@huggingface/hub";
import { BimedixError } from "../errors.js";
import { file_error, file_hash, read_json, write_atomically } from "../files.js";

export interface HubOptions {
  /** Branch, tag or commit. Default "main". */
  revision?: string;
  /** Use only what is in the cache; also by HF_HUB_OFFLINE=1. */
  offline?: boolean;
  on_progress?: (progress: { file: string; done: number; total: number }) => void;
  signal?: AbortSignal;
}

/** What a model needs; weights in other formats would only fill the disk. */
const SMALL =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json$|^tokenizer\.model$|^chat_template\.jinja$/;
const WEIGHTS = /^[^/]*\.safetensors(\.index\.json)?$/;

/** What of a repository is wanted. */
interface Wanted {
  is_complete: (snapshot: string) => Promise<boolean>;
  needs: (path: string) => boolean;
  /** Only this folder is listed. */
  folder?: string;
}

interface Repository {
  type: "model" | "dataset";
  name: string;
}

/** The directory of a model: `id_or_dir` itself when it is one, else the hub's snapshot of it, downloaded when needed. */
export function resolve_model(id_or_dir: string, options: HubOptions = {}): Promise<string> {
  return resolve_directory(id_or_dir, true, options);
}

/** The same for all but the weights, which a tokenizer does not need. */
export function resolve_tokenizer(id_or_dir: string, options: HubOptions = {}): Promise<string> {
  return resolve_directory(id_or_dir, false, options);
}

/** The same for a LoRA adapter. Its revision is `main`: the one in `options` is the model's. */
export function resolve_adapter(id_or_dir: string, { revision: _, ...options }: HubOptions = {}): Promise<string> {
  const files = ["adapter_config.json", "adapter_model.safetensors"];
  const wanted: Wanted = {
    is_complete: async (snapshot) => files.every((file) => existsSync(join(snapshot, file))),
    needs: (path) => files.includes(path),
  };
  return resolve_any(id_or_dir, "adapter", files[0]!, wanted, options);
}

function resolve_directory(id_or_dir: string, weights: boolean, options: HubOptions): Promise<string> {
  const wanted: Wanted = {
    is_complete: (snapshot) => is_model(snapshot, weights),
    needs: (path) => SMALL.test(path) || (weights && WEIGHTS.test(path)),
  };
  return resolve_any(id_or_dir, "model", "config.json", wanted, options);
}

async function resolve_any(
  id_or_dir: string,
  kind: "model" | "adapter",
  holds: string,
  wanted: Wanted,
  options: HubOptions,
): Promise<string> {
  if (existsSync(id_or_dir)) {
    if (statSync(id_or_dir).isDirectory()) return id_or_dir;
    throw new BimedixError("bad_option", {
      given: `${id_or_dir}, which is a file`,
      expected: `the directory of ${kind === "model" ? "a model" : "an adapter"}`,
      todo: `pass the directory that holds ${holds}`,
    });
  }
  if (!/^[\w.-]+\/[\w.-]+$/.test(id_or_dir) || id_or_dir.includes("..")) {
    throw new BimedixError("file_not_found", {
      given: `${kind} ${JSON.stringify(id_or_dir)}`,
      expected: "an existing directory, or a hub id such as BiMediX/BiMediX-Bi",
      todo: "check the name",
    });
  }
  return resolve({ type: "model", name: id_or_dir }, wanted, options);
}

/** A repository's snapshot, downloaded when it is not in the cache. */
async function resolve(repository: Repository, wanted: Wanted, options: HubOptions): Promise<string> {
  const { revision = "main", offline = process.env.HF_HUB_OFFLINE === "1" } = options;
  const storage = join(getHFHubCachePath(), getRepoFolderName(repository));
  const what = repository.type === "model" ? `model ${repository.name}` : `data set ${repository.name}`;
  const cached = await cached_snapshot(storage, revision, wanted);
  if (offline) {
    if (cached) return cached;
    throw unreachable(what, "offline mode");
  }
  try {
    return await download(repository, storage, revision, wanted, options);
  } catch (error) {
    if (is_network_error(error) && cached) return cached;
    throw readable(error, what, storage);
  }
}

async function cached_snapshot(storage: string, revision: string, { is_complete }: Wanted): Promise<string | null> {
  const commit = /^[0-9a-f]{40}$/.test(revision)
    ? revision
    : await readFile(join(storage, "refs", revision), "utf8").catch(() => "");
  const snapshot = join(storage, "snapshots", commit.trim());
  return commit && (await is_complete(snapshot)) ? snapshot : null;
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
  const folder = `${config}/${split}`;
  const path = `${folder}/0000.parquet`;
  const snapshot = await resolve(
    { type: "dataset", name },
    {
      is_complete: async (dir) => existsSync(join(dir, path)),
      needs: (file) => file === path,
      folder,
    },
    { revision: PARQUET, ...options },
  );
  if (existsSync(join(snapshot, path))) return join(snapshot, path);
  throw new BimedixError("file_not_found", {
    given: `data set ${name} has no ${path} on the hub`,
    expected: "a Parquet copy of this split",
    todo: "give a folder with --data",
  });
}

/** A file is in a snapshot once it is whole, whoever downloaded it, and here the weights come last. */
async function is_model(snapshot: string, weights: boolean): Promise<boolean> {
  const has = (file: string) => existsSync(join(snapshot, file));
  if (!has("config.json")) return false;
  if (!weights) return has("tokenizer.json") || has("tokenizer.model");
  if (has("model.safetensors")) return true;
  const index = await read_json(join(snapshot, "model.safetensors.index.json"), "bad_checkpoint", true);
  const shards = Object.values(index?.weight_map ?? {});
  return shards.length > 0 && shards.every((shard) => has(String(shard)));
}

async function download(
  repository: Repository,
  storage: string,
  revision: string,
  { is_complete, needs, folder }: Wanted,
  { on_progress, signal }: HubOptions,
): Promise<string> {
  const { name, type } = repository;
  const token = process.env.HF_TOKEN;
  const hubUrl = process.env.HF_ENDPOINT ?? "https://huggingface.co";
  const own_fetch: typeof fetch = (input, init) => fetch(input, { ...init, ...(signal ? { signal } : {}) });
  const access = { hubUrl, fetch: own_fetch, ...(token ? { accessToken: token } : {}) };
  const about = { ...access, name, revision, additionalFields: ["sha" as const] };
  const { sha } = await (type === "model" ? modelInfo(about) : datasetInfo(about));
  const snapshot = join(storage, "snapshots", sha);
  if (await is_complete(snapshot)) return snapshot;
  const files: ListFileEntry[] = [];
  for await (const entry of listFiles({
    ...access,
    repo: repository,
    revision: sha,
    ...(folder ? { path: folder } : {}),
  }))
    if (entry.type === "file" && needs(entry.path)) files.push(entry);
  files.sort((a, b) => a.size - b.size);
  const total = files.reduce((sum, { size }) => sum + size, 0);
  let before = 0;
  for (const entry of files) {
    const blob = join(storage, "blobs", entry.lfs?.oid ?? entry.xetHash ?? entry.oid ?? sha);
    const url = `${hubUrl}/${type === "dataset" ? "datasets/" : ""}${name}/resolve/${sha}/${entry.path}`;
    if (!existsSync(blob)) {
      const report = (bytes: number) => on_progress?.({ file: entry.path, done: before + bytes, total });
      await fetch_blob(url, blob, entry, own_fetch, token, report);
    }
    await downloadFileToCacheDir({ ...access, repo: repository, path: entry.path, revision: sha });
    before += entry.size;
  }
  if (revision !== sha) {
    const ref = join(storage, "refs", revision);
    await mkdir(dirname(ref), { recursive: true });
    await write_atomically(ref, (handle) => handle.writeFile(sha));
  }
  return snapshot;
}

/** Fetches the rest of a blob. A file that turns out wrong is removed, so that the next try starts clean. */
async function fetch_blob(
  url: string,
  blob: string,
  entry: ListFileEntry,
  own_fetch: typeof fetch,
  token: string | undefined,
  report: (bytes: number) => void,
): Promise<void> {
  const incomplete = `${blob}.incomplete`;
  await mkdir(dirname(blob), { recursive: true });
  let have = existsSync(incomplete) ? statSync(incomplete).size : 0;
  if (have > entry.size) have = 0;
  if (have < entry.size) {
    const headers = {
      ...(token ? { Authorization: `Bearer ${token}` } : {}),
      ...(have > 0 ? { Range: `bytes=${have}-` } : {}),
    };
    const response = await own_fetch(url, { headers });
    if (!response.ok || !response.body) throw new Error(`${response.status} ${response.statusText} for ${entry.path}`);
    // A server may answer a range request with the whole file.
    if (response.status !== 206) have = 0;
    const counted = Readable.fromWeb(response.body as ReadableStream);
    counted.on("data", (chunk: Uint8Array) => report((have += chunk.length)));
    await pipeline(counted, createWriteStream(incomplete, { flags: response.status === 206 ? "a" : "w" }));
  }
  const { size } = statSync(incomplete);
  const sha256 = entry.lfs?.oid;
  if (size !== entry.size || (sha256 && (await file_hash(incomplete)) !== sha256)) {
    await rm(incomplete);
    throw new BimedixError("bad_checkpoint", {
      given: `${basename(entry.path)} arrived with other bytes than the hub announced`,
      expected: `${entry.size} bytes${sha256 ? ` of sha256 ${sha256}` : ""}`,
      todo: "start again to download it anew",
    });
  }
  await rename(incomplete, blob);
}

function is_network_error(error: unknown): boolean {
  return error instanceof TypeError && error.message.includes("fetch failed");
}

function unreachable(name: string, why: string): BimedixError {
  const todo = name.startsWith("model")
    ? "connect, or download it on another machine and pass its directory"
    : "connect, or give a folder with its files";
  return new BimedixError("offline", {
    given: `${name} is not in the cache and the hub cannot be reached (${why})`,
    expected: "a connection to the hub",
    todo,
  });
}

function readable(error: unknown, name: string, storage: string): BimedixError {
  if (error instanceof BimedixError) return error;
  if (is_network_error(error))
    return unreachable(name, String((error as Error & { cause?: Error }).cause?.message ?? "no network"));
  if (error instanceof Error && error.name === "AbortError") {
    return new BimedixError("aborted", {
      given: `a download of ${name} that was stopped`,
      expected: "it to finish",
      todo: "start it again, and it goes on where it was",
    });
  }
  const status = (error as { statusCode?: number }).statusCode;
  if (status === 401 || status === 403) {
    return new BimedixError(
      "file_unreadable",
      {
        given: `${name} is private or gated, or does not exist`,
        expected: "access to it",
        todo: "accept its terms on the hub and set HF_TOKEN",
      },
      error,
    );
  }
  if (status === 404)
    return new BimedixError(
      "file_not_found",
      { given: `${name} is not on the hub`, expected: "an existing id", todo: "check the name and the revision" },
      error,
    );
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (/^E[A-Z]+$/.test(code) && !/^ECONN|^EPIPE/.test(code))
    return file_error(error, storage, "room in the hub's cache");
  return unreachable(name, `${(error as Error).message}; what has arrived is kept`);
}
