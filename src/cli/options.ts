/** Options of the command line as records: from one come its parsing, its help and what its errors say. */
import { dtypes } from "../model/convert.js";
import { western_digits } from "../text/arabic.js";

/** How a value is read: what it is, for the error, and the value, or undefined where the text is none. */
export interface Reader {
  expected: string;
  read(text: string): unknown;
}

export interface OptionRecord {
  /** The name, and `<value>` or `<value...>` where it takes one or several. */
  flags: string;
  help: string;
  /** How its value is read; without it any text will do. */
  value?: Reader;
  default?: unknown;
  required?: true;
}

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** A number in Western or Arabic digits. */
const to_number = (text: string): number => {
  const digits = western_digits(text.trim());
  return NUMBER.test(digits) ? Number(digits) : Number.NaN;
};

export const number: Reader = {
  expected: "a number",
  read: (text) => (Number.isFinite(to_number(text)) ? to_number(text) : undefined),
};

const from_zero: Reader = {
  expected: "a number from 0",
  read: (text) => (to_number(text) >= 0 && Number.isFinite(to_number(text)) ? to_number(text) : undefined),
};

export const seconds: Reader = {
  expected: "seconds above 0",
  read: (text) => (to_number(text) > 0 && to_number(text) < 1e6 ? to_number(text) : undefined),
};

export const whole = (least: number, most = Number.MAX_SAFE_INTEGER): Reader => ({
  expected: `a whole number from ${least}${most < Number.MAX_SAFE_INTEGER ? ` to ${most}` : ""}`,
  read: (text) => {
    const value = to_number(text);
    return Number.isSafeInteger(value) && value >= least && value <= most ? value : undefined;
  },
});

export const one_of = (...choices: readonly string[]): Reader => ({
  expected: choices.join(", "),
  read: (text) => choices.find((choice) => choice === text),
});

export const json: OptionRecord = { flags: "--json", help: "print one JSON object instead of text" };
export const force: OptionRecord = { flags: "--force", help: "write over what is there without asking" };
export const adapter: OptionRecord = {
  flags: "--adapter <dir|hub-id>",
  help: "a LoRA adapter in PEFT's form, on top of the model",
};
export const dtype: OptionRecord = {
  flags: "--dtype <dtype>",
  help: `precision of the weights: ${dtypes.join(", ")}`,
  value: one_of(...dtypes),
  default: "q8",
};

export const model_options: readonly OptionRecord[] = [
  {
    flags: "--model <dir|hub-id|url>",
    help: "the model, or the /v1 of a server; default: the small demonstration inside this package",
  },
  adapter,
  dtype,
  json,
];

export const generation_options: readonly OptionRecord[] = [
  { flags: "--max-new-tokens <n>", help: "length of the answer; default: as the model's files say", value: whole(1) },
  {
    flags: "--temperature <t>",
    help: "sample with this temperature; 0 takes the likeliest token; default: as the model's files say",
    value: from_zero,
  },
  { flags: "--top-k <k>", help: "sample among the k likeliest tokens", value: whole(0) },
  { flags: "--top-p <p>", help: "sample among the likeliest tokens of this total probability", value: number },
  { flags: "--repetition-penalty <r>", help: "make tokens that occurred less likely", value: number },
  { flags: "--seed <n>", help: "make sampling repeatable", value: whole(Number.MIN_SAFE_INTEGER) },
  { flags: "--stop <text...>", help: "end the answer at one of these texts" },
];
