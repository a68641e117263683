/** The tokenizer of a model directory, in Hugging Face's conventions. */
import { BimedixError } from "../errors.js";
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
import { Bpe, SPACE } from "./bpe.js";
import type { ChatMessage, Span } from "./chat.js";
import { read_tokenizer, type TokenizerFiles } from "./files.js";
import type { ChatTemplates } from "./template_files.js";

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
  /** The Jinja template of the model's directory, or several by name; null when it has none. */
  chat_template: ChatTemplates;
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
    return this.files.special_tokens;
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

  /**
   * The tokens of a text in which control strings count, except where a part of one stands in `outside`; `spans` are the
   * characters that each token stands for, in UTF-16 units. `<s>` is not added.
   */
  encode_with_spans(text: string, outside: readonly Span[] = []): TokenSpans {
    const ids: number[] = [];
    const spans: Span[] = [];
    let at = 0;
    const plain = (end: number): void => {
      if (at === end) return;
      const run = text.slice(at, end);
      const spaced = this.spaced(run, at === 0);
      let missing = spaced.length - run.length;
      let [from, bytes] = [at, 0];
      for (const id of this.bpe.encode(spaced)) {
        bytes += this.id_to_bytes(id).length - missing;
        missing = 0;
        let to = from;
        while (to < end && bytes > 0) {
          const code = text.codePointAt(to)!;
          const width = code > 0xffff ? 4 : code > 0x7ff ? 3 : code > 0x7f ? 2 : 1;
          if (bytes < width) break;
          bytes -= width;
          to += code > 0xffff ? 2 : 1;
        }
        ids.push(id);
        spans.push({ start: from, end: bytes > 0 ? to + 1 : to });
        from = to;
      }
    };
    for (const { start, end } of control_strings(text, this.control, outside)) {
      plain(start);
      ids.push(this.ids.get(text.slice(start, end))!);
      spans.push({ start, end });
      at = end;
    }
    plain(text.length);
    return { ids, spans };
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

/** Where control strings stand in a text, without those that touch what came from outside. */
function control_strings(text: string, control: RegExp | null, outside: readonly Span[]): Span[] {
  if (!control) return [];
  const found: Span[] = [];
  const pattern = new RegExp(control.source, "g");
  let next = 0;
  for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
    const [start, end] = [match.index, match.index + match[0].length];
    while (next < outside.length && outside[next]!.end <= start) next++;
    if (next < outside.length && outside[next]!.start < end) pattern.lastIndex = start + 1;
    else found.push({ start, end });
  }
  return found;
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
