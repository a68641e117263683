/** `bimedix serve`: starts the server, says where it is, and ends it in good order. */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { EMBEDDED_MODEL } from "../embedded.js";
import { BimedixError } from "../errors.js";
import { read_text } from "../files.js";
import { parse_dtype } from "../model/convert.js";
import { check_key, start_server } from "../serve/index.js";
import { is_url, no_adapter, progress_bar } from "./common.js";
import { end_by, on_signals } from "./ending.js";

export interface ServeOptions {
  model?: string;
  name?: string;
  adapter?: string[];
  dtype: string;
  host: string;
  port: number;
  apiKeyFile?: string;
  allowHost?: string[];
  maxSequences: number;
  maxQueue: number;
  cachedTokens: number;
  deadline: number;
  grace: number;
  logPrompts?: boolean;
}

export async function serve(options: ServeOptions, version: string): Promise<void> {
  const { model = EMBEDDED_MODEL, host, port, deadline, grace } = options;
  if (is_url(model) && options.adapter) throw no_adapter();
  const api_keys = await keys(options.apiKeyFile);
  const server = await start_server({
    model,
    name:
      options.name ??
      (model === EMBEDDED_MODEL
        ? "bimedix-nano"
        : existsSync(model)
          ? basename(resolve(model))
          : is_url(model)
            ? new URL(model).hash.slice(1) || "remote"
            : model),
    pretrained: {
      dtype: parse_dtype(options.dtype),
      adapter: adapters(options.adapter ?? []),
      max_sequences: options.maxSequences,
      cached_tokens: options.cachedTokens,
      on_progress: progress_bar("loading"),
    },
    host,
    port,
    ...(api_keys ? { api_keys } : {}),
    allow_hosts: options.allowHost ?? [],
    max_queue: options.maxQueue,
    deadline,
    log_prompts: options.logPrompts ?? false,
    version,
  });
  let stopping = false;
  const ended = new Promise<void>((done) => {
    on_signals((signal) => {
      if (stopping) return end_by(signal);
      stopping = true;
      void server.stop(grace).then(done);
    });
  });
  try {
    await Promise.race([server.ready, ended]);
  } catch (error) {
    // Loading that a signal ended is no mistake.
    if (stopping) return ended;
    await server.stop(0);
    throw error;
  }
  if (!stopping) process.stdout.write(`${server.url}/v1 serves ${server.service.names.join(", ")}\n`);
  await ended;
  // What a reader of the log who stands still has not taken would be waited for.
  if (process.stderr.writableLength > 0) process.exit();
}

/** `NAME=DIR` by name. */
function adapters(given: readonly string[]): Record<string, string> {
  const found = new Map<string, string>();
  for (const one of given) {
    const [, name, dir] = /^([\w.-]+)=(.+)$/.exec(one) ?? [];
    const bad = (expected: string, todo: string) =>
      new BimedixError("bad_option", { given: `--adapter ${one}`, expected, todo });
    if (!name || !dir || name === "__proto__")
      throw bad("NAME=DIR", "give the adapter a name of letters, digits, . _ -");
    if (found.has(name)) throw bad(`one adapter of the name ${name}`, "give this one another name");
    found.set(name, dir);
  }
  return Object.fromEntries(found);
}

/** Keys of the file and the environment; undefined where neither is given. What is given and holds no key would open the server. */
async function keys(file: string | undefined): Promise<string[] | undefined> {
  const own = process.env.BIMEDIX_API_KEY;
  if (own !== undefined) check_key(own.trim(), "BIMEDIX_API_KEY with a key");
  const of_environment = own === undefined ? [] : [own.trim()];
  if (file === undefined) return own === undefined ? undefined : of_environment;
  const lines = (await read_text(file, "a file with an API key a line")).split("\n").map((line) => line.trim());
  const found = lines.flatMap((key, at) => {
    if (key === "" || /^#(\s|$)/.test(key)) return [];
    check_key(key, `${file}, line ${at + 1}: an API key`);
    return [key];
  });
  if (found.length > 0) return [...found, ...of_environment];
  throw new BimedixError("bad_option", {
    given: `--api-key-file ${file}, where no line has a key`,
    expected: "an API key a line",
    todo: "write one, made with: openssl rand -hex 24",
  });
}
