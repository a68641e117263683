/** generation_config.json: what transformers 5.17 makes of each field (generation/utils.py, generation/configuration_utils.py). */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { parse_json } from "../../src/files.js";
import { AutoModelForCausalLM } from "../../src/index.js";
import { parse_config } from "../../src/model/config.js";
import { parse_generation_config } from "../../src/model/generation_config.js";
import { copy_of, rejects, warnings } from "../fixtures.js";

const config = parse_config({ model_type: "mixtral", vocab_size: 100, max_position_embeddings: 128 }, "config.json");
let file = 0;

async function parsed(json: object): Promise<{ defaults: Record<string, unknown>; told: string }> {
  const heard = warnings();
  const defaults = parse_generation_config(json as Record<string, unknown>, config, `generation_config.json ${++file}`);
  return { defaults: { ...defaults }, told: (await heard()).join("\n") };
}

describe("generation_config.json", () => {
  const none = { top_k: 50, eos_token_id: [2] };
  const silent: [string, object, object][] = [
    ["nothing: transformers' top_k is 50, and config.json's end of a sequence holds", {}, none],
    ["null is a field that was never set", { temperature: null, top_k: null, top_p: null, eos_token_id: null }, none],
    ["temperature 0 is greedy", { do_sample: true, temperature: 0, top_p: 0.9 }, { ...none, top_p: 0.9 }],
    ["top_k 0 keeps all", { do_sample: true, top_k: 0 }, { ...none, do_sample: true, top_k: 0 }],
    ["top_k -1 keeps all", { do_sample: true, top_k: -1 }, { ...none, do_sample: true, top_k: 0 }],
    ["top_p 0 keeps the likeliest alone", { do_sample: true, top_p: 0 }, { ...none, do_sample: true, top_p: 1e-9 }],
    ["no sampling", { do_sample: false, temperature: 0.6 }, { ...none, temperature: 0.6 }],
    ["ends outside the vocabulary", { eos_token_id: [2, 100, -1, 5] }, { ...none, eos_token_id: [2, 5] }],
    ["one end", { eos_token_id: 7 }, { ...none, eos_token_id: [7] }],
    ["a length of the whole context", { max_length: 4096 }, none],
    ["lengths", { max_length: 64, min_new_tokens: 3 }, { ...none, max_length: 64, min_new_tokens: 3 }],
    [
      "tokens that do not occur",
      {
        suppress_tokens: [3, 100],
        begin_suppress_tokens: [4],
        bad_words_ids: [[5, 6], [100]],
        no_repeat_ngram_size: 3,
      },
      { ...none, suppress_tokens: [3], begin_suppress_tokens: [4], bad_words_ids: [[5, 6]], no_repeat_ngram_size: 3 },
    ],
    ["stop_strings", { stop_strings: "</s>" }, { ...none, stop_strings: ["</s>"] }],
    [
      "what does nothing to the tokens, or nothing at this value",
      {
        ...{
          _from_model_config: true,
          bos_token_id: 1,
          pad_token_id: -1,
          transformers_version: "4.44.2",
          use_cache: true,
        },
        ...{ num_beams: 1, early_stopping: false, length_penalty: 1.0, typical_p: 1.0, penalty_alpha: null },
        ...{ cache_implementation: "hybrid", output_scores: true, guidance_scale: 1, forced_bos_token_id: null },
        ...{ num_return_sequences: 1, diversity_penalty: 0.0, renormalize_logits: true, force_words_ids: null },
      },
      none,
    ],
  ];
  for (const [name, json, expected] of silent)
    test(name, async () => assert.deepEqual(await parsed(json), { defaults: expected, told: "" }));

  const told: [object, RegExp][] = [
    [{ num_beams: 4 }, /not applied: num_beams 4\./],
    [{ penalty_alpha: 0.6 }, /penalty_alpha 0\.6/],
    [{ forced_bos_token_id: 5, forced_eos_token_id: [2] }, /forced_bos_token_id 5, forced_eos_token_id \[2\]/],
    [{ typical_p: 0.9, epsilon_cutoff: 3e-4, eta_cutoff: 1e-3 }, /typical_p 0\.9, epsilon_cutoff 0\.0003, eta_cutoff/],
    [{ sequence_bias: [[[5], -2]] }, /sequence_bias/],
    [{ exponential_decay_length_penalty: [15, 1.6] }, /exponential_decay_length_penalty/],
    [{ guidance_scale: 1.5, num_return_sequences: 3 }, /guidance_scale 1\.5, num_return_sequences 3/],
    [{ watermarking_config: { bias: 2.5 } }, /watermarking_config/],
    [{ something_new: 3 }, /something_new 3/],
    [{ temperature: -1, top_p: 1.5, top_k: -2 }, /temperature -1, top_k -2, top_p 1\.5/],
    [{ repetition_penalty: 0, max_new_tokens: 0 }, /repetition_penalty 0, max_new_tokens 0/],
    [{ repetition_penalty: 1e-300, max_time: Number.POSITIVE_INFINITY }, /repetition_penalty 1e-300, max_time null/],
    [{ bad_words_ids: [[]], stop_strings: [""] }, /bad_words_ids \[\[\]\], stop_strings \[""\]/],
    [{ constructor: 1, ["x".repeat(9)]: 2 }, /constructor 1, xxxxxxxxx 2/],
  ];
  for (const [json, mentions] of told)
    test(`told by name and left out: ${Object.keys(json).join(", ")}`, async () => {
      const result = await parsed(json);
      assert.match(result.told, mentions);
      assert.deepEqual(result.defaults, none);
    });

  const refused: [object, RegExp][] = [
    [{ temperature: "0.7" }, /temperature "0\.7"; expected a number/],
    [{ do_sample: "yes" }, /do_sample "yes"; expected true or false/],
    [{ top_k: 2.5 }, /top_k 2\.5; expected an integer/],
    [{ max_new_tokens: [5] }, /max_new_tokens \[5\]; expected an integer/],
    [{ eos_token_id: "2" }, /eos_token_id "2"; expected a token id, or a list/],
    [{ bad_words_ids: [5] }, /bad_words_ids \[5\]; expected a list of token ids/],
    [{ bad_words_ids: {} }, /bad_words_ids \{\}; expected a list of lists/],
    [{ suppress_tokens: 5.5 }, /suppress_tokens 5\.5; expected a list of token ids/],
    [{ stop_strings: [3] }, /stop_strings \[3\]; expected a text/],
  ];
  for (const [json, mentions] of refused)
    test(`refused as damaged: ${JSON.stringify(json)}`, () => rejects(parsed(json), "bad_config", mentions));

  test("NaN is no number, and no error", async () => {
    const { defaults, told } = await parsed(parse_json('{"temperature": NaN, "do_sample": true}') as object);
    assert.deepEqual(defaults, { top_k: 50, eos_token_id: [2], do_sample: true });
    assert.match(told, /temperature/);
  });

  test("what a file says never ends a call", async () => {
    const dir = await copy_of("mixtral-2-experts");
    const settings = { do_sample: true, temperature: 0, top_p: 0, top_k: -1, min_p: null, eos_token_id: [2, 4096] };
    await writeFile(join(dir, "generation_config.json"), JSON.stringify(settings));
    const json = JSON.parse(await readFile(join(dir, "config.json"), "utf8"));
    await writeFile(join(dir, "config.json"), JSON.stringify({ ...json, eos_token_id: -1 }));
    const model = await AutoModelForCausalLM.from_pretrained(dir, { dtype: "fp32", threads: 1 });
    const input_ids = [[3, 17, 40]];
    const greedy = await model.generate({ input_ids, do_sample: false, max_new_tokens: 8 });
    assert.deepEqual(await model.generate({ input_ids, max_new_tokens: 8 }), greedy);
    // As in transformers, top_p 0 leaves one token to whoever asks for samples.
    const sampled = await model.generate({ input_ids, do_sample: true, temperature: 2, max_new_tokens: 8 });
    assert.deepEqual(sampled, greedy);
    await model.dispose();
  });
});
