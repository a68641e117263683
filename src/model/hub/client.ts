/** Requests to the hub: redirects, the token, waits, second tries, and what an answer that is none means. */
import { setTimeout as wait } from "node:timers/promises";
import { z } from "zod";
import { aborted, BimedixError } from "../../errors.js";
import { http_fetch, network_failure } from "../../net.js";
import { endpoint, timeouts, token } from "./environment.js";
import type { Repository } from "./ids.js";

/** The hub did not answer, or not as the hub does. `status` is 0 where there was no answer. */
export class HubError extends Error {
  constructor(
    message: string,
    readonly status: number,
    /** X-Error-Code and X-Error-Message. */
    readonly code: string | null = null,
    readonly said: string | null = null,
    /** Seconds after which the hub allows another try. */
    readonly retry_after: number | null = null,
  ) {
    super(message);
  }

  /** Whether the same request may succeed a moment later. */
  get passes(): boolean {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Tries before a failure is reported; the waits between them double, from half a second. */
const TRIES = 4;
const REDIRECTS = 20;
/** What the hub's API may answer, far above what it does: bytes of a page, pages of a list, and files of a repository. */
const MAX_PAGE = 16 * 2 ** 20;
const MAX_PAGES = 1000;
const MAX_FILES = 200_000;
/** Seconds that Retry-After may ask for; a longer wait is the person's to decide. */
const PATIENCE = 60;

/**
 * Does `work` again where its failure may pass. `progress` grows where a try got further, which makes up for those before it.
 * @param once where something else can be done at once, such as to take what is in the cache
 */
export async function persist<T>(
  work: () => Promise<T>,
  { signal, once = false, progress = () => 0 }: { signal?: AbortSignal; once?: boolean; progress?: () => number },
): Promise<T> {
  let before = progress();
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (signal?.aborted) throw aborted();
      if (!(error instanceof HubError) || !error.passes || once) throw error;
      if (progress() > before) tries = 1;
      if (tries === TRIES || (error.retry_after ?? 0) > PATIENCE) throw error;
      before = progress();
      await wait(
        error.retry_after === null ? 250 * 2 ** tries : 1000 * error.retry_after,
        null,
        signal ? { signal } : {},
      );
    }
  }
}

/** An error of the disk and not of the network. */
export const is_file_error = (error: unknown): error is Error =>
  /^E(NOSPC|DQUOT|ROFS|ACCES|PERM|IO|MFILE|NFILE|FBIG|BADF|NOENT|NOTDIR|ISDIR|EXIST|NAMETOOLONG|BUSY|LOOP|STALE)$/.test(
    String((error as NodeJS.ErrnoException).code),
  );

/** A deadline that each sign of life puts off, and the caller's own signal. */
export class Deadline {
  readonly controller = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private readonly stop = () => this.controller.abort();

  constructor(
    private readonly milliseconds: number,
    private readonly signal: AbortSignal | undefined,
  ) {
    signal?.addEventListener("abort", this.stop);
    if (signal?.aborted) this.stop();
    this.put_off();
  }

  put_off(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.stop, this.milliseconds);
  }

  /** What an error means that ended the work. */
  explain(error: unknown, url: string): Error {
    if (this.signal?.aborted) return aborted();
    if (error instanceof BimedixError || error instanceof HubError) return error;
    if (is_file_error(error)) return error;
    if (this.controller.signal.aborted)
      return new HubError(`${new URL(url).host} said nothing for ${this.milliseconds / 1000} s`, 0);
    const { why, lasts } = network_failure(error, url);
    return new HubError(why, lasts ? 400 : 0);
  }

  end(): void {
    clearTimeout(this.timer);
    this.signal?.removeEventListener("abort", this.stop);
  }
}

/** The hub's own hosts, as in huggingface_hub's HF_URL_HOSTS. Files lie elsewhere, at signed addresses that must not see a token. */
const HOSTS = new Set(["huggingface.co", "hf.co", "hub-ci.huggingface.co"]);

function may_have_token(url: URL): boolean {
  const hub = new URL(endpoint());
  const upgraded = url.protocol === "https:" && url.hostname === hub.hostname && url.port === hub.port;
  return url.origin === hub.origin || upgraded || (url.protocol === "https:" && HOSTS.has(url.hostname) && !url.port);
}

/** @param url below `endpoint()`; redirects are followed, and the token goes to the hub alone @throws HubError */
export async function get(url: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
  let target = new URL(url);
  for (let hops = 0; hops <= REDIRECTS; hops++) {
    const bearer = may_have_token(target) ? token() : null;
    const response = await http_fetch(target, {
      // Compressed, a file has another length, and CDNs then ignore ranges.
      headers: {
        "accept-encoding": "identity",
        ...headers,
        ...(bearer ? { authorization: `Bearer ${bearer.value}` } : {}),
      },
      redirect: "manual",
      signal,
    });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status > 399 || !location) return response.ok ? response : refuse(response);
    await response.body?.cancel();
    const [from, to] = [target, URL.canParse(location, target) ? new URL(location, target) : null];
    if (!to || !/^https?:$/.test(to.protocol)) throw new HubError(`${from.host} redirects to ${location}`, 400);
    target = to;
  }
  throw new HubError(`${url} is redirected without end`, 508);
}

async function refuse(response: Response): Promise<never> {
  const { status, statusText, headers } = response;
  await response.body?.cancel();
  const limit = /"?;\s*r=0\s*;\s*t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1];
  const after = limit ?? /^\d+$/.exec(headers.get("retry-after")?.trim() ?? "")?.[0];
  throw new HubError(
    `it answers ${`${status} ${statusText}`.trim()}`,
    status,
    headers.get("x-error-code"),
    headers.get("x-error-message"),
    after === undefined ? null : Number(after),
  );
}

/** A JSON answer of the hub's API, and the address of its next page. @throws HubError */
async function get_json<T extends z.ZodType>(
  url: string,
  schema: T,
  signal?: AbortSignal,
): Promise<{ value: z.output<T>; next: string | null }> {
  const deadline = new Deadline(timeouts().answer, signal);
  try {
    const response = await get(url, { accept: "application/json" }, deadline.controller.signal);
    const parsed = schema.safeParse(parse(await bounded_text(response)));
    const next = /<([^>]+)>\s*;\s*rel="?next/.exec(response.headers.get("link") ?? "")?.[1] ?? null;
    if (parsed.success) return { value: parsed.data, next: next && new URL(next, url).href };
    const type = response.headers.get("content-type")?.split(";")[0] ?? "no type";
    const place = parsed.error.issues[0]!.path.map(String).join(".");
    throw new HubError(
      `${new URL(url).host} answers in ${type} and not as the hub does${place && `, at ${place}`}: a network to sign in to, or a wrong HF_ENDPOINT`,
      200,
    );
  } catch (error) {
    throw deadline.explain(error, url);
  } finally {
    deadline.end();
  }
}

async function bounded_text(response: Response): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > MAX_PAGE) throw new HubError(`it answers more than ${MAX_PAGE / 2 ** 20} MiB`, 200);
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

export interface Entry {
  path: string;
  size: number;
  /** sha256 of a file in LFS, else git's sha1: the name of its blob in the cache. */
  hash: string;
}

const api = ({ type, name }: Repository) => `${endpoint()}/api/${type}s/${name}`;
const segments = (path: string) => path.split("/").map(encodeURIComponent).join("/");

const revision_schema = z.object({ sha: z.string().regex(/^[0-9a-f]{40}$/) });
const hash_schema = z.string().regex(/^([0-9a-f]{40}|[0-9a-f]{64})$/);
const size_schema = z.int().nonnegative();
const file_schema = z.object({
  path: z.string(),
  size: size_schema,
  oid: hash_schema,
  lfs: z.object({ oid: hash_schema, size: size_schema }).nullish(),
});
const listing_schema = z
  .array(z.unknown())
  .max(MAX_FILES)
  .pipe(z.array(z.looseObject({ type: z.string(), path: z.string() })));

/** Whether a path is one that git may have: below its folder, whatever the system's separators. */
const is_below = (path: string): boolean =>
  path.length < 1024 && !/[\\\0]/.test(path) && path.split("/").every((part) => !/^\.{0,2}$/.test(part));

/** The commit that a revision stands for now. @throws HubError */
export async function commit_of(
  repository: Repository,
  options: { signal?: AbortSignal; once: boolean },
): Promise<string> {
  const url = `${api(repository)}/revision/${encodeURIComponent(repository.revision)}`;
  const { value } = await persist(() => get_json(url, revision_schema, options.signal), options);
  return value.sha;
}

/** The files of a folder at a commit, and its folders. @throws HubError */
export async function list_files(
  repository: Repository,
  commit: string,
  folder: string,
  options: { signal?: AbortSignal; once: boolean },
): Promise<{ files: Entry[]; folders: string[] }> {
  const files: Entry[] = [];
  const folders: string[] = [];
  const pages = new Set<string>();
  let url: string | null =
    `${api(repository)}/tree/${commit}${folder && `/${segments(folder)}`}?recursive=false&expand=false`;
  while (url) {
    const page: string = url;
    if (pages.has(page) || pages.size === MAX_PAGES || files.length > MAX_FILES)
      throw new HubError(`the list of ${repository.name} has no end`, 200);
    pages.add(page);
    const { value, next } = await persist(() => get_json(page, listing_schema, options.signal), options);
    for (const entry of value) {
      if (!is_below(entry.path))
        throw new HubError(`it lists ${JSON.stringify(entry.path)}, which no folder holds`, 200);
      if (entry.type === "directory") folders.push(entry.path);
      if (entry.type !== "file") continue;
      const file = file_schema.safeParse(entry);
      if (!file.success) {
        const place = file.error.issues[0]!.path.join(".");
        throw new HubError(`it lists ${JSON.stringify(entry.path)} without a good ${place}`, 200);
      }
      const { path, size, oid, lfs } = file.data;
      files.push({ path, size: lfs?.size ?? size, hash: lfs?.oid ?? oid });
    }
    url = next;
  }
  return { files, folders };
}

export const file_url = ({ type, name }: Repository, commit: string, path: string) =>
  `${endpoint()}/${type === "dataset" ? "datasets/" : ""}${name}/resolve/${commit}/${segments(path)}`;
