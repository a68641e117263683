/** Names of repositories and revisions, checked before anything is asked of the hub. */
import { readdirSync } from "node:fs";
import { dirname } from "node:path";
import { BimedixError } from "../../errors.js";

export interface Repository {
  type: "model" | "dataset";
  /** `owner/name`, or `name` alone. */
  name: string;
  /** Branch, tag, commit or `refs/pr/N`. */
  revision: string;
}

/**
 * `owner/name` or `owner/name@revision`, by the rules of huggingface_hub's `validate_repo_id`.
 * @throws BimedixError file_not_found for the path of a directory that is not there, and for what is no id; bad_option
 */
export function parse_id(text: string, kind: string, revision?: string): Repository {
  const [, page] = /^https?:\/\/[^/]+\/([\w.-]+\/[\w.-]+)/i.exec(text) ?? [];
  if (page || /^[a-z]+:\/\//i.test(text))
    throw not_found(`${kind} ${text}, which is a URL`, page ? `pass ${page}` : "pass a directory or a hub id");
  if (/^([./~]|[a-z]:[\\/])|\\|\/$/i.test(text)) {
    const todo = text.startsWith("~") ? "~ is the shell's: write the whole path" : "check the path";
    throw not_found(`the directory ${text} does not exist`, todo);
  }
  const at = text.indexOf("@");
  const name = at < 0 ? text : text.slice(0, at);
  const fault = id_fault(name);
  if (fault)
    throw not_found(`${kind} ${JSON.stringify(text)} is no directory here, and no hub id: ${fault}`, "check the name");
  const own = at < 0 ? undefined : text.slice(at + 1);
  if (own !== undefined && revision !== undefined && own !== revision)
    throw new BimedixError("bad_option", {
      given: `${text} and the revision ${revision}`,
      expected: "one revision",
      todo: "leave one of them out",
    });
  return { type: "model", name, revision: check_revision(own ?? revision ?? "main") };
}

function id_fault(name: string): string | null {
  const parts = name.split("/");
  if (parts.length > 2) return "it has more than one /";
  if (!parts.every((part) => /^\w([\w.-]{0,94}\w)?$/.test(part)))
    return "its parts are 1 to 96 letters, digits, - _ or . and neither begin nor end with - or .";
  if (/--|\.\./.test(name)) return "-- and .. are not allowed";
  return name.endsWith(".git") ? "it ends in .git" : null;
}

/** Git's own rules for names: what breaks them exists nowhere, and might lead out of the cache. */
export function check_revision(revision: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: git forbids them
  if (revision && !/[\x00-\x20\x7f~^:?*[\\]|\.\.|@\{|\/\/|^[/.-]|\/\.|[/.]$|\.lock$/.test(revision)) return revision;
  throw new BimedixError("bad_option", {
    given: `the revision ${JSON.stringify(revision)}`,
    expected: "a branch, a tag, a commit or refs/pr/N",
    todo: "check it",
  });
}

const not_found = (given: string, todo: string) =>
  new BimedixError("file_not_found", {
    given,
    expected: "an existing directory, or a hub id such as BiMediX/BiMediX-Bi",
    todo,
  });

/** What a name that might have been meant as a path is here: nothing, but its folder may hold something like it. */
export function no_directory(name: string): string {
  const folder = dirname(name);
  const held = folder === "." ? [] : list(folder);
  return held.length === 0 ? "no directory here" : `no directory here (${folder} holds ${held.slice(0, 8).join(", ")})`;
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
