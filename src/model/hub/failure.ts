/** What a person reads when the hub, the network or the disk does not give what is asked. */
import { mkdir, statfs } from "node:fs/promises";
import { BimedixError } from "../../errors.js";
import { file_error } from "../../files.js";
import { is_whole, storage_of } from "./cache.js";
import { type Entry, HubError, is_file_error } from "./client.js";
import { blob_of, parts_of } from "./download.js";
import { endpoint, token } from "./environment.js";
import { no_directory, type Repository } from "./ids.js";

/** @throws BimedixError disk_full, before hours of download end in it */
export async function check_space(repository: Repository, missing: Entry[]): Promise<void> {
  let needed = 0;
  for (const entry of missing) {
    if (!(await is_whole(blob_of(repository, entry), entry)))
      needed += entry.size - Math.min(entry.size, (await parts_of(blob_of(repository, entry)))[0]?.size ?? 0);
  }
  if (needed === 0) return;
  await mkdir(storage_of(repository), { recursive: true });
  const free = await free_space(storage_of(repository));
  if (free !== null && free < needed)
    throw disk_full(repository, `needs ${gigabytes(needed)}, and ${gigabytes(free)} are free`);
}

/** Bytes, or null where the file system does not say. */
async function free_space(dir: string): Promise<number | null> {
  const { bavail, blocks, bsize } = await statfs(dir).catch(() => ({ bavail: 0, blocks: 0, bsize: 0 }));
  return blocks > 0 ? bavail * bsize : null;
}

const gigabytes = (bytes: number) =>
  bytes < 1e8 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;

const disk_full = (repository: Repository, why: string, cause?: unknown) =>
  new BimedixError(
    "disk_full",
    {
      given: `${title(repository)} does not fit into ${storage_of(repository)}: it ${why}`,
      expected: "room in the hub's cache",
      todo: "free some space, or set HF_HUB_CACHE to another disk; what has arrived is kept",
    },
    cause,
  );

const title = ({ type, name }: Repository) => (type === "model" ? `model ${name}` : `data set ${name}`);

export const stopped = (repository: Repository) =>
  new BimedixError("aborted", {
    given: `a download of ${title(repository)} that was stopped`,
    expected: "it to finish",
    todo: "start it again, and it goes on where it was",
  });

export interface Cached {
  /** What a snapshot lacks that is there in part, else null. */
  lacking: string[] | null;
  /** Commits that are there whole, under another name than was asked for. */
  commits: string[];
}

export async function readable(error: unknown, repository: Repository, cached: Cached): Promise<Error> {
  if (error instanceof BimedixError) return error.code === "aborted" ? stopped(repository) : error;
  if (is_file_error(error)) {
    const storage = storage_of(repository);
    const { code } = file_error(error, storage, "");
    if (code !== "disk_full") return file_error(error, storage, "room in the hub's cache");
    const free = await free_space(storage);
    return disk_full(repository, `needs more than the ${gigabytes(free ?? 0)} that are free`, error);
  }
  if (!(error instanceof HubError)) return error as Error;
  return (await refused(error, repository)) ?? unreachable(error, repository, cached);
}

/** The hub was there and said no. */
async function refused(error: HubError, repository: Repository): Promise<BimedixError | null> {
  const { status, code, said } = error;
  const { name, revision, type } = repository;
  const what = title(repository);
  const page = `${endpoint()}/${type === "dataset" ? "datasets/" : ""}${name}`;
  const key = token();
  const log_in = key ? `the token in ${key.source} may see it` : "set HF_TOKEN, or run hf auth login";
  const say = (kind: "file_not_found" | "file_unreadable", given: string, expected: string, todo: string) =>
    new BimedixError(kind, { given, expected, todo }, error);
  if (code === "RevisionNotFound")
    return say("file_not_found", `${what} has no revision ${revision}`, "a branch, tag or commit of it", `see ${page}`);
  if (code === "GatedRepo")
    return say(
      "file_unreadable",
      `${what} is gated`,
      "access to it",
      `accept its terms on ${page}, and ${key ? "see that " : ""}${log_in}`,
    );
  if (said === "Access to this resource is disabled.")
    return say("file_unreadable", `${what} is disabled on the hub`, "a repository that is open", "choose another");
  if (status === 401 && /invalid (credentials|user)/i.test(said ?? "") && key)
    return say(
      "file_unreadable",
      `the hub does not know the token in ${key.source}`,
      "a token that is valid",
      "run hf auth login, or set HF_TOKEN anew",
    );
  if (status === 403)
    return say(
      "file_unreadable",
      `${what} may not be read${said ? ` (${said})` : ""}`,
      "access to it",
      `see ${page}: accept its terms, and ${key ? "see that " : ""}${log_in}`,
    );
  if (status === 401 || code === "RepoNotFound" || (status === 404 && code !== "EntryNotFound")) {
    const where = type === "model" ? `${no_directory(name)} and ` : "";
    return say(
      "file_not_found",
      `${what}: ${where}nothing on the hub that may be seen`,
      "an existing id",
      `check the name and the revision; if it is private, ${key ? "see that " : ""}${log_in}`,
    );
  }
  return null;
}

function unreachable(error: HubError, repository: Repository, { lacking, commits }: Cached): BimedixError {
  const { type, name, revision } = repository;
  const [commit] = commits;
  const state = commit
    ? `is in the cache at ${commit} and not at ${revision},`
    : lacking
      ? `is in the cache without ${lacking.slice(0, 4).join(", ")}${lacking.length > 4 ? ` and ${lacking.length - 4} more` : ""},`
      : `is not in the cache${type === "model" ? `, there is ${no_directory(name)},` : ""}`;
  const after = error.retry_after === null ? "" : `, and wants ${error.retry_after} s of patience`;
  const elsewhere =
    type === "model"
      ? "download it on another machine and pass its directory"
      : "give a folder with its files (eval --data)";
  return new BimedixError(
    "offline",
    {
      given: `${title(repository)} ${state} and the hub cannot be reached (${error.message}${after})`,
      expected: "a connection to the hub",
      todo: `${/, by \w+$/.test(error.message) ? "unset that" : "connect"}${lacking ? " (what has arrived is kept)" : ""}, or ${commit && type === "model" ? `ask for ${name}@${commit}` : elsewhere}`,
    },
    error,
  );
}
