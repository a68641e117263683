/** Log-probabilities of an answer's tokens, in the two forms of OpenAI's API. */
import type { TokenLogprob } from "../engine/engine.js";
import type { Tokenizer } from "../text/tokenizer.js";

/** A token with its log-probability; null for a prompt's first, which nothing precedes. */
export interface LoggedToken {
  token_id: number;
  logprob: number | null;
  top: readonly TokenLogprob[];
  /** Code points of the answer before it. */
  offset: number;
  /** What of the answer's bytes it wrote. */
  bytes: Uint8Array;
  /** A space that begins it is not in the text. */
  stripped?: boolean;
}

/** Characters that end before a byte. */
function characters_before(text: Uint8Array, at: number): number {
  const begins = (byte: number | undefined) => byte === undefined || (byte & 0xc0) !== 0x80;
  const begun = text.subarray(0, at).filter(begins).length;
  return begins(text[at]) ? begun : begun - 1;
}

export function code_points(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/**
 * Which bytes of a text each token wrote, so that the tokens' bytes are the text's: without the space that a tokenizer puts in front, a
 * character's bytes with the tokens that it came from, and nothing of what a stop text cuts off.
 */
export class TokenBytes {
  /** Tokens whose text is not all shown. */
  private waiting: LoggedToken[] = [];
  /** Tokens since the last text, and their bytes that are no text yet. */
  private open: LoggedToken[] = [];
  private rest: Buffer = Buffer.alloc(0);
  private given = 0;

  /** @param points code points of the answer before these tokens */
  constructor(private points = 0) {}

  /** Sets the token's offset. @param decoded the text that is complete with this token, of which `token.bytes` may be a part */
  push(token: LoggedToken, decoded: string): void {
    token.offset = this.points;
    this.waiting.push(token);
    this.open.push(token);
    this.rest = Buffer.concat([this.rest, token.bytes]);
    this.place(decoded);
  }

  /** Says which of the open tokens wrote a text: characters of several tokens are complete with a later one, or at the end. */
  place(decoded: string): void {
    if (decoded === "") return;
    const text = Buffer.from(decoded);
    // It is not there where bytes that are no character became one that says so.
    const at = this.rest.indexOf(text);
    // What a prompt's last tokens left open comes before these.
    let start = at < 0 && text.subarray(-this.rest.length).equals(this.rest) ? text.length - this.rest.length : 0;
    for (let left = at, i = 0; left > 0 && i < this.open.length; i++) {
      const one = this.open[i]!;
      const cut = Math.min(left, one.bytes.length);
      one.bytes = one.bytes.subarray(cut);
      one.stripped = true;
      left -= cut;
    }
    for (const one of at >= 0 || start > 0 ? this.open : []) {
      one.offset = this.points + characters_before(text, start);
      start += one.bytes.length;
    }
    this.points += code_points(decoded);
    this.rest = at < 0 ? Buffer.alloc(0) : this.rest.subarray(at + text.length);
    this.open = [];
  }

  /** The tokens that are whole within so many bytes of text from the beginning. */
  take(shown: number): LoggedToken[] {
    const from = this.waiting.findIndex((token) => {
      if (this.given + token.bytes.length > shown) return true;
      this.given += token.bytes.length;
      return false;
    });
    return this.waiting.splice(0, from < 0 ? this.waiting.length : from);
  }

  /** The same at the end of a text that a stop text cut off: the token that it cuts is cut too. */
  cut(shown: number): LoggedToken[] {
    const whole = this.take(shown);
    const [next] = this.waiting;
    const left = shown - this.given;
    return next && left > 0 ? [...whole, { ...next, bytes: next.bytes.subarray(0, left) }] : whole;
  }

  /** All that are left. */
  end(): LoggedToken[] {
    return this.waiting.splice(0);
  }
}

/** Rows that round a vocabulary up to an even number stand for no text. */
const text_of = (id: number, tokenizer: Tokenizer) => (id < tokenizer.vocab_size ? tokenizer.id_to_text(id) : "");

export const bytes_of = (id: number, tokenizer: Tokenizer): Uint8Array =>
  id < tokenizer.vocab_size ? tokenizer.id_to_bytes(id) : new Uint8Array();

/** The likeliest, and the token itself where it is none of them. */
const with_own = ({ token_id, logprob, top }: LoggedToken): readonly TokenLogprob[] =>
  logprob === null || top.some((one) => one.token_id === token_id) ? top : [...top, { token_id, logprob }];

/** An entry of a chat's `logprobs.content`. @param count of the likeliest; 0 gives none, as in OpenAI's API */
export function chat_logprob(token: LoggedToken, count: number, tokenizer: Tokenizer) {
  const entry = (id: number, logprob: number | null, bytes: Uint8Array) => {
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const readable = bytes.length > 0 && !text.includes("\ufffd");
    return { token: readable ? text : text_of(id, tokenizer), logprob, bytes: [...bytes] };
  };
  const other = (id: number) => {
    const bytes = bytes_of(id, tokenizer);
    return token.stripped && bytes[0] === 0x20 ? bytes.subarray(1) : bytes;
  };
  const top_logprobs = (count > 0 ? with_own(token) : []).map(({ token_id, logprob }) =>
    entry(token_id, logprob, token_id === token.token_id ? token.bytes : other(token_id)),
  );
  return { ...entry(token.token_id, token.logprob, token.bytes), top_logprobs };
}

/** A completion's `logprobs`. Of tokens with the same text the likeliest stands for all. */
export function text_logprobs(tokens: readonly LoggedToken[], tokenizer: Tokenizer) {
  const by_text = (token: LoggedToken) => {
    const found: Record<string, number> = {};
    for (const { token_id, logprob } of with_own(token)) found[text_of(token_id, tokenizer)] ??= logprob;
    return found;
  };
  return {
    tokens: tokens.map(({ token_id }) => text_of(token_id, tokenizer)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map((token) => (token.logprob === null ? null : by_text(token))),
    text_offset: tokens.map(({ offset }) => offset),
  };
}
