/**
 * The verbs of the command line, a record each: help, errors and suggestions come from here. What a verb does is in a file of its
 * own, loaded when it runs.
 */
import type { OptionValues } from "commander";
import { dtypes } from "../model/convert.js";
import { from_harness } from "./harness_flags.js";
import {
  adapter,
  dtype,
  force,
  generation_options,
  json,
  model_options,
  number,
  type OptionRecord,
  one_of,
  seconds,
  whole,
} from "./options.js";

export interface Verb {
  name: string;
  /** What stands after the name: `<needed>`, `[or not]`, `<several...>`. */
  args?: string;
  summary: string;
  /** What other programs call it. */
  also?: readonly string[];
  options: readonly OptionRecord[];
  /** What stands after `bimedix`, and what it does. */
  examples: readonly (readonly [string, string])[];
  /** What is written in another program's words, in this one's. */
  translate?(args: readonly string[]): string[];
  /** Its result is more than what it prints, so it goes on when nobody reads that. */
  leaves_something?: true;
  /** What to do instead of an option that no verb has. */
  unknown_option?(written: string): string | undefined;
  run(args: string[], options: OptionValues, version: string): Promise<void>;
}

const generating = [...model_options, ...generation_options];

const chat: Verb = {
  name: "chat",
  args: "[question...]",
  summary: "answer a question, or open a conversation when there is none",
  also: ["run", "talk"],
  options: [{ flags: "--system <text>", help: "what the model is told before the conversation" }, ...generating],
  examples: [
    ['"What are the signs of asthma?"', "one answer; the word chat may be left out"],
    ["chat", "a conversation; /help shows its commands"],
    ["chat < question.txt", "all that is piped in is one question"],
    ['chat "Explain in simple words:" - < report.txt', "- stands for what is piped in"],
    ["-- serve", "after -- nothing is an option or a verb"],
  ],
  run: async (args, options) => (await import("./chat.js")).chat(args, options as never),
};

const mcqa: Verb = {
  name: "mcqa",
  summary: "choose between options, with the probability of each",
  also: ["mcq"],
  options: [
    {
      flags: "--question <text>",
      help: "the question, in English or Arabic; - reads it from the input",
      required: true,
    },
    { flags: "--options <text...>", help: "two to ten options", required: true },
    ...model_options,
  ],
  examples: [
    ['mcqa --question "Which vitamin prevents scurvy?" --options "Vitamin A" "Vitamin C"', "letters A, B, …"],
    ['mcqa --question "أي فيتامين يقي من الإسقربوط؟" --options "فيتامين أ" "فيتامين ج"', "letters أ، ب، …"],
  ],
  run: async (_, options) => (await import("./questions.js")).mcqa(options as never),
};

const ask: Verb = {
  name: "ask",
  args: "<question...>",
  summary: "answer a question about a text: yes, no or maybe, or freely",
  options: [
    { flags: "--context <file>", help: "the text; - reads it from the input", required: true },
    { flags: "--free", help: "answer in free text" },
    ...generating,
  ],
  examples: [
    ['ask --context note.txt "Does the patient have a fever?"', "yes, no or maybe, with probabilities"],
    ['ask --context - --free "What was found?" < note.txt', "a free answer about what is piped in"],
  ],
  run: async (args, options) => (await import("./questions.js")).ask(args, options as never),
};

const generate: Verb = {
  name: "generate",
  args: "<prompt...>",
  summary: "continue a raw prompt, without a chat template",
  also: ["complete", "completion"],
  options: generating,
  examples: [
    ['generate "The symptoms of anaemia are" --max-new-tokens 40', "a continuation"],
    ["generate - < prompt.txt", "the prompt as it is piped in"],
  ],
  run: async (args, options) => (await import("./questions.js")).generate(args, options as never),
};

const output: OptionRecord = { flags: "--output <dir>", help: "where results go", default: "results" };
const contamination: OptionRecord = {
  flags: "--contamination <corpus...>",
  help: "look for the questions in a training corpus",
};

const evaluate: Verb = {
  name: "eval",
  summary: "score a model on medical benchmarks, as lm-evaluation-harness does",
  also: ["evaluate", "evaluation", "benchmark"],
  options: [
    {
      flags: "--model <dir|hub-id|url>",
      help: "the model, or a server's /v1 (#NAME chooses its model); default: the demonstration",
    },
    adapter,
    { flags: "--tokenizer <dir|hub-id>", help: "of a server's model; default: the name that the server gives it" },
    {
      flags: "--tasks <names>",
      help: "tasks, groups or own files (.jsonl, .csv, .parquet …), with commas between",
      default: "bimedix_en,bimedix_ar",
    },
    { flags: "--list", help: "show the tasks and groups" },
    { flags: "--data <dir>", help: "a folder with the benchmarks' files; default: the hub" },
    { flags: "--num-fewshot <n>", help: "solved examples before each question", value: whole(0), default: 0 },
    {
      flags: "--limit <n>",
      help: "only so many first questions of each task; below 1, such a part of them",
      value: number,
    },
    output,
    {
      flags: "--dtype <dtype>",
      help: `precision of the weights: ${dtypes.join(", ")}; default: fp32 up to a billion parameters, else q8`,
      value: one_of(...dtypes),
    },
    { flags: "--exact", help: "compute q8 and q4 weights in float32 instead of rounding activations to int8" },
    {
      flags: "--add-bos <flag>",
      help: "put <s> in front: true or false; default: as the tokenizer says",
      value: one_of("true", "false"),
    },
    { flags: "--apply-chat-template", help: "ask in the model's own conversation format" },
    {
      flags: "--shuffle-options <k>",
      help: "ask again with the options in k other orders",
      value: whole(0),
      default: 0,
    },
    { flags: "--shard <i/n>", help: "score only part i of n; merge the parts with eval merge" },
    contamination,
    { flags: "--json", help: "print the results as one JSON object" },
  ],
  examples: [
    ["eval --tasks bimedix_en,bimedix_ar", "the published benchmarks, from the hub"],
    ["eval --tasks questions.jsonl --model ../my-model", "own questions: question, options and answer"],
    ["eval --list", "every task, and the files it is read from"],
    ["eval merge results/*/shard*.jsonl", "one result from the parts that --shard wrote"],
  ],
  leaves_something: true,
  translate: from_harness,
  run: async (_, options) => {
    const { evaluate, list_tasks } = await import("./eval.js");
    return options.list ? list_tasks() : evaluate(options as never);
  },
};

const eval_merge: Verb = {
  name: "eval merge",
  args: "<files...>",
  summary: "one run's results from the files that its shards wrote",
  options: [output, contamination, { flags: "--json", help: "print the results as one JSON object" }],
  examples: [["eval merge results/*/shard*.jsonl", "writes what eval without --shard would have written"]],
  leaves_something: true,
  run: async (files, options) => (await import("./eval.js")).merge(files, options as never),
};

const compare: Verb = {
  name: "compare",
  args: "<a> <b>",
  summary: "two results of eval, question by question: differences, intervals, McNemar's test",
  also: ["diff"],
  options: [json],
  examples: [["compare results/base results/tuned", "which model is better, and whether that is chance"]],
  run: async ([a, b], options) => (await import("./eval.js")).compare(a!, b!, options),
};

const serve: Verb = {
  name: "serve",
  summary: "an OpenAI-compatible API and a page for people on this machine",
  also: ["server", "start", "web"],
  options: [
    {
      flags: "--model <dir|hub-id|url>",
      help: "the model, or the /v1 of a server that requests are forwarded to; default: the demonstration",
    },
    { flags: "--name <name>", help: "the name that requests give it; default: its own" },
    { flags: "--adapter <name=dir...>", help: "LoRA adapters, which requests choose as NAME:ADAPTER" },
    dtype,
    {
      flags: "--host <address>",
      help: "where to listen; any but this machine's own needs a key",
      default: "127.0.0.1",
    },
    { flags: "--port <n>", help: "0 takes a free one", value: whole(0, 65535), default: 8000 },
    { flags: "--api-key-file <file>", help: "keys, one a line; BIMEDIX_API_KEY holds one more" },
    { flags: "--allow-host <name...>", help: "further names under which the server may be addressed" },
    { flags: "--max-sequences <n>", help: "answers that are written at one time", value: whole(1), default: 16 },
    { flags: "--max-queue <n>", help: "requests that may wait", value: whole(0), default: 64 },
    {
      flags: "--cached-tokens <n>",
      help: "tokens of earlier conversations that stay computed; they take memory and no time",
      value: whole(0),
      default: 4096,
    },
    { flags: "--deadline <seconds>", help: "the longest that a request may take", value: seconds, default: 600 },
    { flags: "--grace <seconds>", help: "how long requests may go on after SIGTERM", value: seconds, default: 30 },
    { flags: "--log-prompts", help: "write what is asked and answered into the log" },
  ],
  examples: [
    ["serve", "http://127.0.0.1:8000 for people, /v1 for programs"],
    ["serve --model ../my-model --adapter cardiology=../my-adapter --port 8001", "a model and an adapter of your own"],
    ["serve --host 0.0.0.0 --allow-host ward.example.org --api-key-file keys.txt", "for others, who need a key"],
  ],
  leaves_something: true,
  run: async (_, options, version) => (await import("./serve.js")).serve(options as never, version),
};

const convert: Verb = {
  name: "convert",
  args: "<dir|hub-id>",
  summary: "write a model as onnx/model{,_quantized,_q4,_bnb4}.onnx, in the layout of Transformers.js",
  also: ["quantize", "export"],
  options: [dtype, { flags: "--output <dir>", help: "where onnx/ goes; default: the model's own directory" }, force],
  examples: [
    [
      "convert ../Mixtral-8x7B-Instruct-v0.1 --dtype q4 --output mixtral-q4",
      "then: chat --model mixtral-q4 --dtype q4",
    ],
  ],
  leaves_something: true,
  run: async ([model], options) => (await import("./convert.js")).convert_model(model!, options as never),
};

const merge: Verb = {
  name: "merge",
  args: "<model> <adapter>",
  summary: "write a model with a LoRA adapter added into its weights, as safetensors",
  also: ["fuse"],
  options: [
    { flags: "--output <dir>", help: "where the model goes", required: true },
    { flags: "--allow-unchanged", help: "also write a model of which no tensor changed" },
    force,
  ],
  examples: [["merge models/nano runs/first-steps --output my-model", "then: chat --model my-model"]],
  leaves_something: true,
  run: async ([model, adapter], options) => (await import("./merge.js")).merge(model!, adapter!, options as never),
};

const train: Verb = {
  name: "train",
  args: "[recipe] [key=value...]",
  summary: "train an adapter (QLoRA on attention, experts and router) or a model, as a recipe in YAML says",
  also: ["finetune", "fine-tune", "tune", "lora"],
  options: [
    { flags: "--resume", help: "go on from the newest checkpoint in output_dir" },
    { flags: "--keys", help: "list what stands in a recipe, with defaults" },
    {
      flags: "--engine <engine>",
      help: "where it runs: local or axolotl",
      value: one_of("local", "axolotl"),
      default: "local",
    },
    { flags: "--dry-run", help: "with --engine axolotl: write its files and start nothing" },
    { flags: "--json", help: "print one JSON object at the end" },
  ],
  examples: [
    ["train recipes/first-steps.yaml", "a minute on two cores, with data that are here"],
    ["train recipes/first-steps.yaml learning_rate=1e-3 adapter.r=8", "any key of a recipe can be set"],
    ["train recipes/first-steps.yaml --resume", "goes on where a run was stopped"],
    ["train --keys", "every key, with its type, default and meaning"],
  ],
  leaves_something: true,
  unknown_option: (written) =>
    `an option of train, or a key of the recipe as ${written.replace(/^-+/, "").replaceAll("-", "_")}=VALUE`,
  run: async (args, options) => (await import("./train.js")).train(args, options as never),
};

/** Of them `chat` is meant where no verb is named. */
export const default_verb = chat;
export const verbs: readonly Verb[] = [
  chat,
  mcqa,
  ask,
  generate,
  evaluate,
  eval_merge,
  compare,
  serve,
  train,
  merge,
  convert,
];
