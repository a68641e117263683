/**
 * The one error type that a person is meant to read: a single line that says what was given, what was
 * expected and what to do. The command line prints it without a stack and exits with 1; anything else
 * that is thrown is a bug and keeps its stack.
 */
export type ErrorCode =
  | "aborted"
  | "bad_adapter"
  | "bad_checkpoint"
  | "bad_config"
  | "bad_data"
  | "bad_option"
  | "bad_recipe"
  | "bad_template"
  | "bad_tokenizer"
  | "context_length_exceeded"
  | "disk_full"
  | "disposed"
  | "empty_prompt"
  | "engine_stopped"
  | "file_not_found"
  | "file_unreadable"
  | "in_use"
  | "nan_weights"
  | "non_finite_gradients"
  | "non_finite_logits"
  | "offline"
  | "out_of_memory"
  | "server_refused"
  | "token_out_of_range"
  | "unsupported_architecture";

/** What the three parts of the message say. `given` starts the line. */
export interface ErrorParts {
  given: string;
  expected: string;
  todo: string;
}

export class BimedixError extends Error {
  override readonly name = "BimedixError";
  readonly code: ErrorCode;

  /** @param parts the three parts, or a finished line that came from another thread */
  constructor(code: ErrorCode, parts: ErrorParts | string, cause?: unknown) {
    const line = typeof parts === "string" ? parts : `${parts.given}; expected ${parts.expected}; ${parts.todo}.`;
    super(one_line(line), cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/** What a call ends with whose signal was aborted. */
export const aborted = (): BimedixError =>
  new BimedixError("aborted", {
    given: "work that was stopped",
    expected: "it to finish",
    todo: "start it again",
  });

/** An error on its way to another thread. */
export interface ErrorMessage {
  code?: ErrorCode;
  message: string;
  stack?: string;
}

export function error_message(error: unknown): ErrorMessage {
  const { message, stack = "" } = error as Error;
  return { ...(error instanceof BimedixError ? { code: error.code } : {}), message, stack };
}

export function error_from_message({ code, message, stack }: ErrorMessage): Error {
  return code ? new BimedixError(code, message) : Object.assign(new Error(message), { stack });
}

// Names in checkpoints and prompts are outside text: control characters must not break the line or the terminal.
function one_line(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are exactly what is removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]+/g, " ");
  return clean.length > 600 ? `${clean.slice(0, 599)}…` : clean;
}
