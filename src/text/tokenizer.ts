/** The tokenizer of a model directory, in Hugging Face's conventions. */
import { BimedixError } from "../errors.js";
import { Bpe, SPACE } from "./bpe.js";
import { break_control_strings, type ChatMessage, render_chat } from "./chat.js";
import { read_tokenizer, type TokenizerFiles } from "./files.js";

export interface EncodeOptions {
  /** Add `<s>` (and `</s>`) where the model's configuration says so. Default true. */
  add_special_tokens?: boolean;
  /**
   * Treat `<s>`, `</s>` and other control strings as plain text, as SentencePiece does. Default true, so that nobody can type
   * a control token; false reads them as Hugging Face does by default, which a rendered template needs.
   */
  split_special_tokens?: boolean;
}

export interface DecodeOptions {
  /** Leave out `<s>`, `</s>` and other control tokens. Default false. */
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

export interface Encoded {
  /** `[texts, length]`, not padded. */
  input_ids: number[][];
  attention_mask: number[][];
}

/** `tokenizer(text)` encodes; the rest are methods. */
export interface Tokenizer extends TokenizerMethods {
  (text: string | readonly string[], options?: EncodeOptions): Encoded;
}

/** Loads the tokenizer of a directory. @throws BimedixError file_not_found, file_unreadable, bad_tokenizer */
export async function load_tokenizer(dir: string): Promise<Tokenizer> {
  return create_tokenizer(await read_tokenizer(dir));
}

export function create_tokenizer(files: TokenizerFiles): Tokenizer {
  const methods = new TokenizerMethods(files);
  const call = (text: string | readonly string[], options?: EncodeOptions): Encoded => {
    const input_ids = [text].flat().map((one) => methods.encode(one, options));
    return { input_ids, attention_mask: input_ids.map((ids) => ids.map(() => 1)) };
  };
  // Methods and fields are found on the function through its prototype; the getters run on `methods` all the same.
  return Object.setPrototypeOf(call, methods) as Tokenizer;
}

class TokenizerMethods {
  readonly vocab_size: number;
  readonly bos_token_id: number | null;
  readonly eos_token_id: number | null;
  readonly pad_token_id: number | null;
  readonly unk_token_id: number;
  readonly model_max_length: number | null;
  /** The Jinja template of the model's directory; null when it has none. */
  chat_template: string | null;
  readonly all_special_ids: readonly number[];
  readonly all_special_tokens: readonly string[];
  private readonly bpe: Bpe;
  private readonly ids: Map<string, number>;
  private readonly control: RegExp | null;
  private readonly bytes: (Uint8Array | undefined)[] = [];

  constructor(private readonly files: TokenizerFiles) {
    ({
      bos_token_id: this.bos_token_id,
      eos_token_id: this.eos_token_id,
      pad_token_id: this.pad_token_id,
      unk_token_id: this.unk_token_id,
      model_max_length: this.model_max_length,
      chat_template: this.chat_template,
    } = files);
    this.vocab_size = files.pieces.length;
    this.bpe = new Bpe(files);
    this.ids = new Map(files.pieces.map((piece, id) => [piece, id]));
    this.all_special_ids = [...files.control];
    this.all_special_tokens = this.all_special_ids.map((id) => files.pieces[id]!);
    // Longer strings first: one control string may begin with another.
    const strings = [...this.all_special_tokens].filter(Boolean).sort((a, b) => b.length - a.length);
    this.control =
      strings.length > 0
        ? new RegExp(`(${strings.map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`)
        : null;
  }

  /** The ids of one text. Lone surrogates become U+FFFD. */
  encode(text: string, { add_special_tokens = true, split_special_tokens = true }: EncodeOptions = {}): number[] {
    if (typeof text !== "string") {
      throw new BimedixError("bad_option", {
        given: `a text of type ${typeof text}`,
        expected: "a string",
        todo: "pass the text itself",
      });
    }
    const ids: number[] = [];
    const { bos_token_id, eos_token_id, files } = this;
    const runs = split_special_tokens || !this.control ? [text] : text.split(this.control);
    // split() puts the matched control strings at the odd places.
    for (const [i, run] of runs.entries()) {
      if (i % 2 === 1) ids.push(this.ids.get(run)!);
      else if (run !== "") for (const id of this.bpe.encode(this.spaced(run, i === 0))) ids.push(id);
    }
    if (add_special_tokens) {
      if (files.add_bos_token && bos_token_id !== null && ids[0] !== bos_token_id) ids.unshift(bos_token_id);
      if (files.add_eos_token && eos_token_id !== null) ids.push(eos_token_id);
    }
    return ids;
  }

  /** The text of ids; byte sequences that are not UTF-8 become U+FFFD. @throws BimedixError token_out_of_range */
  decode(ids: readonly number[], { skip_special_tokens = false }: DecodeOptions = {}): string {
    const decoder = new StreamingDecoder(this, { skip_special_tokens });
    return ids.map((id) => decoder.push(id)).join("") + decoder.flush();
  }

  batch_decode(batch: readonly (readonly number[])[], options?: DecodeOptions): string[] {
    return batch.map((ids) => this.decode(ids, options));
  }

  /** The id of a token's text as the vocabulary spells it, or the unknown token's. */
  convert_tokens_to_ids(token: string): number {
    return this.ids.get(token) ?? this.unk_token_id;
  }

  convert_ids_to_tokens(id: number): string {
    return this.files.pieces[this.check(id)]!;
  }

  is_special(id: number): boolean {
    return this.files.control.has(id);
  }

  /** Whether the vocabulary's own leading space is taken off a decoded text. */
  get adds_prefix_space(): boolean {
    return this.files.prefix !== "never";
  }

  /** The bytes that a token stands for; one token may be a part of a character. */
  id_to_bytes(id: number): Uint8Array {
    return (this.bytes[this.check(id)] ??= to_bytes(this.files.pieces[id]!, this.files.control.has(id)));
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
    const { broken, mend } = break_control_strings(messages, this.all_special_tokens);
    const token = (id: number | null) => (id === null ? "" : this.files.pieces[id]!);
    const context = { bos_token: token(this.bos_token_id), eos_token: token(this.eos_token_id), add_generation_prompt };
    const text = render_chat(chat_template, tokenize ? broken : messages, context);
    if (!tokenize) return text;
    const ids: number[] = [];
    for (const [i, run] of (this.control ? text.split(this.control) : [text]).entries()) {
      if (i % 2 === 1) ids.push(this.ids.get(run)!);
      else if (run !== "") for (const id of this.bpe.encode(this.spaced(mend(run), i === 0))) ids.push(id);
    }
    return ids;
  }

  private spaced(text: string, first: boolean): string {
    const { prefix } = this.files;
    const spaced = text.replaceAll(" ", SPACE);
    return prefix === "always" || (prefix === "first" && first) ? SPACE + spaced : spaced;
  }

  private check(id: number): number {
    if (this.files.pieces[id] !== undefined) return id;
    throw new BimedixError("token_out_of_range", {
      given: `token id ${id}`,
      expected: `0 to ${this.vocab_size - 1}`,
      todo: "use the ids of this tokenizer",
    });
  }
}

function to_bytes(piece: string, control: boolean): Uint8Array {
  const byte = control ? null : /^<0x([0-9A-F]{2})>$/.exec(piece);
  if (byte) return Uint8Array.of(Number.parseInt(byte[1]!, 16));
  return new TextEncoder().encode(control ? piece : piece.replaceAll(SPACE, " "));
}

/**
 * Text from tokens as they come: a character is shown once its last byte is there, so Arabic and emoji are never broken, and a
 * U+FFFD that the text really holds is an ordinary character. All that was pushed and flushed equals `decode` of the ids.
 */
export class StreamingDecoder {
  private readonly utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  private first = true;

  constructor(
    private readonly tokenizer: Pick<Tokenizer, "id_to_bytes" | "is_special" | "adds_prefix_space">,
    private readonly options: DecodeOptions = {},
  ) {}

  /** The characters that this token completes; often none. */
  push(id: number): string {
    const special = this.tokenizer.is_special(id);
    const bytes = this.tokenizer.id_to_bytes(id);
    if (special && this.options.skip_special_tokens) return "";
    return this.strip(this.utf8.decode(bytes, { stream: true }));
  }

  /** What is left: U+FFFD for bytes that never became a character. */
  flush(): string {
    return this.strip(this.utf8.decode());
  }

  private strip(text: string): string {
    if (!this.first || text === "") return text;
    this.first = false;
    return this.tokenizer.adds_prefix_space && text.startsWith(" ") ? text.slice(1) : text;
  }
}
