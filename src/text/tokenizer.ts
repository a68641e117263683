/** The tokenizer of a model directory, in Hugging Face's conventions. */
import { BimedixError } from "../errors.js";
import { type AddedToken, AddedTokens } from "./added_tokens.js";
import { type Encoded, type EncodeOptions, encode_batch, type TokenizerCallOptions } from "./batch.js";
import { break_control_strings, type ChatMessage, render_chat } from "./chat.js";
import { bytes_alone, Decoding } from "./decoders.js";
import { read_tokenizer, type TokenizerFiles } from "./files.js";
import { post_process } from "./post_processors.js";

export interface DecodeOptions {
  /** Leave out `<s>`, `</s>` and other special tokens. Default false. */
  skip_special_tokens?: boolean;
}

export interface ChatTemplateOptions {
  /** Return ids (default true) or the rendered text. */
  tokenize?: boolean;
  /** Default true: end where the assistant's answer begins. */
  add_generation_prompt?: boolean;
  /** A Jinja template instead of the model's own. Only from a trusted place: templates are programs. */
  chat_template?: string;
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
  /** The Jinja template of the model's directory; null when it has none. */
  chat_template: string | null;
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
    const ids = this.tokenize(text, split_special_tokens);
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
   * The prompt of a conversation through the model's template. Control strings in the contents stay text: a marker breaks them
   * before rendering and is taken out after control strings were looked for. What a template itself writes as text, such as
   * Mixtral's `[INST]`, has no control token in that model's vocabulary, so a user's `[INST]` is the same text there.
   *
   * @throws BimedixError bad_template when there is no template or it refuses the messages
   */
  apply_chat_template(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: true }): number[];
  apply_chat_template(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: false }): string;
  apply_chat_template(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): number[] | string {
    const { tokenize = true, add_generation_prompt = true, chat_template = this.chat_template } = options;
    if (chat_template === null) {
      throw new BimedixError("bad_template", {
        given: "a model without a chat template",
        expected: "chat_template.jinja",
        todo: "pass chat_template, or use a raw prompt",
      });
    }
    const { broken, mend } = break_control_strings(messages, this.control);
    const token = (id: number | null) => (id === null ? "" : this.files.pieces[id]!);
    const context = { bos_token: token(this.bos_token_id), eos_token: token(this.eos_token_id), add_generation_prompt };
    const text = render_chat(chat_template, tokenize ? broken : messages, context);
    return tokenize ? this.tokenize(text, false, mend) : text;
  }

  /**
   * @param split whether control strings are text
   * @param mend changes text after tokens were looked for
   */
  private tokenize(text: string, split: boolean, mend = (part: string): string => part): number[] {
    const { normalize, pre_tokenize, model } = this.files;
    const allowed = split ? (token: AddedToken) => !is_control(token) : () => true;
    const ids: number[] = [];
    for (const cut of this.added.cut(text.toWellFormed(), allowed)) {
      if ("id" in cut) {
        ids.push(cut.id);
        continue;
      }
      const normal = normalize({ text: cut.text, first: cut.from === 0 });
      for (const part of this.added_normalized.cut(normal.text, allowed)) {
        if ("id" in part) ids.push(part.id);
        else {
          const piece = { text: mend(part.text), first: normal.first && part.from === 0 };
          for (const { text: word } of pre_tokenize([piece])) for (const id of model.encode(word)) ids.push(id);
        }
      }
    }
    return ids;
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
