/** What a request can end with, in OpenAI's form: `{"error": {message, type, param, code}}`. */
import { HttpError } from "../engine/http.js";
import { BimedixError, type ErrorCode } from "../errors.js";

export type ErrorStatus = 400 | 401 | 403 | 404 | 405 | 408 | 413 | 415 | 422 | 429 | 500 | 502 | 503 | 504;

const types: Partial<Record<ErrorStatus, string>> = {
  401: "authentication_error",
  403: "permission_error",
  429: "rate_limit_error",
  500: "server_error",
  502: "server_error",
  503: "server_error",
  504: "server_error",
};

export class ApiError extends Error {
  constructor(
    readonly status: ErrorStatus,
    readonly code: string,
    message: string,
    readonly param: string | null = null,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message);
  }

  get body(): { error: { message: string; type: string; param: string | null; code: string } } {
    const { message, status, param, code } = this;
    return { error: { message, type: types[status] ?? "invalid_request_error", param, code } };
  }
}

/** Mistakes of the request, by their codes; all others are the server's. */
const of_the_request: readonly ErrorCode[] = [
  "bad_option",
  "bad_template",
  "context_length_exceeded",
  "empty_prompt",
  "token_out_of_range",
];

/** Another server's refusals that are about the request, or pass with time; its others are about this server. */
const passed_on = [400, 413, 422, 429] as const;

/** What another server's words may hold of the request goes to the client, and not into the log. */
function of_another_server({ url, status, body, retry_after }: HttpError, report: (error: unknown) => void): ApiError {
  const own = passed_on.find((one) => one === status);
  if (own === undefined) {
    report(new Error(`${new URL(url).host} answered ${status}`));
    return new ApiError(502, "server_refused", `The model's server answered ${status}.`);
  }
  const { message, code, type, param } = error_in(body);
  return new ApiError(
    own,
    first(code, type, "server_refused"),
    one_line(first(message, `The model's server answered ${status}.`)),
    typeof param === "string" ? param : null,
    retry_after === null ? {} : { "retry-after": retry_after },
  );
}

const first = (...values: unknown[]) => values.find((value) => typeof value === "string" && value !== "") as string;
const one_line = (text: string) => text.replace(/\s+/g, " ").slice(0, 600);

/** What another server says within a stream, or in place of an answer with status 200. */
export function of_the_stream(error: unknown): ApiError {
  const { message, code, type } = (typeof error === "string" ? { message: error } : error) as Record<string, unknown>;
  return new ApiError(502, first(code, type, "server_refused"), one_line(first(message, "The model's server failed.")));
}

/** OpenAI's `{"error": {…}}`; the same without a frame, as older vLLM has it; or a text in the frame, as Ollama's. */
function error_in(body: string): Partial<Record<"message" | "code" | "type" | "param", unknown>> {
  try {
    const { error, ...unframed } = JSON.parse(body) as { error?: unknown };
    return typeof error === "string" ? { message: error } : (error ?? unframed);
  } catch {
    return {};
  }
}

/** @param report is told of errors that are mistakes of this program, whose text a client does not see */
export function to_api_error(error: unknown, report: (error: unknown) => void): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof HttpError) return of_another_server(error, report);
  if (error instanceof BimedixError) {
    if (of_the_request.includes(error.code)) return new ApiError(400, error.code, error.message);
    // Its client has left and hears nothing of it.
    if (error.code === "aborted") return new ApiError(503, error.code, error.message);
    report(error);
    if (error.code === "server_refused") return new ApiError(502, error.code, error.message);
    const again = error.code === "engine_stopped";
    return new ApiError(again ? 503 : 500, error.code, error.message, null, again ? { "retry-after": "5" } : {});
  }
  report(error);
  return new ApiError(500, "internal_error", "The server made a mistake; its log says more.");
}
