/**
 * lm-evaluation-harness's own flags (lm_eval/_cli/run.py at 0.4.13) on `bimedix eval`: those that mean something here become this
 * program's, the others are refused with what to do instead.
 */
import { BimedixError } from "../errors.js";

/** The same under another name. A value follows where it does here. */
const SAME: Readonly<Record<string, string>> = {
  "-f": "--num-fewshot",
  "--output_path": "--output",
  "-o": "--output",
  "--apply_chat_template": "--apply-chat-template",
  "-t": "--tasks",
  "-L": "--limit",
  "-M": "--model",
};

/** What happens anyway. */
const ALWAYS = new Set(["--log_samples", "-s"]);

const REFUSED: Readonly<Record<string, string>> = {
  "--config": "give its keys as flags",
  "-C": "give its keys as flags",
  "--batch_size": "leave it out: no batch changes a score here, and memory does not grow with it",
  "-b": "leave it out: no batch changes a score here, and memory does not grow with it",
  "--max_batch_size": "leave it out: no batch changes a score here",
  "--device": "leave it out: models run on the CPU, or on a server by --model URL",
  "--use_cache": "leave it out: the same command goes on where it was interrupted",
  "-c": "leave it out: the same command goes on where it was interrupted",
  "--cache_requests": "leave it out: prompts are made anew in a moment",
  "--gen_kwargs": "leave it out: these tasks score options and generate nothing",
  "--samples": "write those questions to a file of their own and name it in --tasks",
  "-E": "write those questions to a file of their own and name it in --tasks",
  "--system_instruction": "leave it out: prompts are the tasks' own",
  "--fewshot_as_multiturn": "leave it out: with --apply-chat-template shots are turns",
  "--include_path": "name a .jsonl or .csv file of questions in --tasks",
  "--seed": "leave it out: shots are drawn with 1234, the harness's default",
  "--trust_remote_code": "leave it out: no code of a model or data set is ever run",
  "--confirm_run_unsafe_code": "leave it out: no code is ever run",
  "--predict_only": "leave it out: scores cost no more",
  "-x": "leave it out: scores cost no more",
  "--write_out": "read samples_*.jsonl, which hold every prompt",
  "-w": "read samples_*.jsonl, which hold every prompt",
  "--show_config": "read configs in results_*.json",
  "--check_integrity": "leave it out: all data is checked before the first question",
  "--verbosity": "leave it out",
  "-v": "leave it out",
  "--metadata": "leave it out: no task here takes any",
  "--wandb_args": "read results_*.json with it",
  "--wandb_config_args": "read results_*.json with it",
  "--trackio_args": "read results_*.json with it",
  "--hf_hub_log_args": "upload the folder of --output",
};

/** The harness's names for kinds of models, which are no models. */
const KINDS = /^(hf|hf-auto|huggingface|local-completions|openai-completions|vllm|dummy)$/;

function refuse(given: string, todo: string, expected = "a flag of bimedix eval"): never {
  throw new BimedixError("bad_option", { given, expected, todo });
}

/** Arguments of `eval` in this program's words. @throws BimedixError bad_option */
export function from_harness(args: readonly string[]): string[] {
  const out: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const [flag, joined] = split(args[i]!);
    const same = SAME[flag];
    if (REFUSED[flag] !== undefined) refuse(flag, REFUSED[flag]);
    if (ALWAYS.has(flag)) continue;
    if (flag === "--model_args" || flag === "-a") {
      const pairs = joined === undefined ? [] : [joined];
      while (joined === undefined && /^[^-][^=]*=/.test(args[i + 1] ?? "")) pairs.push(args[++i]!);
      out.push(...model_args(pairs.join(",")));
    } else if (flag === "--model" || flag === "-M") {
      const name = joined ?? args[++i];
      // With --model_args this is only the kind of model.
      if (name !== undefined && !KINDS.test(name)) out.push("--model", name);
      else if (!args.some((one) => /^(--model_args|-a)(=|$)/.test(one)))
        refuse(`--model ${name ?? ""}`, "pass --model DIRECTORY, a hub id, or the URL of a server's /v1", "a model");
    } else if (same === "--apply-chat-template") {
      const name = joined ?? (/^-/.test(args[i + 1] ?? "-") ? undefined : args[++i]);
      if (name !== undefined && !/^true$/i.test(name))
        refuse(`${flag} ${name}`, "put that template into the model's folder");
      out.push(same);
    } else if (same) out.push(same, ...(joined === undefined ? [] : [joined]));
    else out.push(args[i]!);
  }
  return out;
}

/** `--flag=value` in its parts. */
function split(argument: string): [string, string | undefined] {
  const at = argument.startsWith("--") ? argument.indexOf("=") : -1;
  return at < 0 ? [argument, undefined] : [argument.slice(0, at), argument.slice(at + 1)];
}

const DTYPES: Readonly<Record<string, string>> = { float32: "fp32", float: "fp32", fp32: "fp32" };

function model_args(text: string): string[] {
  const pairs = text.split(",").filter(Boolean);
  const given = new Map(pairs.map((pair) => [pair.split("=")[0]!.trim(), pair.slice(pair.indexOf("=") + 1).trim()]));
  const take = (name: string) => {
    const value = given.get(name);
    given.delete(name);
    return value;
  };
  const out: string[] = [];
  const url = take("base_url")?.replace(/\/(chat\/)?completions\/?$/, "");
  const [model, pretrained, dtype, bos] = [take("model"), take("pretrained"), take("dtype"), take("add_bos_token")];
  const place = url === undefined ? pretrained : `${url}${model === undefined ? "" : `#${model}`}`;
  if (place !== undefined) out.push("--model", place);
  const adapter = take("peft");
  if (adapter !== undefined) out.push("--adapter", adapter);
  const tokenizer = take("tokenizer");
  if (tokenizer !== undefined) out.push("--tokenizer", tokenizer);
  if (bos !== undefined) out.push("--add-bos", /^(true|1)$/i.test(bos) ? "true" : "false");
  if (dtype !== undefined) {
    const known =
      DTYPES[dtype] ?? refuse(`dtype=${dtype} in --model_args`, "use --dtype fp32, q8, q4 or bnb4", "float32");
    out.push("--dtype", known);
  }
  for (const name of given.keys())
    refuse(
      `${name} in --model_args`,
      "leave it out",
      "pretrained, dtype, peft, tokenizer, add_bos_token, base_url or model",
    );
  return out;
}
