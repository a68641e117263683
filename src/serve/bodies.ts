/** What requests carry: read and parsed within limits that hold before the work is done, for one body and for all together. */
import { aborted } from "../errors.js";
import { ApiError } from "./api_error.js";
import { turn } from "./turns.js";

/** Bodies of this many bytes take turns: parsing two megabytes takes some tens of milliseconds. */
const LARGE = 2 ** 15;

/** So many of the largest bodies may be here at one time. */
const AT_ONCE = 32;

/** Lists and objects in each other. */
const MAX_DEPTH = 64;
/** Lists and objects, and as many names of fields: 20,000 different names cost JSON.parse what two megabytes of text do ten times. */
const MAX_PARTS = 2 ** 15;

export class Bodies {
  private held = 0;

  /** @param limit bytes of one body */
  constructor(private readonly limit: number) {}

  /**
   * The JSON of a request. Its bytes count among those of all until `on_end` calls back: what was parsed of it lives as long.
   *
   * @throws ApiError 400, 413, 415; 503 where too much is here already, which is seen before it is read
   * @throws BimedixError aborted when the client leaves before it is whole
   */
  async read(request: Request, on_end: (release: () => void) => void): Promise<unknown> {
    check_type(request.headers);
    const announced = Number(request.headers.get("content-length") ?? 0);
    if (announced > this.limit) throw this.too_large();
    this.check_room(announced);
    let size = 0;
    on_end(() => {
      this.held -= size;
      size = 0;
    });
    const parts: Uint8Array[] = [];
    for await (const part of chunks(request)) {
      size += part.length;
      this.held += part.length;
      if (size > this.limit) throw this.too_large();
      this.check_room(0);
      parts.push(part);
    }
    return parse(Buffer.concat(parts), this.limit / 4);
  }

  private check_room(more: number): void {
    if (this.held + more <= AT_ONCE * this.limit) return;
    throw new ApiError(503, "overloaded", "Too many large requests are here at once; try again later.", null, {
      "retry-after": "2",
    });
  }

  private too_large(): ApiError {
    const message = `The body is larger than ${this.limit} bytes.`;
    return new ApiError(413, "body_too_large", message, null, { connection: "close" });
  }
}

function check_type(headers: Headers): void {
  const type = headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type))
    throw new ApiError(
      415,
      "unsupported_media_type",
      `The body's Content-Type is ${JSON.stringify(type.slice(0, 100))}; send it as application/json.`,
    );
  const encoding = headers.get("content-encoding") ?? "identity";
  if (encoding.toLowerCase() !== "identity")
    throw new ApiError(415, "unsupported_encoding", "A compressed body is not taken; send it as it is.");
}

/** That a body breaks off is its client's doing and no mistake of the server. */
async function* chunks({ body }: Request): AsyncGenerator<Uint8Array> {
  const reader = body?.getReader();
  for (;;) {
    const read = await reader?.read().catch(() => {
      throw aborted();
    });
    if (!read || read.done) return;
    yield read.value as Uint8Array;
  }
}

async function parse(bytes: Buffer, max_values: number): Promise<unknown> {
  const step = async () => {
    if (bytes.length > LARGE) await turn();
  };
  await step();
  check_structure(bytes, max_values);
  await step();
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ApiError(400, "invalid_utf8", "The body is not UTF-8.");
  }
  await step();
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new ApiError(400, "invalid_json", "The body is not JSON.");
  }
  await step();
  return json;
}

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a];
/** `[` and `{`, `]` and `}` differ by this bit alone. */
const CURLY = 0x20;
const [OPEN, CLOSE] = [0x5b, 0x5d];

/** What JSON.parse would take a second for, and megabytes of objects, is refused by its punctuation. */
function check_structure(bytes: Buffer, max_values: number): void {
  const refuse = (what: string) => {
    throw new ApiError(400, "body_too_complex", `The body has more than ${what}.`);
  };
  let [depth, parts, names, values] = [0, 0, 0, 1];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!;
    if (byte === QUOTE) {
      at = end_of_text(bytes, at);
      continue;
    }
    if (byte === COMMA) values++;
    else if (byte === COLON) names++;
    else if ((byte & ~CURLY) === OPEN) {
      depth++;
      parts++;
    } else if ((byte & ~CURLY) === CLOSE) depth--;
    else continue;
    if (depth > MAX_DEPTH) refuse(`${MAX_DEPTH} lists and objects in each other`);
    if (parts > MAX_PARTS || names > MAX_PARTS) refuse(`${MAX_PARTS} lists, objects or fields`);
    if (values > max_values) refuse(`${max_values} values`);
  }
}

/** Where a text that begins at `at` has its last quote. */
function end_of_text(bytes: Buffer, at: number): number {
  for (let end = bytes.indexOf(QUOTE, at + 1); end >= 0; end = bytes.indexOf(QUOTE, end + 1)) {
    let before = end - 1;
    while (bytes[before] === BACKSLASH) before--;
    if ((end - before) % 2 === 1) return end;
  }
  return bytes.length;
}
