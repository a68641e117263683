/** What --help prints, from the records of the verbs. */
import { Help } from "commander";
import { called } from "./terminal.js";
import { type Verb, verbs } from "./verbs.js";

const columns = () => (process.stdout.isTTY && process.stdout.columns) || 100;

/** Terms with what they mean beside them. */
function list(items: readonly (readonly [string, string])[], widest = 40): string {
  const help = new Help();
  help.prepareContext({ helpWidth: columns() });
  const width = Math.max(...items.map(([term]) => (term.length <= widest ? term.length : 0)));
  return items
    .map(([term, text]) =>
      term.length <= widest ? help.formatItem(term, width, text, help) : `  ${term}\n      ${text}`,
    )
    .join("\n");
}

/** The line that shows how a verb is called. */
export function usage_of({ name, args = "", options }: Verb): string {
  const required = options.filter((option) => option.required).map(({ flags }) => flags);
  return [called(name), ...required, "[options]", args].filter(Boolean).join(" ");
}

export function verb_help(verb: Verb): string {
  const options = verb.options.map(({ flags, help, required, default: fallback }): [string, string] => [
    flags,
    `${help}${required ? " (required)" : ""}${fallback === undefined ? "" : `; default: ${fallback}`}`,
  ]);
  const examples = verb.examples.map(([command, text]): [string, string] => [called(command), text]);
  return [
    `Usage: ${usage_of(verb)}`,
    `${verb.summary[0]!.toUpperCase()}${verb.summary.slice(1)}.`,
    `Options:\n${list([...options, ["-h, --help", "show this"]])}`,
    `Examples:\n${list(examples, 0)}`,
    "",
  ]
    .join("\n\n")
    .replace(/\n+$/, "\n");
}

export function root_help(): string {
  const names = verbs.map(({ name, args = "", summary }): [string, string] => [`${name} ${args}`.trim(), summary]);
  const first = verbs
    .map(({ examples }) => examples[0]!)
    .map(([command, text]): [string, string] => [called(command), text]);
  return `Usage: ${called("[verb] [options] [question...]")}

A bilingual (English, Arabic) medical language model on this machine. For research, not medical advice.

Verbs, of which chat need not be named:
${list(names)}

Options:
${list([
  ["-h, --help", "show this; after a verb, its options and examples"],
  ["-V, --version", "show the version"],
  ["--", "what follows is text, also where it begins with a dash or is the name of a verb"],
])}

Examples:
${list(first, 0)}

Exit status: 0 done; 1 it failed; 2 the command line was not understood; stopped: 130 by Ctrl-C, 143 by SIGTERM,
129 by a closed terminal, 141 by a closed output.
`;
}
