/** `bimedix serve`: starts the server, says where it is, and ends it in good order. */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { EMBEDDED_MODEL } from "../embedded.js";
import { BimedixError } from "../errors.js";
import { read_text } from "../files.js";
import { parse_dtype } from "../model/convert.js";
import { start_server } from "../serve/index.js";
import { is_url, no_adapter, progress_bar } from "./common.js";

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
  for (const [name, least] of Object.entries({ port: 0, maxSequences: 1, maxQueue: 0, cachedTokens: 0 })) {
    const value = options[name as "port"];
    if (!Number.isSafeInteger(value) || value < least) throw bad_number(name, value, `an integer from ${least}`);
  }
  for (const [name, value] of Object.entries({ deadline, grace }))
    if (!(value > 0 && value < 1e6)) throw bad_number(name, value, "seconds above 0");
  if (is_url(model) && options.adapter) throw no_adapter();
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
    api_keys: await keys(options.apiKeyFile),
    allow_hosts: options.allowHost ?? [],
    max_queue: options.maxQueue,
    deadline,
    log_prompts: options.logPrompts ?? false,
    version,
  });
  // Who reads no more of what is printed here does not end the server.
  process.stdout.on("error", () => {});
  let stopping = false;
  const ended = new Promise<void>((done) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const)
      process.on(signal, () => {
        if (stopping) process.exit(1);
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
}

/** `NAME=DIR` by name. */
function adapters(given: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    given.map((one) => {
      const [, name, dir] = /^([\w.-]+)=(.+)$/.exec(one) ?? [];
      if (!name || !dir) {
        throw new BimedixError("bad_option", {
          given: `--adapter ${one}`,
          expected: "NAME=DIR",
          todo: "give the adapter a name of letters, digits, . _ -",
        });
      }
      return [name, dir];
    }),
  );
}

async function keys(file: string | undefined): Promise<string[]> {
  const lines = file === undefined ? [] : (await read_text(file, "a file with an API key a line")).split("\n");
  return [...lines, process.env.BIMEDIX_API_KEY ?? ""].map((line) => line.trim()).filter(Boolean);
}

const bad_number = (name: string, value: number, expected: string) =>
  new BimedixError("bad_option", {
    given: `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} ${value}`,
    expected,
    todo: "change it",
  });
