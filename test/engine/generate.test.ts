/** `generate` beside transformers (tools/make_generate_fixture.py), its streamers, and the options that it refuses. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { answer_length, prepare_call } from "../../src/engine/generate.js";
import { generation_options } from "../../src/engine/generation_options.js";
import { pretrained_options, tokenizer_options } from "../../src/engine/pretrained_options.js";
import {
  Assistant,
  type AutoModelForCausalLM,
  AutoTokenizer,
  type GenerationConfig,
  AutoModelForCausalLM as Model,
  type ModelGenerateOptions,
  type ProgressInfo,
  TextStreamer,
  type Tokenizer,
} from "../../src/index.js";
import { nearest } from "../../src/nearest.js";
import { rejects, root } from "../fixtures.js";

interface Fixture {
  input_ids: number[][];
  cases: { options: GenerationConfig; output: number[] }[];
  batch: { input_ids: number[][]; attention_mask: number[][]; outputs: number[][] };
  streamed: { false: string; true: string };
}
const fixture = JSON.parse(await readFile(join(root, "test/fixtures/generate.json"), "utf8")) as Fixture;
const nano = join(root, "models/nano");
const greedy = { do_sample: false, repetition_penalty: 1 } as const;

let model: AutoModelForCausalLM;
let tokenizer: Tokenizer;
before(async () => {
  model = await Model.from_pretrained(nano, { dtype: "fp32", threads: 1 });
  tokenizer = await AutoTokenizer.from_pretrained(nano);
});
after(() => model.dispose());

describe("generate", () => {
  for (const { options, output } of fixture.cases)
    test(`${JSON.stringify(options)} is transformers'`, async () => {
      assert.deepEqual(await model.generate({ input_ids: fixture.input_ids, ...greedy, ...options }), [output]);
      // The same options as an object; what stands beside it goes before it.
      const generation_config = { ...options, do_sample: true };
      assert.deepEqual(await model.generate({ input_ids: fixture.input_ids, ...greedy, generation_config }), [output]);
    });

  test("a batch with padding at the left", async () => {
    const { outputs, ...inputs } = fixture.batch;
    const max_length = inputs.input_ids[0]!.length + 6;
    assert.deepEqual(await model.generate({ ...inputs, ...greedy, max_length, eos_token_id: null }), outputs);
    const right = inputs.attention_mask.map((row) => row.toReversed());
    await rejects(model.generate({ ...inputs, attention_mask: right }), "bad_option", /padding at the right.*left/);
    await rejects(model.generate({ ...inputs, attention_mask: [[1]] }), "bad_option", /attention_mask/);
  });

  test("several continuations of each prompt, one after the other", async () => {
    const { input_ids } = fixture;
    const sampled = { do_sample: true, temperature: 5, seed: 3, max_new_tokens: 6, eos_token_id: null } as const;
    const prompts = [input_ids[0]!, input_ids[0]!.slice(0, 3)];
    const outputs = await model.generate({ input_ids: prompts, ...sampled, num_return_sequences: 3 });
    assert.deepEqual(
      outputs.map((output, i) => output.slice(0, prompts[Math.floor(i / 3)]!.length)),
      [0, 0, 0, 1, 1, 1].map((i) => prompts[i]),
    );
    assert.equal(new Set(outputs.map(String)).size, 6);
    // transformers 5.17: "Greedy methods ... do not support `num_return_sequences` different than 1".
    await rejects(model.generate({ input_ids, ...greedy, num_return_sequences: 2 }), "bad_option", /do_sample/);
  });

  test("greedy where do_sample is false, whatever the temperature; sampling with 0 is refused, as in transformers", async () => {
    const { input_ids, cases } = fixture;
    const [{ output }] = cases as [Fixture["cases"][0]];
    for (const temperature of [0, 0.1, 7])
      assert.deepEqual(await model.generate({ input_ids, ...greedy, temperature, max_new_tokens: 24 }), [output]);
    await rejects(model.generate({ input_ids, do_sample: true, temperature: 0 }), "bad_option", /do_sample to false/);
  });

  test("tokens as programs have them: one row, typed arrays, 64-bit integers, a tensor, a conversation's", async () => {
    const [{ output }] = fixture.cases as [Fixture["cases"][0]];
    const [ids] = fixture.input_ids as [number[]];
    const big = BigInt64Array.from(ids.map(BigInt));
    const seen = BigInt64Array.from(ids, () => 1n);
    const dims = [1, ids.length];
    for (const inputs of [
      { input_ids: ids },
      { input_ids: Int32Array.from(ids), attention_mask: ids.map(() => true) },
      { input_ids: [big], attention_mask: [seen] },
      { input_ids: [[...big]], attention_mask: [Uint8Array.from(ids, () => 1)] },
      { input_ids: { data: big, dims }, attention_mask: { data: seen, dims } },
    ])
      assert.deepEqual(await model.generate({ ...inputs, ...greedy, max_new_tokens: 24 }), [output]);
    const chat = tokenizer.apply_chat_template([{ role: "user", content: "Hi" }], { return_dict: true });
    const [answer] = await model.generate({ ...chat, max_new_tokens: 1 });
    assert.deepEqual(answer.slice(0, -1), chat.input_ids);
  });

  test("a prompt that is too long for max_length is refused, as in transformers", async () => {
    const length = fixture.input_ids[0]!.length;
    await rejects(
      model.generate({ input_ids: fixture.input_ids, max_length: length }),
      "bad_option",
      new RegExp(`max_length ${length} with a prompt of ${length} tokens`),
    );
  });

  test("max_time ends a generation between two tokens", async () => {
    const [output] = await model.generate({ input_ids: fixture.input_ids, ...greedy, max_time: 1e-9 });
    assert.equal(output!.length, fixture.input_ids[0]!.length + 1);
  });
});

describe("streamers", () => {
  const stream = async (options: ConstructorParameters<typeof TextStreamer>[1], more: GenerationConfig = {}) => {
    const pieces: string[] = [];
    const streamer = new TextStreamer(tokenizer, { ...options, callback_function: (text) => void pieces.push(text) });
    await model.generate({ input_ids: fixture.input_ids, ...greedy, max_new_tokens: 24, ...more, streamer });
    return pieces;
  };

  test("TextStreamer gives transformers' text word by word, with the prompt or without", async () => {
    const pieces = await stream({ skip_prompt: true });
    assert.equal(pieces.join(""), fixture.streamed.true);
    for (const piece of pieces.slice(0, -1)) assert.match(piece, /[ \n]$/);
    const whole = await stream({});
    assert.equal(whole.join(""), fixture.streamed.false);
    assert.equal(whole[0], "Asthma is");
  });

  test("special tokens as asked for, tokens to their own callback, Arabic whole", async () => {
    const tokens: number[][] = [];
    const eos = {
      eos_token_id: null,
      suppress_tokens: [...Array(model.config.vocab_size).keys()].filter((id) => id !== 2),
    };
    const token_callback_function = (some: number[]) => void tokens.push(some);
    assert.deepEqual(await stream({ skip_prompt: true, token_callback_function }, { ...eos, max_new_tokens: 2 }), []);
    assert.deepEqual(tokens, [[2], [2]]);
    const decode_kwargs = { skip_special_tokens: false };
    const shown = await stream({ skip_prompt: true, decode_kwargs }, { ...eos, max_new_tokens: 2 });
    assert.equal(shown.join(""), "</s></s>");
    const pieces: string[] = [];
    const streamer = new TextStreamer(tokenizer, {
      skip_prompt: true,
      callback_function: (text) => void pieces.push(text),
    });
    const ids = tokenizer.encode("سعال 👩‍⚕️ شديد");
    streamer.put([[1]]);
    for (const id of ids) streamer.put([[id]]);
    streamer.end();
    assert.deepEqual(pieces, ["سعال ", "👩‍⚕️ ", "شديد"]);
    // The next generation begins with a prompt again.
    streamer.put([ids]);
    streamer.end();
    assert.equal(pieces.length, 3);
  });

  test("a streamer of one's own hears the prompt, the tokens and the end; several sequences take a function", async () => {
    const heard: unknown[] = [];
    const { input_ids } = fixture;
    const streamer = { put: (value: number[][]) => heard.push(value), end: () => heard.push("end") };
    const [output] = await model.generate({ input_ids, ...greedy, max_new_tokens: 2, streamer });
    assert.deepEqual(heard, [input_ids, [[output!.at(-2)]], [[output!.at(-1)]], "end"]);
    const two = [...input_ids, ...input_ids];
    await rejects(model.generate({ input_ids: two, streamer }), "bad_option", /one; give a function/);
    const sequences: number[] = [];
    await model.generate({
      input_ids: two,
      max_new_tokens: 1,
      streamer: ({ sequence }) => void sequences.push(sequence),
    });
    assert.deepEqual(sequences, [0, 1]);
    const reasons: unknown[] = [];
    const failing = { ...streamer, abort: (reason: unknown) => reasons.push(reason) };
    await rejects(model.generate({ input_ids: [[1e6]], streamer: failing }), "token_out_of_range", /1000000/);
    assert.equal(reasons.length, 1);
  });
});

describe("options that are not supported are refused by name", () => {
  const refused = (options: object, mentions: RegExp) =>
    rejects(
      model.generate({ input_ids: fixture.input_ids, max_new_tokens: 1, ...options } as ModelGenerateOptions),
      "bad_option",
      mentions,
    );

  test("in generate, its generation_config, and an assistant's chat", async () => {
    for (const [options, mentions] of [
      [{ temprature: 1 }, /temprature 1.*did you mean temperature\?/],
      [{ max_new_token: 1 }, /did you mean max_new_tokens\?/],
      [{ maxNewTokens: 1 }, /the option maxNewTokens/],
      [{ quux: 1 }, /the option quux 1.*leave it out/],
      [{ num_beams: 4 }, /num_beams 4, which generate does not support; expected 1/],
      [{ penalty_alpha: 0.6 }, /penalty_alpha 0\.6/],
      [{ typical_p: 0.9 }, /typical_p 0\.9/],
      [{ return_dict_in_generate: true }, /return_dict_in_generate true.*top_logprobs/],
      [{ logits_processor: [() => {}] }, /logits_processor/],
      [{ stopping_criteria: {} }, /stopping_criteria.*stop_strings/],
      [{ forced_eos_token_id: 2 }, /forced_eos_token_id/],
      [{ generation_config: { topk: 1 } }, /topk.*did you mean top_k\?/],
      [{ top_k: 1.5 }, /top_k 1\.5; expected an integer from 0/],
      [{ top_p: "0.5" }, /top_p "0\.5"; expected a number from 0 to 1/],
      [{ stop_strings: [""] }, /stop_strings/],
      [{ bad_words_ids: [1] }, /bad_words_ids \[1\]; expected lists of token ids/],
      [{ bad_words_ids: [[]] }, /bad_words_ids/],
      [{ logit_bias: { x: 1 } }, /logit_bias/],
      [{ sequence_bias: [[1, 2]] }, /sequence_bias/],
      [{ streamer: {} }, /streamer/],
      [{ __proto__: null, constructor: 1 }, /the option constructor/],
    ] as const)
      await refused(options, mentions);
    const assistant = new Assistant(model, tokenizer);
    const chat = (options: object) => assistant.chat([{ role: "user", content: "x" }], options).next();
    await rejects(chat({ temprature: 1 }), "bad_option", /temperature/);
    await rejects(chat({ num_return_sequences: 2 }), "bad_option", /num_return_sequences/);
  });

  test("a GenerationConfig of transformers 5.17 is accepted at its defaults", async () => {
    // What its to_dict() and _get_default_generation_params() have beside options that are in the table.
    const generation_config = {
      ...{ early_stopping: false, num_beams: 1, use_mtp: null, use_cache: true, cache_implementation: null },
      ...{ cache_config: null, max_cache_len: null, top_h: null, typical_p: 1, epsilon_cutoff: 0, eta_cutoff: 0 },
      ...{ encoder_repetition_penalty: 1, length_penalty: 1, renormalize_logits: null, forced_bos_token_id: null },
      ...{ forced_eos_token_id: null, remove_invalid_values: false, exponential_decay_length_penalty: null },
      ...{ token_healing: null, guidance_scale: null, watermarking_config: null, output_attentions: null },
      ...{ output_hidden_states: null, output_scores: false, output_logits: null, return_dict_in_generate: false },
      ...{ encoder_no_repeat_ngram_size: 0, decoder_start_token_id: null, is_assistant: null },
      ...{ num_assistant_tokens: 20, num_assistant_tokens_schedule: "constant", assistant_confidence_threshold: 0.4 },
      ...{ prompt_lookup_num_tokens: null, max_matching_ngram_size: null, assistant_early_exit: null },
      ...{ assistant_lookbehind: 10, target_lookbehind: 10, assistant_ensemble_weight: null, speculation_type: null },
      ...{ compile_config: null, disable_compile: null, continuous_batching_config: null, low_memory: null },
      ...{ penalty_alpha: null, dola_layers: null, diversity_penalty: 0, num_beam_groups: 1, constraints: null },
      ...{ force_words_ids: null, prefill_chunk_size: null, transformers_version: "5.17.0" },
    } as object;
    const [output] = await model.generate({ input_ids: fixture.input_ids, max_new_tokens: 1, generation_config });
    assert.equal(output.length, fixture.input_ids[0]!.length + 1);
  });

  test("what says nothing is accepted", async () => {
    const options = {
      num_beams: 1,
      use_cache: true,
      pad_token_id: 2,
      tokenizer,
      top_p: null,
      seed: undefined,
      length_penalty: 1,
    };
    const generation_config = { transformers_version: "5.17", _from_model_config: true, early_stopping: false };
    const more = { ...options, generation_config } as object;
    assert.deepEqual(await model.generate({ input_ids: fixture.input_ids, ...greedy, max_new_tokens: 24, ...more }), [
      fixture.cases[0]!.output,
    ]);
  });

  test("in from_pretrained, of models and tokenizers", async () => {
    for (const [options, mentions] of [
      [{ dtpye: "q8" }, /did you mean dtype\?/],
      [{ device: "webgpu" }, /device "webgpu".*"cpu" or "auto"/],
      [{ device_map: "cuda" }, /device_map "cuda"/],
      [{ dtype: "int3" }, /dtype "int3"/],
      [{ dtype: { model: "q8", embed_tokens: "fp16" } }, /dtype \{/],
      [{ quantized: true, dtype: "fp32" }, /quantized true/],
      [{ cache_dir: "x" }, /cache_dir "x".*HF_HUB_CACHE/],
      [{ token: "hf_x" }, /token.*HF_TOKEN/],
      [{ load_in_4bit: true }, /load_in_4bit true.*q4/],
      [{ session_options: { intraOpNumThreads: 2 } }, /session_options.*threads/],
      [{ subfolder: "x" }, /subfolder "x"/],
      [{ model_file_name: "decoder" }, /model_file_name/],
      [{ threads: 0 }, /threads 0; expected an integer from 1 to 1024/],
      [{ isolation: "worker" }, /isolation "worker"; expected "thread" or "process"/],
      [{ adapter: 5 }, /adapter 5/],
    ] as const)
      await rejects(Model.from_pretrained(nano, options as object), "bad_option", mentions);
    await rejects(
      AutoTokenizer.from_pretrained(nano, { revison: "x" } as object),
      "bad_option",
      /did you mean revision\?/,
    );
  });

  test("names of Transformers.js and transformers are applied where they mean something here", async () => {
    const told: ProgressInfo[] = [];
    const options = {
      dtype: { model: "q8" as const },
      device: "cpu",
      local_files_only: true,
      trust_remote_code: true,
      use_external_data_format: true,
      session_options: {},
      progress_callback: (one: ProgressInfo) => void told.push(one),
      threads: 1,
    };
    const loaded = await Model.from_pretrained(nano, options);
    await loaded.dispose();
    await AutoTokenizer.from_pretrained(nano, { use_fast: true, local_files_only: true } as object);
    for (const { status, name } of told) assert.ok(["initiate", "progress", "done"].includes(status) && name === nano);
    await rejects(
      Model.from_pretrained("nobody/has-this-model", { local_files_only: true }),
      "offline",
      /nobody\/has-this-model/,
    );
  });
});

test("a call without a batch is refused as one", async () => {
  const flat = { data: [1, 2, 3], dims: [2, 2] };
  for (const given of [
    undefined,
    {},
    { input_ids: [] },
    { input_ids: "text" },
    { input_ids: ["1"] },
    { input_ids: flat },
  ])
    await rejects(model.generate(given as unknown as ModelGenerateOptions), "bad_option", /not a batch/);
});

test("docs/options.md lists every option", async () => {
  const text = await readFile(join(root, "docs/options.md"), "utf8");
  for (const table of [generation_options, pretrained_options, tokenizer_options])
    for (const name of [...Object.keys(table.options), ...Object.keys(table.without_effect)])
      assert.ok(text.includes(`\`${name}\``), name);
});

test("lengths, stops and times of the model's file are defaults, and none of them refuses a prompt", () => {
  const input_ids = [[1, 2, 3]];
  assert.equal(prepare_call({ input_ids }, { max_length: 3 }).options.max_new_tokens, undefined);
  assert.equal(prepare_call({ input_ids }, { max_length: 5 }).options.max_new_tokens, 2);
  assert.throws(() => prepare_call({ input_ids, max_length: 3 }, {}), /max_length 3 with a prompt of 3 tokens/);
  const file = { stop_strings: ["END"], max_time: 9 };
  assert.deepEqual([prepare_call({ input_ids }, file).stop, prepare_call({ input_ids }, file).max_time], [["END"], 9]);
  assert.deepEqual(prepare_call({ input_ids, stop: "." }, file).stop, ["."]);
  const model = { generation_config: { max_length: 3 }, config: { max_position_embeddings: 100 } };
  assert.deepEqual([answer_length(model, 2), answer_length(model, 3)], [1, 100]);
});

test("the nearest name is a likely one", () => {
  const names = Object.keys(generation_options.options);
  assert.equal(nearest("temprature", names), "temperature");
  assert.equal(nearest("repitition_penalty", names), "repetition_penalty");
  assert.equal(nearest("topk", names), "top_k");
  assert.equal(nearest("sede", names), "seed");
  assert.equal(nearest("quux", names), undefined);
});

test("what is no text, no option and no list of tokens is refused as that", async () => {
  for (const id of [5, 5n, null, {}, [], Symbol("x"), () => {}]) {
    await rejects(Model.from_pretrained(id as string), "bad_option", /a model/);
    await rejects(AutoTokenizer.from_pretrained(id as string), "bad_option", /a model/);
  }
  const dir = join(root, "models/nano");
  await rejects(Model.from_pretrained(dir, { dtype: Symbol("q8") as unknown as "q8" }), "bad_option", /dtype/);
  const many = prepare_call({ input_ids: Array.from({ length: 200_000 }, () => [1]) }, {});
  assert.equal(many.prompts.length, 200_000);
  const model = await Model.from_pretrained(dir);
  const { engine } = model;
  for (const wrong of [5, {}, "x", [null], [5]]) {
    await rejects(engine.score(wrong as never), "bad_option", /token ids/);
    await rejects(engine.forward(wrong as never), "bad_option", /token ids/);
  }
  await rejects(engine.score([{ context: 5, continuation: [1] }] as never), "bad_option", /token ids/);
  await model.dispose();
});
