/** Text while it is generated, with the names and the meaning of Transformers.js. */
import { BimedixError } from "../errors.js";
import { type DecodeOptions, StreamingDecoder, type Tokenizer } from "../text/tokenizer.js";

/** What `generate` tells of one sequence: first the prompt, then each token, then the end. */
export interface Streamer {
  put(value: number[][]): void;
  end(): void;
  /** Generation failed; no `end` comes. */
  abort?(reason: unknown): void;
}

export interface TextStreamerOptions {
  /** Default false: the prompt's text comes first. */
  skip_prompt?: boolean;
  /** Default true. */
  skip_special_tokens?: boolean;
  /** Given each piece of text. Default: it is written to the standard output, with a newline at the end. */
  callback_function?: ((text: string) => void) | null;
  /** Given the tokens as they come. */
  token_callback_function?: ((tokens: number[]) => void) | null;
  /** Further options of `decode`. */
  decode_kwargs?: DecodeOptions;
}

const to_stdout = (text: string) => void process.stdout.write(text);

const CHINESE = /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2ceaf}\u{2f800}-\u{2fa1f}]$/u;

/** Gives the text of a sequence word by word. */
export class TextStreamer implements Streamer {
  private decoder!: StreamingDecoder;
  private at_prompt = true;
  /** The word that is not whole yet. */
  private word = "";
  private readonly write: (text: string) => void;
  private readonly options: DecodeOptions;

  constructor(
    readonly tokenizer: Tokenizer,
    private readonly given: TextStreamerOptions = {},
  ) {
    const { skip_special_tokens = true, decode_kwargs = {}, callback_function } = given;
    this.options = { skip_special_tokens, ...decode_kwargs };
    this.write = callback_function ?? to_stdout;
    this.reset();
  }

  /** @throws BimedixError bad_option for more than one sequence */
  put(value: number[][]): void {
    const [tokens = []] = value;
    if (value.length !== 1)
      throw new BimedixError("bad_option", {
        given: `${value.length} sequences for a TextStreamer`,
        expected: "one",
        todo: "generate one at a time",
      });
    const { at_prompt } = this;
    this.at_prompt = false;
    if (at_prompt && this.given.skip_prompt) return;
    this.given.token_callback_function?.(tokens);
    const text = tokens.map((token) => (token < this.tokenizer.vocab_size ? this.decoder.push(token) : "")).join("");
    this.word += text;
    const whole = at_prompt || this.word.endsWith("\n") || CHINESE.test(this.word);
    this.show(whole ? this.word.length : this.word.lastIndexOf(" ") + 1);
  }

  end(): void {
    this.word += this.decoder.flush();
    this.show(this.word.length);
    if (this.write === to_stdout) this.write("\n");
    this.reset();
  }

  abort(): void {
    this.reset();
  }

  private show(length: number): void {
    const text = this.word.slice(0, length);
    this.word = this.word.slice(length);
    if (text !== "") this.write(text);
  }

  private reset(): void {
    this.decoder = new StreamingDecoder(this.tokenizer, this.options);
    this.at_prompt = true;
    this.word = "";
  }
}
