/**
 * Chat templates as transformers runs them: Jinja2 in its immutable sandbox with `trim_blocks`, `lstrip_blocks`, loop controls,
 * `{% generation %}`, `tojson`, `raise_exception` and `strftime_now`.
 *
 * Why an interpreter of our own: @huggingface/jinja 0.5.11 rewrites templates with regular expressions before it reads them, and
 * its values are JavaScript's; what templates do with Python's (integers, `%`, modulo, printing, generators, `None`) came out
 * otherwise, and nothing bounded what they take. Here each character also knows where it came from, so what a person wrote never
 * becomes a control token, and training knows which characters are answers.
 */
import { on_budget } from "./budget.js";
import { GENERATION, run } from "./interpreter.js";
import type { Statement } from "./nodes.js";
import { parse } from "./parser.js";
import type { Mark } from "./text.js";
import { Dict, List, to_value, type Value } from "./values.js";

export { TemplateError } from "./budget.js";
export { GENERATION, type Mark };

const parsed = new Map<string, Statement[]>();

/** Parsing takes longer than rendering, and a training run renders one template a million times. */
function program_of(template: string): Statement[] {
  const known = parsed.get(template);
  if (known) return known;
  const program = parse(template);
  if (parsed.size >= 8) parsed.delete(parsed.keys().next().value!);
  parsed.set(template, program);
  return program;
}

/**
 * Renders a template; `variables` makes its values, on its budget. Marks say which characters came from which source, by UTF-16 offsets; they may overlap.
 *
 * @throws TemplateError for a template that is wrong, raises, or takes too much time or memory
 */
export function render(
  template: string,
  variables: () => ReadonlyMap<string, Value>,
  now: () => Date = () => new Date(),
): { text: string; marks: readonly Mark[] } {
  return on_budget(() => {
    const { value, marks } = run(program_of(template), variables(), now);
    return { text: value, marks };
  });
}

export { strip } from "./text.js";
export { Dict, to_value, type Value };
export const list_value = (items: readonly Value[]): Value => new List(items);
