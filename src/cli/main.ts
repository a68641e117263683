#!/usr/bin/env node
/** The command line: verbs and their options. What a verb does is in a file of its own, loaded when it runs. */
import { readFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import { BimedixError } from "../errors.js";
import { dtypes } from "../model/convert.js";
import { from_harness } from "./harness_flags.js";

const model_options = (command: Command): Command =>
  command
    .option(
      "--model <dir|hub-id|url>",
      "the model, or the /v1 of a server; default: the small demonstration inside this package",
    )
    .option("--adapter <dir|hub-id>", "a LoRA adapter in PEFT's form, on top of the model")
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

const evaluation = program
  .command("eval")
  .description("score a model on medical benchmarks, as lm-evaluation-harness does")
  .option("--model <dir|hub-id|url>", "the model, or an OpenAI-compatible server's /v1 (#NAME chooses its model)")
  .option("--adapter <dir|hub-id>", "a LoRA adapter in PEFT's form, on top of the model")
  .option("--tokenizer <dir|hub-id>", "of a server's model; default: the name that the server gives it")
  .option(
    "--tasks <names>",
    "tasks, groups or own files (.jsonl, .csv, .parquet …), with commas between",
    "bimedix_en,bimedix_ar",
  )
  .option("--list", "show the tasks and groups")
  .option("--data <dir>", "a folder with the benchmarks' files; default: the hub")
  .option("--num-fewshot <n>", "solved examples before each question", Number, 0)
  .option("--limit <n>", "only so many first questions of each task; below 1, such a part of them", Number)
  .option("--output <dir>", "where results go", "results")
  .addOption(
    new Option(
      "--dtype <dtype>",
      "precision of the weights; default: fp32 up to a billion parameters, else q8",
    ).choices([...dtypes]),
  )
  .option("--exact", "compute q8 and q4 weights in float32 instead of rounding activations to int8")
  .addOption(
    new Option("--add-bos <flag>", "put <s> in front; default: as the tokenizer says").choices(["true", "false"]),
  )
  .option("--apply-chat-template", "ask in the model's own conversation format")
  .option("--shuffle-options <k>", "ask again with the options in k other orders", Number, 0)
  .option("--shard <i/n>", "score only part i of n; merge the parts with eval merge")
  .option("--contamination <corpus...>", "look for the questions in a training corpus")
  .option("--json", "print the results as one JSON object")
  .action(async (options) => {
    const { evaluate, list_tasks } = await import("./eval.js");
    return options.list ? list_tasks() : evaluate(options);
  });

evaluation
  .command("merge <files...>")
  .description("one run's results from the files that its shards wrote")
  .action(async (files: string[], _, command: Command) =>
    (await import("./eval.js")).merge(files, command.optsWithGlobals()),
  );

program
  .command("compare <a> <b>")
  .description("two results of eval, question by question: differences, intervals, McNemar's test")
  .option("--json", "print one JSON object")
  .action(async (a: string, b: string, options) => (await import("./eval.js")).compare(a, b, options));

program
  .command("serve")
  .description("an OpenAI-compatible API on this machine")
  .option("--model <dir|hub-id|url>", "the model, or the /v1 of a server that requests are forwarded to")
  .option("--name <name>", "the name that requests give it; default: its own")
  .option("--adapter <name=dir...>", "LoRA adapters, which requests choose as NAME:ADAPTER")
  .addOption(new Option("--dtype <dtype>", "precision of the weights").choices([...dtypes]).default("q8"))
  .option("--host <address>", "where to listen; any but this machine's own needs a key", "127.0.0.1")
  .option("--port <n>", "0 takes a free one", Number, 8000)
  .option("--api-key-file <file>", "keys, one a line; BIMEDIX_API_KEY holds one more")
  .option("--allow-host <name...>", "further names under which the server may be addressed")
  .option("--max-sequences <n>", "answers that are written at one time", Number, 16)
  .option("--max-queue <n>", "requests that may wait", Number, 64)
  .option(
    "--cached-tokens <n>",
    "tokens of earlier conversations that stay computed; they take memory and no time",
    Number,
    4096,
  )
  .option("--deadline <seconds>", "the longest that a request may take", Number, 600)
  .option("--grace <seconds>", "how long requests may go on after SIGTERM", Number, 30)
  .option("--log-prompts", "write what is asked and answered into the log")
  .action(async (options) => (await import("./serve.js")).serve(options, program.version()!));

program
  .command("convert <dir|hub-id>")
  .description("write the model as onnx/model{,_quantized,_q4,_bnb4}.onnx, in the layout of Transformers.js")
  .addOption(new Option("--dtype <dtype>", "precision of the weights").choices([...dtypes]).default("q8"))
  .option("--output <dir>", "where onnx/ goes; default: the model's own directory")
  .action(async (model: string, options) => (await import("./convert.js")).convert_model(model, options));

program
  .command("merge <model> <adapter>")
  .description("write a model with a LoRA adapter added into its weights, as safetensors")
  .requiredOption("--output <dir>", "where the model goes")
  .action(async (model: string, adapter: string, options) =>
    (await import("./train.js")).merge(model, adapter, options),
  );

program
  .command("train [recipe] [overrides...]")
  .description("train an adapter (QLoRA on attention, experts and router) or a model, as a recipe in YAML says")
  .option("--resume", "go on from the newest checkpoint in output_dir")
  .option("--keys", "list what stands in a recipe, with defaults")
  .addOption(new Option("--engine <engine>", "where it runs").choices(["local", "axolotl"]).default("local"))
  .option("--dry-run", "with --engine axolotl: write its files and start nothing")
  .option("--json", "print one JSON object at the end")
  .action(async (recipe: string | undefined, overrides: string[], options) =>
    (await import("./train.js")).train(recipe, overrides, options),
  );

try {
  const [node, script, ...args] = process.argv as [string, string, ...string[]];
  await program.parseAsync([node, script, ...(args[0] === "eval" ? ["eval", ...from_harness(args.slice(1))] : args)]);
} catch (error) {
  // A person's mistake is one line; a mistake of this program keeps its stack.
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 1;
  else if (error instanceof BimedixError) {
    process.stderr.write(`bimedix: ${error.message}\n`);
    process.exitCode = 1;
  } else throw error;
}
