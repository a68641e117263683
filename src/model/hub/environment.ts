/**
 * The environment variables of huggingface_hub, read at each call and as it reads them; one that is set to nothing counts as unset.
 * https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
 */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { BimedixError } from "../../errors.js";
import { home_folder } from "../../files.js";

const value_of = (name: string): string | undefined => process.env[name]?.trim() || undefined;
const is_true = (value: string | undefined): boolean => /^(1|on|yes|true)$/i.test(value ?? "");

/** Without a slash at the end. @throws BimedixError bad_option */
export function endpoint(): string {
  const given = value_of("HF_ENDPOINT") ?? "https://huggingface.co";
  if (/^https?:\/\/[^/?#\s]+[^?#\s]*$/.test(given)) return given.replace(/\/+$/, "");
  throw new BimedixError("bad_option", {
    given: `HF_ENDPOINT=${given}`,
    expected: "a URL such as https://huggingface.co",
    todo: "set it to one, or unset it",
  });
}

function home(): string {
  return expand(
    value_of("HF_HOME") ?? join(value_of("XDG_CACHE_HOME") ?? join(home_folder(), ".cache"), "huggingface"),
  );
}

/** The folder that holds a folder for each repository. */
export function cache_dir(): string {
  return resolve(expand(value_of("HF_HUB_CACHE") ?? value_of("HUGGINGFACE_HUB_CACHE") ?? join(home(), "hub")));
}

/** `~`, `$NAME` and `${NAME}`, as os.path.expanduser and expandvars do. */
function expand(path: string): string {
  return path
    .replace(/^~(?=[/\\]|$)/, () => home_folder())
    .replace(/\$(\w+|\{[^}]*\})/g, (all, name: string) => process.env[name.replace(/^\{|\}$/g, "")] ?? all);
}

/** The variable that decides: HF_HUB_OFFLINE, else TRANSFORMERS_OFFLINE; of data sets HF_DATASETS_OFFLINE before both. */
export function offline_by(type: "model" | "dataset"): string {
  if (type === "dataset" && process.env.HF_DATASETS_OFFLINE !== undefined) return "HF_DATASETS_OFFLINE";
  return process.env.HF_HUB_OFFLINE ? "HF_HUB_OFFLINE" : "TRANSFORMERS_OFFLINE";
}

export const is_offline = (type: "model" | "dataset"): boolean => is_true(process.env[offline_by(type)]);

export interface Token {
  value: string;
  /** Where it was found, for errors; the token itself is in none. */
  source: string;
}

/** HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or what `hf auth login` stored. @throws BimedixError bad_option */
export function token(): Token | null {
  if (is_true(process.env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return null;
  const name = process.env.HF_TOKEN ? "HF_TOKEN" : "HUGGING_FACE_HUB_TOKEN";
  const file = expand(value_of("HF_TOKEN_PATH") ?? join(home(), "token"));
  const found = { value: clean(process.env[name]), source: name };
  if (!found.value) Object.assign(found, { value: clean(read(file)), source: file });
  if (!found.value) return null;
  if (/^[\x21-\x7e]+$/.test(found.value)) return found;
  throw new BimedixError("bad_option", {
    given: `the token in ${found.source} has characters that no token has`,
    expected: "hf_ and letters",
    todo: "copy it again from https://huggingface.co/settings/tokens",
  });
}

const clean = (text = ""): string => text.replace(/[\r\n]/g, "").trim();

/** Another user's token file in a shared HF_HOME may not be read, and is then no token of ours. */
function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Milliseconds without an answer, and without further bytes of a file. @throws BimedixError bad_option */
export const timeouts = () => ({
  answer: 1000 * seconds("HF_HUB_ETAG_TIMEOUT"),
  bytes: 1000 * seconds("HF_HUB_DOWNLOAD_TIMEOUT"),
});

function seconds(name: string): number {
  const text = value_of(name) ?? "10";
  if (/^\d+$/.test(text)) return Math.min(Number(text) || 10, 1e6);
  throw new BimedixError("bad_option", { given: `${name}=${text}`, expected: "whole seconds", todo: "correct it" });
}
