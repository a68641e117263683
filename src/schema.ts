/** The program's own JSON files, each with one schema: JSON of the right syntax and the wrong shape is as damaged as any other. */
import type { z } from "zod";
import { BimedixError, type ErrorCode } from "./errors.js";
import { read_json } from "./files.js";

/** A value as its schema has it. @throws BimedixError `code`, which names the place in the value and what was expected there */
export function check_shape<T extends z.ZodType>(
  value: unknown,
  schema: T,
  { name, code, todo }: { name: string; code: ErrorCode; todo: string },
): z.output<T> {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = issue!.path.map(String).join(".");
  throw new BimedixError(code, {
    given: `${name}${place && `, at ${place}`}: ${issue!.message.replace(/^Invalid input: expected /, "not ")}`,
    expected: "what this program writes there",
    todo,
  });
}

/** A JSON file as its schema has it. @throws BimedixError `code`; file_not_found, file_unreadable */
export async function read_schema<T extends z.ZodType>(
  file: string,
  schema: T,
  code: ErrorCode,
  todo: string,
): Promise<z.output<T>> {
  return check_shape(await read_json(file, code), schema, { name: file, code, todo });
}
