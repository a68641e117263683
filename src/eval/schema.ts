/** The shape of a run's journal; `Sample` and `RunInfo` say what the fields mean. */
import { z } from "zod";
import { argmax } from "./metrics.js";
import { float_string, sha256 } from "./python.js";

const count = z.int().min(0);
const token = z.tuple([z.string().nullable(), z.string()]);
/** A log-likelihood and whether it was the likeliest text, in Python's words. */
const response = z.tuple([z.string(), z.enum(["True", "False"])]);
const right = z.union([z.literal(0), z.literal(1)]);
const scores = z.array(z.number()).min(1);

const sample = z
  .looseObject({
    task: z.string(),
    doc_id: count,
    doc: z.record(z.string(), z.unknown()),
    target: z.string(),
    arguments: z.record(z.string().regex(/^gen_args_\d+$/), z.object({ arg_0: z.string(), arg_1: z.string() })),
    resps: z.array(z.tuple([response])),
    filtered_resps: z.array(response),
    filter: z.literal("none"),
    metrics: z.array(z.enum(["acc", "acc_norm"])).min(1),
    doc_hash: z.string(),
    prompt_hash: z.string(),
    target_hash: z.string(),
    acc: right,
    acc_norm: right.optional(),
    bimedix: z.looseObject({
      gold: count,
      log_likelihoods: scores,
      tokens: count,
      truncated: z.boolean(),
      shuffled: z.array(z.object({ order: z.array(count), log_likelihoods: scores })).optional(),
    }),
  })
  .refine(
    ({ arguments: args, resps, filtered_resps, bimedix: { gold, log_likelihoods, shuffled = [] } }) =>
      gold < log_likelihoods.length &&
      [Object.keys(args), resps, filtered_resps, ...shuffled.flatMap((one) => [one.order, one.log_likelihoods])].every(
        ({ length }) => length === log_likelihoods.length,
      ),
    "expected as many scores as options",
  )
  .refine(
    ({ acc, resps, bimedix: { gold, log_likelihoods } }) =>
      acc === Number(argmax(log_likelihoods) === gold) &&
      resps.every(([[score]], i) => score === float_string(log_likelihoods[i]!)),
    "expected acc and resps as the log-likelihoods say",
  )
  .refine(
    ({ resps, filtered_resps, target, target_hash, prompt_hash, arguments: args }) =>
      String(resps) === String(filtered_resps) &&
      target_hash === sha256(target) &&
      Object.values(args).every(({ arg_0 }) => prompt_hash === sha256(arg_0)),
    "expected filtered_resps and the hashes of what stands beside them",
  )
  .refine((one) => one.metrics.every((metric) => one[metric] !== undefined), "expected a value of each metric");

export const entry_schema = z.looseObject({
  batch: count,
  seconds: z.number().min(0),
  samples: z.array(sample).min(1),
});

const task = z.looseObject({
  name: z.string(),
  language: z.enum(["en", "ar"]).optional(),
  original: count,
  effective: count,
  documents: z.string().optional(),
  files: z.array(z.object({ split: z.string(), file: z.string(), sha256: z.string() })),
  warnings: z.array(z.string()).optional(),
});

export const header_schema = z.looseObject({
  key: z.string().regex(/^[0-9a-f]{64}$/, "expected a sha256"),
  batches: z.int().min(1),
  run: z.looseObject({
    model: z.looseObject({
      name: z.string(),
      engine: z.string(),
      dtype: z.string(),
      num_parameters: z.number(),
      sha256: z.string(),
      versions: z.record(z.string(), z.string()),
    }),
    num_fewshot: count,
    limit: z.number().positive().nullable(),
    add_bos: z.boolean(),
    chat_template: z.string().nullable(),
    max_length: z.int().min(1),
    shuffle_options: count,
    tokenizer: z.object({ bos: token, eos: token, pad: token }),
    started: z.number().min(0).max(8.64e12),
    tasks: z
      .array(task)
      .min(1)
      .refine((list) => new Set(list.map(({ name }) => name)).size === list.length, "expected each task once"),
  }),
});

/** A row of samples_*.jsonl as `compare` needs it. Some tasks of the harness have parts of a point. */
export const answer_schema = z.looseObject({
  doc_id: count,
  doc_hash: z.string().optional(),
  acc: z.number().min(0).max(1),
});

/** What `compare` needs of results_*.json. */
export const results_schema = z.looseObject({
  results: z.record(z.string(), z.looseObject({ "acc,none": z.number().optional() })).optional(),
  config: z.looseObject({ limit: z.number().nullish() }).optional(),
});
