/** `tokenizer(texts, options)`: texts to ids of equal length, with the options of transformers. */
import { BimedixError } from "../errors.js";
import type { TokenizerFiles } from "./files.js";
import { NOTHING_ADDED } from "./post_processors.js";

export interface EncodeOptions {
  /** Put around what the model's files say: `<s>`, for many. Default true. */
  add_special_tokens?: boolean;
  /**
   * Treat `<s>`, `</s>` and other control strings as plain text, as SentencePiece does. Default true, so that nobody can type
   * a control token; false reads them as Hugging Face does by default, which a rendered template needs.
   */
  split_special_tokens?: boolean;
}

export interface TokenizerCallOptions extends EncodeOptions {
  /** true or "longest": to the longest text; "max_length": to `max_length`. Default false. */
  padding?: boolean | "longest" | "max_length" | "do_not_pad";
  /** Default false; `max_length` alone turns it on. */
  truncation?: boolean | "longest_first" | "only_first" | "do_not_truncate";
  /** In tokens, those around a text included. Default: the model's, where its files name one. */
  max_length?: number;
  pad_to_multiple_of?: number;
  /** Default: as the model's files say, else right. */
  padding_side?: "left" | "right";
  truncation_side?: "left" | "right";
  /** Default true. */
  return_attention_mask?: boolean;
  /** Zeros: texts come one by one, not in pairs. Default false. */
  return_token_type_ids?: boolean;
  /** 1 for padding and for what was put around the text. Default false. */
  return_special_tokens_mask?: boolean;
  return_length?: boolean;
}

export interface Encoded {
  /** `[texts, length]`, of one length only where `padding` makes them. */
  input_ids: number[][];
  attention_mask: number[][];
  token_type_ids?: number[][];
  special_tokens_mask?: number[][];
  length?: number[];
}

const OPTIONS: ReadonlySet<string> = new Set<keyof TokenizerCallOptions>([
  "add_special_tokens",
  "split_special_tokens",
  "padding",
  "truncation",
  "max_length",
  "pad_to_multiple_of",
  "padding_side",
  "truncation_side",
  "return_attention_mask",
  "return_token_type_ids",
  "return_special_tokens_mask",
  "return_length",
]);

const PADDING = [true, false, "longest", "max_length", "do_not_pad"];
const TRUNCATION = [true, false, "longest_first", "only_first", "do_not_truncate"];

const bad = (given: string, expected: string, todo = "correct the option"): never => {
  throw new BimedixError("bad_option", { given, expected, todo });
};

interface Plan {
  pad: "longest" | "max_length" | null;
  truncate: boolean;
  max_length: number | null;
}

/** As transformers reads the options together. */
function plan(files: TokenizerFiles, options: TokenizerCallOptions): Plan {
  const { padding = false, truncation, max_length, pad_to_multiple_of: multiple } = options;
  if (!PADDING.includes(padding)) bad(`padding ${JSON.stringify(padding)}`, PADDING.join(", "));
  if (truncation !== undefined && !TRUNCATION.includes(truncation))
    bad(`truncation ${JSON.stringify(truncation)}`, TRUNCATION.join(", "));
  for (const [name, value] of Object.entries({ max_length, pad_to_multiple_of: multiple }))
    if (value !== undefined && !(Number.isInteger(value) && value >= (name === "max_length" ? 0 : 1)))
      bad(`${name} ${value}`, "a positive integer");
  const length = max_length ?? files.model_max_length;
  let pad: Plan["pad"] =
    padding === false || padding === "do_not_pad" ? null : padding === "max_length" ? "max_length" : "longest";
  let truncate =
    truncation === undefined
      ? max_length !== undefined && padding === false
      : truncation !== false && truncation !== "do_not_truncate";
  // A model without a length of its own does neither.
  if (length === null) {
    if (pad === "max_length") pad = null;
    truncate = false;
  }
  if (pad && truncate && multiple && length !== null && length % multiple !== 0)
    bad(`max_length ${length} with pad_to_multiple_of ${multiple}`, "a multiple of it");
  return { pad, truncate, max_length: length };
}

interface Encoder {
  readonly pad_token_id: number | null;
  encode(text: string, options?: EncodeOptions): number[];
}

export function encode_batch(
  tokenizer: Encoder,
  files: TokenizerFiles,
  texts: string | readonly string[],
  options: TokenizerCallOptions = {},
): Encoded {
  const unknown = Object.keys(options).find((name) => !OPTIONS.has(name));
  if (unknown) bad(`the option ${unknown}`, `one of ${[...OPTIONS].join(", ")}`, "leave it out");
  const { pad, truncate, max_length } = plan(files, options);
  const { add_special_tokens = true, truncation_side = files.truncation_side } = options;
  const encode = {
    ...(options.split_special_tokens === undefined ? {} : { split_special_tokens: options.split_special_tokens }),
  };
  const around = add_special_tokens ? files.post_processor : NOTHING_ADDED;
  const rows = [texts].flat().map((text) => {
    const all = tokenizer.encode(text, { add_special_tokens, ...encode });
    if (!truncate || all.length <= max_length!) return all;
    const added = around.filter((id) => id !== null).length;
    const room = max_length! - added;
    if (room < 0) bad(`max_length ${max_length}`, `at least ${added}: so many tokens are put around a text`);
    const own = tokenizer.encode(text, { add_special_tokens: false, ...encode });
    const kept = truncation_side === "left" ? own.slice(own.length - Math.min(own.length, room)) : own.slice(0, room);
    return around.flatMap((id) => id ?? kept);
  });
  return padded(rows, { pad, max_length, around }, tokenizer.pad_token_id, files, options);
}

/** Rows that are whole already, cut and padded as the options say; null for `fill` is a tokenizer without a pad token. */
export function fit_rows(
  files: TokenizerFiles,
  rows: readonly (readonly number[])[],
  fill: number | null,
  options: TokenizerCallOptions,
): Encoded {
  const { pad, truncate, max_length } = plan(files, options);
  const { truncation_side = files.truncation_side } = options;
  const cut = (row: readonly number[]): number[] => {
    const kept = truncate ? Math.min(max_length!, row.length) : row.length;
    return truncation_side === "left" ? row.slice(row.length - kept) : row.slice(0, kept);
  };
  return padded(rows.map(cut), { pad, max_length, around: NOTHING_ADDED }, fill, files, options);
}

function padded(
  rows: number[][],
  { pad, max_length, around }: { pad: Plan["pad"]; max_length: number | null; around: readonly (number | null)[] },
  pad_token_id: number | null,
  files: TokenizerFiles,
  options: TokenizerCallOptions,
): Encoded {
  const { padding_side = files.padding_side, pad_to_multiple_of: multiple = 1 } = options;
  if (pad && pad_token_id === null)
    bad("padding with a tokenizer that has no pad_token", "one that has", "add pad_token to tokenizer_config.json");
  const longest = pad === "max_length" ? max_length! : rows.reduce((most, row) => Math.max(most, row.length), 0);
  const width = pad ? Math.ceil(longest / multiple) * multiple : 0;
  const place = (row: readonly number[], fill: number): number[] => {
    const rest = Array<number>(Math.max(0, width - row.length)).fill(fill);
    return padding_side === "left" ? [...rest, ...row] : [...row, ...rest];
  };
  const before = around.indexOf(null);
  const special = (row: readonly number[]) =>
    row.map((_, i) => (i < before || i >= row.length - (around.length - 1 - before) ? 1 : 0));
  const input_ids = rows.map((row) => place(row, pad_token_id ?? 0));
  return {
    input_ids,
    ...(options.return_attention_mask === false
      ? {}
      : {
          attention_mask: rows.map((row) =>
            place(
              row.map(() => 1),
              0,
            ),
          ),
        }),
    ...(options.return_token_type_ids ? { token_type_ids: input_ids.map((row) => row.map(() => 0)) } : {}),
    ...(options.return_special_tokens_mask ? { special_tokens_mask: rows.map((row) => place(special(row), 1)) } : {}),
    ...(options.return_length ? { length: input_ids.map((row) => row.length) } : {}),
  } as Encoded;
}
