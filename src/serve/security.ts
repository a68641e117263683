/** Who may ask, and under which name. */
import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { isIPv6 } from "node:net";
import { BimedixError } from "../errors.js";
import { ApiError } from "./api_error.js";

const digest = (text: string) => createHash("sha256").update(text).digest();

/** API keys, of which only hashes are kept, so that all comparisons take one time whatever is given. */
export class Keys {
  private readonly digests: readonly Buffer[];

  /** @throws BimedixError bad_option for a key that is too short, or that no header can carry; or for none */
  constructor(keys: readonly string[]) {
    if (keys.length === 0) throw unusable_key("no API key");
    for (const key of keys) check_key(key, "an API key");
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

const unusable_key = (given: string) =>
  new BimedixError("bad_option", {
    given,
    expected: "at least 16 of the letters, digits and signs of ASCII, without spaces, as a header carries them",
    todo: "make one with: openssl rand -hex 24",
  });

/** @param what names it, without its text @throws BimedixError bad_option */
export function check_key(key: string, what: string): void {
  if (/^[!-~]{16,}$/.test(key)) return;
  const why = key.length < 16 ? `of ${key.length} characters` : "with spaces or characters beyond ASCII";
  throw unusable_key(`${what} ${why}`);
}

/** A program sends the key as a bearer token; a browser asks for a password and sends it with whatever the page asks. */
function key_of(header: string): string {
  const [, scheme, value = ""] = /^(Bearer|Basic) +(\S+)$/i.exec(header) ?? [];
  if (scheme?.toLowerCase() !== "basic") return value;
  const text = Buffer.from(value, "base64").toString();
  return text.includes(":") ? text.slice(text.indexOf(":") + 1) : "";
}

/** The Host header of each request, as it came: the library that makes URLs of requests refuses hosts that are legal. */
const hosts_given = new WeakMap<IncomingMessage, string | undefined>();

export function keep_host(incoming: IncomingMessage): void {
  hosts_given.set(incoming, incoming.headers.host);
  incoming.headers.host = "localhost";
}

/**
 * The name in a Host header, in the one form that a URL gives it: without port, trailing dot and zone, `[::ffff:127.0.0.1]` as
 * `[::ffff:7f00:1]`. null where it is none.
 */
function canonical_host(host: string): string | null {
  const [, name] = /^(\[[^\s\]]+\]|[^\s:/?#@\\[\]]+)(?::\d*)?$/.exec(host) ?? [];
  const url = `http://${name?.replace(/%.*\]$/, "]").replace(/\.$/, "")}`;
  return name !== undefined && URL.canParse(url) ? new URL(url).hostname : null;
}

const in_brackets = (host: string) => (isIPv6(host) ? `[${host}]` : host);

/** Whether nobody else's machine can reach an address. */
export const is_loopback = (host: string): boolean =>
  /^(localhost|127(\.\d+){3}|\[::1\]|\[::ffff:7f[0-9a-f]{2}:.*\])$/.test(canonical_host(in_brackets(host)) ?? "");

/** The names under which a server may be addressed: a page elsewhere that makes its own name point here (DNS rebinding) is not answered. */
export class Hosts {
  private readonly names: ReadonlySet<string>;

  /** @param names hosts beside this machine's own; `*` allows all @throws BimedixError bad_option for what is none */
  constructor(names: readonly string[]) {
    const own = names.map((name) => {
      const host = name === "*" ? name : canonical_host(in_brackets(name));
      if (host !== null) return host;
      throw new BimedixError("bad_option", {
        given: `the host ${JSON.stringify(name)}`,
        expected: "a name or an address, such as ward.example.org or ::1",
        todo: "correct it",
      });
    });
    this.names = new Set(["localhost", "127.0.0.1", "[::1]", ...own]);
  }

  /** @throws ApiError 400, 403 */
  check(incoming: IncomingMessage): void {
    const given = hosts_given.get(incoming) ?? "";
    const host = canonical_host(given);
    const shown = JSON.stringify(given.slice(0, 100));
    if (host === null) throw new ApiError(400, "bad_host", `The Host header ${shown} names no host.`);
    if (this.names.has(host) || this.names.has("*")) return;
    const message = `The host ${shown} is not allowed here; start the server with --allow-host NAME.`;
    throw new ApiError(403, "host_not_allowed", message);
  }
}

/** Of every answer. A page may load nothing from elsewhere, and no other site may put it into a frame. */
export const security_headers = {
  "content-security-policy":
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
} as const;
