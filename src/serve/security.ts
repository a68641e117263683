/** Who may ask, and how much a request may carry. */
import { createHash, timingSafeEqual } from "node:crypto";
import { BimedixError } from "../errors.js";
import { ApiError } from "./api_error.js";

const digest = (text: string) => createHash("sha256").update(text).digest();

/** API keys, of which only hashes are kept, so that all comparisons take one time whatever is given. */
export class Keys {
  private readonly digests: readonly Buffer[];

  /** @throws BimedixError bad_option for a key that is too short to be one */
  constructor(keys: readonly string[]) {
    const short = keys.find((key) => key.length < 16 || /\s/.test(key));
    if (short !== undefined || keys.length === 0) {
      throw new BimedixError("bad_option", {
        given: keys.length === 0 ? "no API key" : `an API key of ${short!.length} characters or with spaces`,
        expected: "at least 16 characters without spaces",
        todo: "make one with: openssl rand -hex 24",
      });
    }
    this.digests = keys.map(digest);
  }

  /** @param headers all Authorization headers of a request @throws ApiError 401 */
  check(headers: readonly string[]): void {
    const own = digest(headers.length === 1 ? key_of(headers[0]!) : "");
    let found = false;
    for (const known of this.digests) found = timingSafeEqual(known, own) || found;
    if (!found) {
      throw new ApiError(401, "invalid_api_key", "An API key is needed: Authorization: Bearer KEY.", null, {
        "www-authenticate": 'Basic realm="BiMediX: any name, and the API key as the password", charset="UTF-8"',
      });
    }
  }
}

/** A program sends the key as a bearer token; a browser asks for a password and sends it with whatever the page asks. */
function key_of(header: string): string {
  const [, scheme, value = ""] = /^(Bearer|Basic) +(\S+)$/i.exec(header) ?? [];
  if (scheme?.toLowerCase() !== "basic") return value;
  const text = Buffer.from(value, "base64").toString();
  return text.includes(":") ? text.slice(text.indexOf(":") + 1) : "";
}

/** Of every answer. A page may load nothing from elsewhere, and no other site may put it into a frame. */
export const security_headers = {
  "content-security-policy":
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
} as const;

/** The JSON of a request. @throws ApiError 400, 413, 415 */
export async function read_json_body(request: Request, limit: number): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type))
    throw new ApiError(
      415,
      "unsupported_media_type",
      `The body's Content-Type is ${JSON.stringify(type.slice(0, 100))}; send it as application/json.`,
    );
  const encoding = request.headers.get("content-encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity")
    throw new ApiError(415, "unsupported_encoding", "A compressed body is not taken; send it as it is.");
  const too_large = () =>
    new ApiError(413, "body_too_large", `The body is larger than ${limit} bytes.`, null, { connection: "close" });
  if (Number(request.headers.get("content-length") ?? 0) > limit) throw too_large();
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of (request.body ?? []) as AsyncIterable<Uint8Array>) {
    size += part.length;
    if (size > limit) throw too_large();
    parts.push(part);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts));
  } catch {
    throw new ApiError(400, "invalid_utf8", "The body is not UTF-8.");
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError(400, "invalid_json", "The body is not JSON.");
  }
}
