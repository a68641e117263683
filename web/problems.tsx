/** What can go wrong, and what a reader is told of it: a text in the page's language, and the server's own words as a detail. */
import type { JSX } from "preact";
import type { Texts } from "./texts.js";

export type Kind = keyof Texts["problems"];

export interface Problem {
  kind: Kind;
  /** The server's words, in the server's language. */
  detail?: string;
}

/** The server's error codes. One that is not here is told by its status. */
const kinds: Record<string, Kind> = {
  aborted: "stopped",
  bad_adapter: "server",
  bad_checkpoint: "server",
  bad_config: "server",
  bad_data: "server",
  bad_host: "host",
  bad_option: "request",
  bad_recipe: "server",
  bad_request: "request",
  bad_template: "request",
  bad_tokenizer: "server",
  body_too_complex: "request",
  body_too_large: "too_long",
  context_length_exceeded: "too_long",
  deadline_exceeded: "deadline",
  disk_full: "server",
  disposed: "starting",
  empty_prompt: "empty",
  engine_stopped: "starting",
  exceed_context_size_error: "too_long",
  file_not_found: "server",
  file_unreadable: "server",
  host_not_allowed: "host",
  in_use: "server",
  internal_error: "server",
  invalid_api_key: "key",
  invalid_body: "request",
  invalid_json: "request",
  invalid_utf8: "request",
  invalid_value: "request",
  loading: "starting",
  method_not_allowed: "request",
  model_not_found: "model",
  nan_weights: "server",
  non_finite_gradients: "server",
  non_finite_logits: "server",
  not_found: "request",
  not_supported: "elsewhere",
  offline: "server",
  out_of_memory: "server",
  overloaded: "busy",
  queue_full: "busy",
  server_refused: "upstream",
  stopping: "starting",
  token_out_of_range: "request",
  unknown_field: "request",
  unsupported_architecture: "server",
  unsupported_encoding: "request",
  unsupported_media_type: "request",
};

const kind_of_status = (status: number): Kind =>
  status === 401 ? "key" : status === 413 ? "too_long" : status === 429 ? "busy" : status < 500 ? "request" : "server";

/** Something that a reader is to be told of. */
export class PageError extends Error {
  readonly problem: Problem;

  constructor(kind: Kind, detail = "") {
    super(detail || kind);
    this.problem = { kind, ...(detail ? { detail } : {}) };
  }
}

/** The error of an answer or of an event in a stream; what stands between may answer with anything, or with nothing. */
export function server_error(body: unknown, status: number): PageError {
  const { error } = (typeof body === "object" && body !== null ? body : {}) as { error?: unknown };
  const { code, type, message } = (typeof error === "object" && error !== null ? error : {}) as Record<string, unknown>;
  const known = [code, type].find((one) => typeof one === "string" && Object.hasOwn(kinds, one)) as string | undefined;
  const text = typeof message === "string" ? message : typeof error === "string" ? error : "";
  // vLLM says only in words that a conversation is too long.
  const kind = /context (length|size|window)/i.test(text) ? "too_long" : known ? kinds[known]! : kind_of_status(status);
  return new PageError(kind, text || `HTTP ${status}`);
}

export const problem_of = (error: unknown): Problem =>
  error instanceof PageError ? error.problem : { kind: "other", detail: String((error as Error)?.message ?? error) };

export function ProblemView({
  problem: { kind, detail },
  texts,
  alert = false,
}: {
  problem: Problem;
  texts: Texts;
  alert?: boolean;
}): JSX.Element {
  return (
    <div class={kind === "length" ? "note" : "problem"} role={alert ? "alert" : undefined}>
      <p>{texts.problems[kind]}</p>
      {detail && (
        <details>
          <summary>{texts.detail}</summary>
          <p dir="auto">{detail}</p>
        </details>
      )}
    </div>
  );
}
