/**
 * The program's own files as values that can be trusted: JSON of the right syntax is not yet of the right shape, and of the right shape
 * not yet what was written.
 */
import { createHash } from "node:crypto";
import type { z } from "zod";
import { BimedixError, type ErrorCode } from "./errors.js";

export interface Blame {
  /** The file, and the line where it has lines. */
  where: string;
  code: ErrorCode;
  expected: string;
  todo: string;
}

/** A value as it was read, once it has the shape of `schema`. @throws BimedixError that names the place of the first field that has not */
export function shaped<T>(schema: z.ZodType, value: unknown, { where, code, expected, todo }: Blame): T {
  const issue = schema.safeParse(value).error?.issues[0];
  if (issue === undefined) return value as T;
  const at = issue.path.length > 0 ? `${issue.path.join(".")}: ` : "";
  const given = `${where}: ${at}${issue.message.replace(/^Invalid input: /, "")}`;
  throw new BimedixError(code, { given, expected, todo });
}

const checksum = (value: object): string => createHash("sha256").update(JSON.stringify(value)).digest("hex");

/** A value with a checksum of its JSON, as the field `sha256`. */
export const sealed = (value: object): object => ({ ...value, sha256: checksum(value) });

/** The value without its checksum, which must be right; what earlier versions wrote has none. */
export function unsealed(value: unknown, { where, code, expected, todo }: Blame): unknown {
  if (typeof value !== "object" || value === null || !("sha256" in value)) return value;
  const { sha256, ...rest } = value;
  if (sha256 === checksum(rest)) return rest;
  throw new BimedixError(code, { given: `${where}: not what its checksum says`, expected, todo });
}
