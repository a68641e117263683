#!/usr/bin/env node
/** The command line: verbs and their options. What a verb does is in a file of its own, loaded when it runs. */
import { readFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import { BimedixError } from "../errors.js";
import { dtypes } from "../model/convert.js";

const model_options = (command: Command): Command =>
  command
    .option("--model <dir|hub-id>", "the model; default: the small demonstration inside this package")
    .addOption(new Option("--dtype <dtype>", "precision of the weights").choices([...dtypes]).default("q8"))
    .option("--json", "print one JSON object instead of text");

const generate_options = (command: Command): Command =>
  command
    .option("--max-new-tokens <n>", "length of the answer", Number)
    .option("--temperature <t>", "sample with this temperature; 0 takes the likeliest token", Number)
    .option("--top-k <k>", "sample among the k likeliest tokens", Number)
    .option("--top-p <p>", "sample among the likeliest tokens of this total probability", Number)
    .option("--repetition-penalty <r>", "make tokens that occurred less likely", Number)
    .option("--seed <n>", "make sampling repeatable", Number)
    .option("--stop <text...>", "end the answer at one of these texts");

const program = new Command("bimedix")
  .description("A bilingual medical language model on this machine. For research, not medical advice.")
  .version(JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")).version)
  .showHelpAfterError("(bimedix --help shows the usage)")
  .exitOverride();

generate_options(model_options(program.command("chat [question...]", { isDefault: true })))
  .description("answer a question, or open a chat when there is none")
  .action(async (question: string[], options) => (await import("./chat.js")).chat(question.join(" ").trim(), options));

model_options(program.command("mcqa"))
  .description("choose between options, with the probability of each")
  .requiredOption("--question <text>", "the question, in English or Arabic")
  .requiredOption("--options <text...>", "two to ten options")
  .action(async (options) => (await import("./questions.js")).mcqa(options));

generate_options(model_options(program.command("ask <question...>")))
  .description("answer a question about a text: yes, no or maybe, or freely")
  .requiredOption("--context <file>", "the text")
  .option("--free", "answer in free text")
  .action(async (question: string[], options) => (await import("./questions.js")).ask(question.join(" "), options));

generate_options(model_options(program.command("generate <prompt...>")))
  .description("continue a raw prompt, without a chat template")
  .action(async (prompt: string[], options) => (await import("./questions.js")).generate(prompt.join(" "), options));

program
  .command("convert <dir|hub-id>")
  .description("write the model as onnx/model{,_quantized,_q4}.onnx, in the layout of Transformers.js")
  .addOption(new Option("--dtype <dtype>", "precision of the weights").choices([...dtypes]).default("q8"))
  .option("--output <dir>", "where onnx/ goes; default: the model's own directory")
  .action(async (model: string, options) => (await import("./convert.js")).convert_model(model, options));

try {
  await program.parseAsync();
} catch (error) {
  // A person's mistake is one line; a mistake of this program keeps its stack.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 1;
  else if (error instanceof BimedixError) {
    process.stderr.write(`bimedix: ${error.message}\n`);
    process.exitCode = 1;
  } else throw error;
}
