/** Where a tokenizer's chat templates stand, in the order of transformers. */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { file_error, read_text } from "../files.js";

/** One template, or several by name (`default`, `tool_use`, `rag` …). */
export type ChatTemplates = string | Readonly<Record<string, string>> | null;

/**
 * `chat_template.jinja` is the default and the files of `additional_chat_templates/` have their own names; where there is any of
 * them, `chat_template` of tokenizer_config.json (a text, or a list of named ones) counts for nothing.
 *
 * @param configured what tokenizer_config.json has
 * @throws BimedixError bad_tokenizer, file_unreadable
 */
export async function read_templates(dir: string, configured: unknown): Promise<ChatTemplates> {
  const named: Record<string, string> = {};
  const single = await missing_is_null(read_text(join(dir, "chat_template.jinja"), "a template"));
  if (single !== null) named.default = single;
  const folder = join(dir, "additional_chat_templates");
  const files =
    (await missing_is_null(readdir(folder).catch((error) => Promise.reject(file_error(error, folder, "a folder"))))) ??
    [];
  for (const file of files.filter((file) => file.endsWith(".jinja")).sort())
    named[file.slice(0, -".jinja".length)] = await read_text(join(folder, file), "a template");
  const names = Object.keys(named);
  if (names.length > 0) return names.length === 1 && single !== null ? single : named;
  if (configured === undefined || configured === null || typeof configured === "string") return configured ?? null;
  const pairs: unknown[][] = Array.isArray(configured)
    ? configured.map((one: { name?: unknown; template?: unknown } | null) => [one?.name, one?.template])
    : typeof configured === "object"
      ? Object.entries(configured)
      : [[]];
  if (pairs.every((pair): pair is [string, string] => typeof pair[0] === "string" && typeof pair[1] === "string"))
    return Object.fromEntries(pairs);
  throw new BimedixError("bad_tokenizer", {
    given: `${join(dir, "tokenizer_config.json")}: a chat_template that is neither a text nor a list of names and templates`,
    expected: "a Jinja template",
    todo: "download the file again",
  });
}

async function missing_is_null<T>(reading: Promise<T>): Promise<T | null> {
  try {
    return await reading;
  } catch (error) {
    if (error instanceof BimedixError && error.code === "file_not_found") return null;
    throw error;
  }
}
