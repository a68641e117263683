/** Writes docs/options.md from the tables that options are checked with: node scripts/options.mjs */
import { writeFileSync } from "node:fs";
import { generation_options } from "../dist/src/engine/generation_options.js";
import { expected_of } from "../dist/src/engine/options.js";
import { pretrained_options, tokenizer_options } from "../dist/src/engine/pretrained_options.js";

const rows = ({ options }) => {
  const row = ([name, option]) =>
    `| \`${name}\` | ${expected_of(option)}${option.nullable ? ", or null" : ""} | ${option.meaning} |`;
  return ["| option | value | meaning |", "| --- | --- | --- |", ...Object.entries(options).map(row)].join("\n");
};
const others = ({ without_effect }) =>
  Object.entries(without_effect)
    .map(([name, values]) => {
      const list = values === "any" ? "any value" : values.map((value) => `\`${JSON.stringify(value)}\``).join(" or ");
      return `\`${name}\` (${list || "refused"})`;
    })
    .join(", ");

const text = `# Options

Written by \`node scripts/options.mjs\` from the tables that options are checked with. An option that is not here is refused by name, and so is
a value that is not allowed; \`undefined\` and \`null\` stand for an option left out.

## generate, stream, chat

The names and the meaning are transformers'. What a call does not say, the model's generation_config.json says. What a call says of lengths goes before
what the file says, in either unit. With \`do_sample: false\` the options of sampling do nothing.

${rows(generation_options)}

\`input_ids\` (or \`inputs\`) is a list of prompts, which may be of different lengths; \`attention_mask\` may have padding at the left.

Accepted without effect at these values, as in transformers, and otherwise refused: ${others(generation_options)}.

## from_pretrained

${rows(pretrained_options)}

Accepted without effect at these values, and otherwise refused: ${others(pretrained_options)}.

Tokenizers take ${Object.keys(tokenizer_options.options)
  .map((name) => `\`${name}\``)
  .join(", ")}, and without effect ${others(tokenizer_options)}.
`;
writeFileSync(new URL("../docs/options.md", import.meta.url), text);
