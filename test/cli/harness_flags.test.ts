/** lm-evaluation-harness's own flags on `bimedix eval`. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { from_harness } from "../../src/cli/harness_flags.js";
import { BimedixError } from "../../src/errors.js";
import { root } from "../fixtures.js";

test("flags that mean the same become this program's", () => {
  const cases: [string, string][] = [
    ["--tasks medqa_4options --num_fewshot 5 --limit 0.1", "--tasks medqa_4options --num_fewshot 5 --limit 0.1"],
    ["-t pubmedqa -f 2 -L 10 -o out", "--tasks pubmedqa --num-fewshot 2 --limit 10 --output out"],
    ["--num_fewshot=5 --output_path=out", "--num_fewshot=5 --output out"],
    ["--apply_chat_template --log_samples", "--apply-chat-template"],
    ["--apply_chat_template true --tasks x", "--apply-chat-template --tasks x"],
    ["--model hf --model_args pretrained=BiMediX/BiMediX-Bi,dtype=float32", "--model BiMediX/BiMediX-Bi --dtype fp32"],
    ["--model=hf -a pretrained=dir,add_bos_token=True,peft=my", "--model dir --adapter my --add-bos true"],
    ["-M hf --model_args pretrained=dir add_bos_token=False -t x", "--model dir --add-bos false --tasks x"],
    [
      "--model local-completions --model_args model=m,base_url=http://127.0.0.1:1/v1/completions,tokenizer=t",
      "--model http://127.0.0.1:1/v1#m --tokenizer t",
    ],
    ["--model models/nano --exact --shard 1/2", "--model models/nano --exact --shard 1/2"],
  ];
  for (const [given, expected] of cases) assert.equal(from_harness(given.split(" ")).join(" "), expected, given);
});

test("the others are refused by name with what to do", () => {
  const cases: [string, RegExp][] = [
    ["--batch_size auto", /^--batch_size;.*leave it out/],
    ["-b 8", /^-b;/],
    ["--device cuda:0", /^--device;.*on the CPU, or on a server/],
    ["--model hf", /^--model hf;.*pass --model DIRECTORY/],
    ["--model hf --model_args pretrained=dir,dtype=bfloat16", /^dtype=bfloat16 in --model_args;.*--dtype fp32, q8/],
    ["--model_args pretrained=dir,parallelize=True", /^parallelize in --model_args; expected pretrained, dtype/],
    ["--apply_chat_template chatml", /chatml;.*model's folder/],
    ["--include_path tasks", /name a .jsonl or .csv file/],
  ];
  for (const [given, message] of cases)
    assert.throws(
      () => from_harness(given.split(" ")),
      (error) => error instanceof BimedixError && message.test(error.message),
      given,
    );
});

test("every flag of lm_eval run 0.4.13 is known", async () => {
  const flags = (await readFile(join(root, "test/fixtures/eval/flags.txt"), "utf8")).trim().split("\n");
  assert.ok(flags.length > 40);
  // --num_fewshot is an option of this program, which takes `_` for `-`.
  const own = ["--model", "--tasks", "--limit", "--num_fewshot", "--help", "-h"];
  for (const flag of flags.filter((one) => !own.includes(one))) {
    let known = false;
    try {
      known = !from_harness([flag, "x=1"]).includes(flag);
    } catch (error) {
      known = error instanceof BimedixError;
    }
    assert.ok(known, flag);
  }
});
