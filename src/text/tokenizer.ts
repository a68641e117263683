/** The tokenizer of a model directory, in Hugging Face's conventions. */
import { BimedixError } from "../errors.js";
import { type AddedToken, AddedTokens } from "./added_tokens.js";
import { align } from "./alignment.js";
import {
  type ApplyOptions,
  apply_chat_template,
  type ChatBatch,
  type ChatEncoding,
  type ConversationOptions,
  choose_template,
  encode_conversation,
  type TokenSpans,
} from "./apply_chat_template.js";
import { type Encoded, type EncodeOptions, encode_batch, fit_rows, type TokenizerCallOptions } from "./batch.js";
import type { ChatMessage, Span } from "./chat.js";
import { bytes_alone, Decoding } from "./decoders.js";
import { read_tokenizer, type TokenizerFiles } from "./files.js";
import { post_process } from "./post_processors.js";
import type { ChatTemplates } from "./template_files.js";

export interface DecodeOptions {
  /** Leave out `<s>`, `</s>` and other special tokens. Default false. */
  skip_special_tokens?: boolean;
}

/** `tokenizer(text)` encodes; the rest are methods. */
export interface Tokenizer extends TokenizerMethods {
  (text: string | readonly string[], options?: TokenizerCallOptions): Encoded;
}

/** Loads the tokenizer of a directory. @throws BimedixError file_not_found, file_unreadable, bad_tokenizer */
export async function load_tokenizer(dir: string): Promise<Tokenizer> {
  return create_tokenizer(await read_tokenizer(dir));
}

export function create_tokenizer(files: TokenizerFiles): Tokenizer {
  const methods = new TokenizerMethods(files);
  const call = (text: string | readonly string[], options?: TokenizerCallOptions): Encoded =>
    encode_batch(methods, files, text, options);
  // Methods and fields are found on the function through its prototype; the getters run on `methods` all the same.
  return Object.setPrototypeOf(call, methods) as Tokenizer;
}

/** In brackets, as tokens that steer a model are: not typed by a person, special or not. */
const is_control = ({ content, special }: AddedToken): boolean => special || /^[<[].*[>\]]$/su.test(content);

class TokenizerMethods {
  /** One more than the highest id. */
  readonly vocab_size: number;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | null;
  readonly pad_token_id: number | null;
  readonly unk_token_id: number | null;
  readonly model_max_length: number | null;
  /** The Jinja template of the model's directory, or several by name; null when it has none. */
  chat_template: ChatTemplates;
  /** Tokens with a role, and the model's extra ones, as in transformers. */
  readonly all_special_tokens: readonly string[];
  readonly all_special_ids: readonly number[];
  private readonly ids: ReadonlyMap<string, number>;
  /** Tokens as decoders see them. */
  private readonly texts: readonly (string | undefined)[];
  private readonly control: readonly string[];
  private readonly added: AddedTokens;
  private readonly added_normalized: AddedTokens;
  private readonly bytes: (Uint8Array | undefined)[] = [];

  constructor(private readonly files: TokenizerFiles) {
    const { pieces, added, named, extra_special_tokens } = files;
    const ids = new Map<string, number>();
    for (const [id, piece] of pieces.entries()) if (piece !== undefined) ids.set(piece, id);
    this.ids = ids;
    const id_of = (role: string): number | null => ids.get(named[role] ?? "") ?? null;
    this.bos_token_id = id_of("bos_token");
    this.eos_token_id = id_of("eos_token");
    this.pad_token_id = id_of("pad_token");
    this.unk_token_id = id_of("unk_token");
    this.model_max_length = files.model_max_length;
    this.chat_template = files.chat_template;
    this.vocab_size = pieces.length;
    this.all_special_tokens = [...new Set([...Object.values(named), ...extra_special_tokens])];
    this.all_special_ids = this.all_special_tokens.flatMap((text) => ids.get(text) ?? []);
    const form = (token: AddedToken) =>
      token.normalized ? files.normalize({ text: token.content, first: true }).text : token.content;
    const texts = [...pieces];
    for (const token of added) texts[token.id] = form(token);
    this.texts = texts;
    this.control = added.filter(is_control).map(({ content }) => content);
    this.added = new AddedTokens(added.filter((one) => !one.normalized).map((one) => [one.content, one]));
    this.added_normalized = new AddedTokens(added.filter((one) => one.normalized).map((one) => [form(one), one]));
  }

  /** The ids of one text. Lone surrogates become U+FFFD. @throws BimedixError bad_option */
  encode(text: string, { add_special_tokens = true, split_special_tokens = true }: EncodeOptions = {}): number[] {
    if (typeof text !== "string") {
      throw new BimedixError("bad_option", {
        given: `a text of type ${typeof text}`,
        expected: "a string",
        todo: "pass the text itself",
      });
    }
    const allowed = split_special_tokens ? (token: AddedToken) => !is_control(token) : () => true;
    const { ids } = this.tokenize(text.toWellFormed(), allowed, false);
    const { post_processor } = this.files;
    if (!add_special_tokens)
      return post_process(
        ids,
        post_processor.filter((id) => id === null),
      );
    // A rendered prompt that begins with <s> gets no second one.
    const before = post_processor.indexOf(null);
    const begins = before > 0 && post_processor.slice(0, before).every((id, i) => ids[i] === id);
    return post_process(ids, begins ? post_processor.slice(before) : post_processor);
  }

  /**
   * So many tokens a text has at the least, which is known before it is tokenized: none is longer than the longest. 0 where a token may
   * stand for any number of characters.
   */
  least_tokens(text: string): number {
    const { added, normalize, pre_tokenize, model } = this.files;
    if (added.some(({ lstrip, rstrip }) => lstrip || rstrip)) return 0;
    const longest = added.reduce(
      (most, { content }) => Math.max(most, content.length),
      model.most_characters ?? Infinity,
    );
    const pieces = pre_tokenize([normalize({ text: text.toWellFormed(), first: true })]);
    return Math.floor(pieces.reduce((sum, piece) => sum + piece.text.length, 0) / longest);
  }

  /** The text of ids; byte sequences that are not UTF-8 become U+FFFD. @throws BimedixError token_out_of_range */
  decode(ids: readonly number[], { skip_special_tokens = false }: DecodeOptions = {}): string {
    const decoder = new StreamingDecoder(this, { skip_special_tokens });
    const parts: string[] = [];
    for (const id of ids) parts.push(decoder.push(id));
    return parts.join("") + decoder.flush();
  }

  batch_decode(batch: readonly (readonly number[])[], options?: DecodeOptions): string[] {
    return batch.map((ids) => this.decode(ids, options));
  }

  /** The id of a token's text as the vocabulary spells it, or the unknown token's. */
  convert_tokens_to_ids(token: string): number | null {
    return this.ids.get(token) ?? this.unk_token_id;
  }

  convert_ids_to_tokens(id: number): string {
    return this.files.pieces[this.check(id)] ?? "";
  }

  is_special(id: number): boolean {
    return this.files.special.has(this.texts[id] ?? "");
  }

  /** The token as decoders see it; undefined for an id that stands for nothing. @throws BimedixError token_out_of_range */
  token_text(id: number): string | undefined {
    return this.texts[this.check(id)];
  }

  /** The steps that decode one text. */
  decoding(): Decoding {
    return new Decoding(this.files.decoders);
  }

  /** The bytes that a token stands for; one token may be a part of a character. */
  id_to_bytes(id: number): Uint8Array {
    return (this.bytes[this.check(id)] ??= bytes_alone(this.files.decoders, this.texts[id] ?? ""));
  }

  /** A token's text by itself; where it is a part of a character, its name in the vocabulary (`<0xD8>`). */
  id_to_text(id: number): string {
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.id_to_bytes(id));
    return text.includes("\ufffd") ? this.convert_ids_to_tokens(id) : text;
  }

  /**
   * The prompt of a conversation, or of several, through the model's template: ids, or with `tokenize: false` text, or with
   * `return_dict` an encoding. What users typed stays text, also where it spells a control token.
   *
   * @throws BimedixError bad_option for options and messages that are not supported; bad_template when there is no template or it
   *   refuses the messages
   */
  apply_chat_template(
    messages: readonly ChatMessage[],
    options?: ApplyOptions & { tokenize?: true; return_dict?: false },
  ): number[];
  apply_chat_template(messages: readonly ChatMessage[], options: ApplyOptions & { tokenize: false }): string;
  apply_chat_template(messages: readonly ChatMessage[], options: ApplyOptions & { return_dict: true }): ChatEncoding;
  apply_chat_template(
    batch: readonly ChatMessage[][],
    options?: ApplyOptions & { tokenize?: true; return_dict?: false },
  ): number[][];
  apply_chat_template(batch: readonly ChatMessage[][], options: ApplyOptions & { tokenize: false }): string[];
  apply_chat_template(batch: readonly ChatMessage[][], options: ApplyOptions & { return_dict: true }): ChatBatch;
  apply_chat_template(
    conversation: readonly ChatMessage[] | readonly ChatMessage[][],
    options?: ApplyOptions,
  ): number[] | number[][] | string | string[] | ChatEncoding | ChatBatch;
  apply_chat_template(
    conversation: readonly ChatMessage[] | readonly ChatMessage[][],
    options: ApplyOptions = {},
  ): number[] | number[][] | string | string[] | ChatEncoding | ChatBatch {
    return apply_chat_template(this, conversation, options);
  }

  /** The template that `apply_chat_template` would take. @throws BimedixError bad_template when there is none */
  get_chat_template(options: Pick<ApplyOptions, "chat_template" | "tools"> = {}): string {
    return choose_template(this.chat_template, options);
  }

  /** The special tokens that the tokenizer's files name, as templates see them: `bos_token`, `eos_token`, `unk_token` … */
  get special_tokens_map(): Record<string, string> {
    return { ...this.files.named };
  }

  /**
   * A whole conversation for training, rendered once: its tokens, and for each the index of the message whose answer has a
   * character in it, or -1. What an answer is, `render_with_answers` says.
   *
   * @throws BimedixError as apply_chat_template
   */
  encode_conversation(
    messages: readonly ChatMessage[],
    options: ConversationOptions = {},
  ): { input_ids: number[]; answer_of: number[] } {
    return encode_conversation(this, messages, options);
  }

  /** Rows cut and padded as a call with these options does it; `fill` stands for what is missing. */
  fit_rows(rows: number[][], fill: number | null, options: TokenizerCallOptions): Encoded {
    return fit_rows(this.files, rows, fill, options);
  }

  /** The strings of tokens that are not typed by a person: special ones, and others in brackets. */
  get control_strings(): readonly string[] {
    return this.control;
  }

  /**
   * The tokens of a text in which control strings count, except where a part of one stands in `outside`; `spans` are the
   * characters that each token stands for, in UTF-16 units. Nothing is put around.
   */
  encode_with_spans(text: string, outside: readonly Span[] = []): TokenSpans {
    const touches = (from: number, to: number) => outside.some(({ start, end }) => start < to && end > from);
    return this.tokenize(text.toWellFormed(), (token, from, to) => !is_control(token) || !touches(from, to), true);
  }

  /**
   * @param allowed whether this token may be found at this place of the text
   * @param spanned whether spans are asked for
   */
  private tokenize(
    text: string,
    allowed: (token: AddedToken, from: number, to: number) => boolean,
    spanned: boolean,
  ): TokenSpans {
    const { normalize, pre_tokenize, model } = this.files;
    const ids: number[] = [];
    const spans: Span[] = [];
    for (const cut of this.added.cut(text, allowed)) {
      if ("id" in cut) {
        ids.push(cut.id);
        spans.push({ start: cut.from, end: cut.to });
        continue;
      }
      const own: number[] = [];
      const normal = normalize({ text: cut.text, first: cut.from === 0 });
      let place: ((offset: number) => number) | undefined;
      const at = (offset: number) => cut.from + (place ??= align(cut.text, normal.text))(offset);
      const allowed_here = (token: AddedToken, from: number, to: number) => allowed(token, at(from), at(to));
      for (const part of this.added_normalized.cut(normal.text, allowed_here)) {
        if ("id" in part) own.push(part.id);
        else {
          const piece = { text: part.text, first: normal.first && part.from === 0 };
          for (const { text: word } of pre_tokenize([piece])) for (const id of model.encode(word)) own.push(id);
        }
      }
      for (const id of own) ids.push(id);
      if (spanned)
        for (const { start, end } of this.spans_of(own, cut.text))
          spans.push({ start: start + cut.from, end: end + cut.from });
    }
    return { ids, spans };
  }

  /** The characters of `text` that its tokens stand for: a part of a character counts as the whole. */
  private spans_of(ids: readonly number[], text: string): Span[] {
    const tokens = ids.map((id) => this.id_to_bytes(id));
    const bytes = Buffer.concat(tokens);
    const decoded = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    const place = align(text, decoded);
    // From bytes to UTF-16 units: by the first byte of each character.
    const starts = new Uint32Array(bytes.length + 1);
    let unit = 0;
    for (const [i, byte] of bytes.entries()) {
      const continues = byte >= 0x80 && byte < 0xc0;
      starts[i] = continues ? starts[i - 1]! : unit;
      if (!continues) unit += byte >= 0xf0 ? 2 : 1;
    }
    starts[bytes.length] = unit;
    let end = 0;
    return tokens.map((token) => {
      const start = end;
      end += token.length;
      const last = end > start ? starts[end - 1]! : starts[start]!;
      const after = end > start ? last + (decoded.codePointAt(last)! > 0xffff ? 2 : 1) : last;
      return { start: place(Math.min(starts[start]!, decoded.length)), end: place(Math.min(after, decoded.length)) };
    });
  }

  private check(id: number): number {
    if (Number.isInteger(id) && id >= 0 && id < this.vocab_size) return id;
    throw new BimedixError("token_out_of_range", {
      given: `token id ${id}`,
      expected: `0 to ${this.vocab_size - 1}`,
      todo: "use the ids of this tokenizer",
    });
  }
}

/**
 * Text from tokens as they come: a character is shown once its last byte is there, so Arabic and emoji are never broken, and a
 * U+FFFD that the text really holds is an ordinary character. All that was pushed and flushed equals `decode` of the ids.
 */
export class StreamingDecoder {
  private readonly decoding: Decoding;

  constructor(
    private readonly tokenizer: Pick<Tokenizer, "token_text" | "is_special" | "decoding">,
    private readonly options: DecodeOptions = {},
  ) {
    this.decoding = tokenizer.decoding();
  }

  /** The characters that this token completes; often none. */
  push(id: number): string {
    const token = this.tokenizer.token_text(id);
    if (token === undefined || (this.options.skip_special_tokens && this.tokenizer.is_special(id))) return "";
    return this.decoding.push(token);
  }

  /** What is left: U+FFFD for bytes that never became a character. */
  flush(): string {
    return this.decoding.end();
  }
}
