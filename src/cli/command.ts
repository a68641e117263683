/**
 * From the words of a command line to a verb and its options, by commander, with three things before it. An argument is an option only
 * if it looks like one: `-5 °C` and what follows `--` are text. Options may be written with `_`, as transformers and the harness write
 * them. And a mistyped verb is not a question.
 */
import { existsSync } from "node:fs";
import { Command, type ErrorOptions, Option, type OptionValues } from "commander";
import { BimedixError } from "../errors.js";
import { did_you_mean, nearest } from "../nearest.js";
import { root_help, usage_of, verb_help } from "./help.js";
import type { OptionRecord } from "./options.js";
import { called } from "./terminal.js";
import { default_verb, type Verb, verbs } from "./verbs.js";

export interface Call {
  verb: Verb;
  args: string[];
  options: OptionValues;
  /** How the options were written, by their names. */
  typed: ReadonlyMap<string, string>;
}

/** Stands before what is text although it looks like an option. No argument of a process can hold it. */
const TEXT = "\0";
const text_of = (argument: string) => (argument.startsWith(TEXT) ? argument.slice(1) : argument);

/** @returns what is to be run, or a text to print @throws BimedixError bad_option */
export function parse(argv: readonly string[], version: string): Call | string {
  const [first = "", second = ""] = argv;
  if (["--version", "-V", "-v"].includes(first) || (first === "version" && argv.length === 1)) return `${version}\n`;
  if (["--help", "-h"].includes(first)) return root_help();
  if (first === "help" && argv.length <= 2) {
    const asked = find_verb([second])?.verb;
    if (argv.length === 1 || asked) return asked ? verb_help(asked) : root_help();
  }
  const found = find_verb(argv);
  const verb = found?.verb ?? default_verb;
  const { tokens, typed } = lex(found ? (verb.translate?.(found.rest) ?? found.rest) : argv);
  if (tokens.includes("--help") || tokens.includes("-h")) return verb_help(verb);
  if (!found && belongs_to_a_verb(second)) refuse_mistyped(first);
  const command = build(verb, typed);
  command.parse(tokens, { from: "user" });
  if (!found && command.args.length === 1) refuse_mistyped(command.args[0]!);
  return { verb, args: command.args.map(text_of), options: command.opts(), typed };
}

function find_verb(argv: readonly string[]): { verb: Verb; rest: readonly string[] } | undefined {
  for (const words of [2, 1]) {
    const name = argv.slice(0, words).join(" ");
    const verb = verbs.find((one) => one.name === name);
    if (verb) return { verb, rest: argv.slice(words) };
  }
  return undefined;
}

const name_of = ({ flags }: OptionRecord) => flags.split(" ")[0]!;
const names_of = (verb: Verb) => verb.options.map(name_of);
const all_names = new Set(verbs.flatMap(names_of));
const LOOKS_LIKE_OPTION = /^--?[A-Za-z][\w-]*(=|$)/;

function lex(argv: readonly string[]): { tokens: string[]; typed: Map<string, string> } {
  const typed = new Map<string, string>();
  const tokens: string[] = [];
  for (const [i, argument] of argv.entries()) {
    if (argument === "--") return { tokens: [...tokens, ...argv.slice(i + 1).map((text) => TEXT + text)], typed };
    if (!LOOKS_LIKE_OPTION.test(argument)) {
      refuse_long_dash(argument);
      tokens.push(argument.startsWith("-") && argument !== "-" ? TEXT + argument : argument);
      continue;
    }
    const [, written = "", value] = /^([^=]*)(?:=([\s\S]*))?$/.exec(argument)!;
    const dashed = written.replaceAll("_", "-");
    const name = all_names.has(dashed) ? dashed : written;
    typed.set(name, written);
    tokens.push(value === undefined ? name : `${name}=${TEXT}${value}`);
  }
  return { tokens, typed };
}

/** Documents and chats turn two hyphens into one dash. */
function refuse_long_dash(argument: string): void {
  const meant = /^[‐-―−]+([A-Za-z][\w-]*)/.exec(argument)?.[1];
  if (meant === undefined || !all_names.has(`--${meant.replaceAll("_", "-")}`)) return;
  throw new BimedixError("bad_option", {
    given: `${argument}, with a long dash`,
    expected: `--${meant}`,
    todo: "write two hyphens, or -- before it where it is a question",
  });
}

class VerbCommand extends Command {
  constructor(
    private readonly verb: Verb,
    private readonly typed: ReadonlyMap<string, string>,
  ) {
    super(verb.name);
    this.helpOption(false).showSuggestionAfterError(false);
  }

  /** Every mistake that commander finds comes here. */
  override error(message: string, { code }: ErrorOptions = {}): never {
    const [, quoted = ""] = /'([^']*)'/.exec(message) ?? [];
    const given =
      code === "commander.missingMandatoryOptionValue"
        ? `no ${quoted.split(" ")[0]}`
        : code === "commander.missingArgument"
          ? `no <${quoted}>`
          : code === "commander.optionMissingArgument"
            ? `${this.written(quoted.split(" ")[0]!)} without its value`
            : code === "commander.excessArguments"
              ? `too many arguments (${this.args.map(text_of).join(" ")})`
              : "";
    if (!given) return this.unknown(quoted.split("=")[0]!);
    const of_value = code === "commander.optionMissingArgument";
    throw usage_error(this.verb, given, of_value ? quoted : usage_of(this.verb));
  }

  written(name: string): string {
    return this.typed.get(name) ?? name;
  }

  private unknown(name: string): never {
    const own = names_of(this.verb);
    const written = this.written(name);
    const bare = `--${written.replace(/^-+/, "").replaceAll("_", "-").toLowerCase()}`;
    const others = verbs.filter((verb) => names_of(verb).includes(bare)).map((verb) => verb.name);
    if (own.includes(name)) throw usage_error(this.verb, `${written} with a value`, `${written} alone`);
    const hint = own.includes(bare)
      ? ` (did you mean ${bare}?)`
      : others.length > 0
        ? ` (${bare} belongs to ${others.join(", ")})`
        : did_you_mean(bare, own);
    const more = hint ? "" : this.verb.unknown_option?.(written);
    throw usage_error(this.verb, `unknown option ${written}`, more || `an option of ${this.verb.name}${hint}`);
  }
}

function usage_error(verb: Verb, given: string, expected: string): BimedixError {
  return new BimedixError("bad_option", { given, expected, todo: `see ${called(`${verb.name} --help`)}` });
}

function build(verb: Verb, typed: ReadonlyMap<string, string>): Command {
  const command = new VerbCommand(verb, typed);
  for (const argument of verb.args?.split(" ") ?? []) command.argument(argument);
  for (const record of verb.options) {
    const name = name_of(record);
    const option = new Option(record.flags, record.help)
      .default(record.default)
      .makeOptionMandatory(record.required === true);
    if (option.required)
      option.argParser((argument: string, before: unknown) => {
        const read = () => read_value(verb, command.written(name), argument, record);
        // A default is no value that was given before.
        return option.variadic ? [...(Array.isArray(before) ? before : []), read()] : read();
      });
    command.addOption(option);
  }
  return command;
}

function read_value(verb: Verb, written: string, argument: string, { value, flags }: OptionRecord): unknown {
  if (LOOKS_LIKE_OPTION.test(argument))
    throw usage_error(verb, `${written} without its value, before ${argument}`, flags.replace(/^\S+/, written));
  const text = text_of(argument);
  const read = value ? value.read(text) : text;
  if (read !== undefined) return read;
  throw usage_error(verb, `${written} ${text}`, value!.expected);
}

/** Whether a second word shows that the first was to be a verb: an option that chat does not have, a file, `key=value`. */
function belongs_to_a_verb(word: string): boolean {
  if (LOOKS_LIKE_OPTION.test(word)) {
    const name = word.split("=")[0]!.replaceAll("_", "-");
    return all_names.has(name) && !names_of(default_verb).includes(name);
  }
  return /^[\w.~-]+[/\\=]|\.(ya?ml|jsonl?|csv)$/.test(word) || (word !== "" && existsSync(word));
}

/** @throws BimedixError when a single word is a verb with a slip, and so hardly a question */
function refuse_mistyped(word: string): void {
  const meant = mistyped_verb(word);
  if (meant === undefined) return;
  throw new BimedixError("bad_option", {
    given: JSON.stringify(word),
    expected: `a verb or a question (did you mean ${called(meant)}?)`,
    todo: `ask it as ${called(`chat ${word}`)}, or see ${called("--help")}`,
  });
}

/**
 * The verb that a word alone was to be: a verb elsewhere than in the first place or in capitals, another program's name for it, or one
 * with a slip, which is seldom in the first letter (brain is not train, nerve is not serve) unless the first two changed places.
 */
function mistyped_verb(word: string): string | undefined {
  const lower = word.toLowerCase();
  const named = verbs.find(({ name, also = [] }) => name === lower || also.includes(lower));
  if (named) return named.name;
  if (!/^[a-z-]+$/.test(word)) return undefined;
  const names = verbs.map(({ name }) => name).filter((name) => !name.includes(" "));
  const begins_alike = (name: string) => name[0] === word[0] || (name[0] === word[1] && name[1] === word[0]);
  return nearest(word, names.filter(begins_alike));
}
