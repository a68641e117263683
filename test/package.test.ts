/** The package as an application sees it: by its own name, with the embedded model. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Assistant, AutoModelForCausalLM, AutoTokenizer, BimedixError, EMBEDDED_MODEL } from "bimedix";
import { root } from "./fixtures.js";

const model_id = EMBEDDED_MODEL;
const question = "Hello BiMediX! I've been experiencing increased tiredness in the past week.";

describe("the embedded model", () => {
  test("the card's Getting Started", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(model_id);
    const model = await AutoModelForCausalLM.from_pretrained(model_id, { dtype: "q8" });
    const inputs = tokenizer(question);
    const streamed: number[] = [];
    const outputs = await model.generate({
      ...inputs,
      max_new_tokens: 12,
      seed: 1,
      streamer: ({ token_id }) => streamed.push(token_id),
    });
    assert.deepEqual(outputs[0]!.slice(0, inputs.input_ids[0]!.length), inputs.input_ids[0]);
    assert.deepEqual(outputs[0]!.slice(inputs.input_ids[0]!.length), streamed);
    assert.ok(tokenizer.decode(outputs[0]!, { skip_special_tokens: true }).startsWith(question));
    const iterated: number[] = [];
    for await (const { token_id } of model.stream({ ...inputs, max_new_tokens: 12, seed: 1 })) iterated.push(token_id);
    assert.deepEqual(iterated, streamed);

    const { logits, router } = await model.forward({ ...inputs, output_router_logits: true });
    assert.deepEqual(logits.dims, [1, inputs.input_ids[0]!.length, model.config.vocab_size]);
    assert.equal(logits.data.length, logits.dims[1] * logits.dims[2]);
    assert.equal(router![0]!.length, model.config.num_hidden_layers);
    for (const token of router![0]!.flat()) {
      assert.equal(new Set(token.experts).size, 2);
      assert.ok(Math.abs(token.probabilities.reduce((sum, p) => sum + p, 0) - 1) < 1e-6);
    }
    const padded = inputs.input_ids[0]!.map((_, i) => Number(i > 0));
    await assert.rejects(model.forward({ ...inputs, attention_mask: [padded] }), /attention_mask with zeros/);
    for (const bad of [{}, { input_ids: 1 }, { input_ids: [] }, { ...inputs, stop: 5 }, { ...inputs, stop: [""] }]) {
      await assert.rejects(
        model.generate(bad as unknown as typeof inputs),
        (error) => error instanceof BimedixError && error.code === "bad_option",
      );
    }
    await model.dispose();
    await assert.rejects(model.generate(inputs), (error) => error instanceof BimedixError && error.code === "disposed");
  });

  test("every precision, and stop strings", async () => {
    for (const dtype of ["fp32", "q8", "q4"] as const) {
      const model = await AutoModelForCausalLM.from_pretrained(model_id, { dtype });
      const tokenizer = await AutoTokenizer.from_pretrained(model_id);
      const input_ids = [tokenizer.apply_chat_template([{ role: "user", content: question }])];
      const [ids] = await model.generate({ input_ids, do_sample: false, max_new_tokens: 40, stop: ["."] });
      const answer = tokenizer.decode(ids!.slice(input_ids[0]!.length), { skip_special_tokens: true });
      assert.ok(
        answer.length > 10 && answer.trimEnd().indexOf(".") === answer.trimEnd().length - 1,
        `${dtype}: ${answer}`,
      );
      await model.dispose();
    }
  });

  test("routing asks the engine for no logits", async (t) => {
    const assistant = await Assistant.from_pretrained(model_id);
    const { mock } = t.mock.method(assistant.model.engine, "forward");
    const { tokens, layers } = await assistant.routing("Asthma is");
    assert.deepEqual(
      layers.map(({ length }) => length),
      Array(assistant.model.config.num_hidden_layers).fill(tokens.length),
    );
    assert.deepEqual((await mock.calls[0]!.result!).logits, []);
    await assistant.dispose();
  });

  test("chat, multiple choice and closed questions, in both languages", async () => {
    const assistant = await Assistant.from_pretrained(model_id);
    for (const [text, letters, verdicts] of [
      ["What helps against a sore throat?", "ABC", ["yes", "no", "maybe"]],
      ["ما الذي يفيد في التهاب الحلق؟", "أبج", ["نعم", "لا", "ربما"]],
    ] as const) {
      let answer = "";
      for await (const piece of assistant.chat([{ role: "user", content: text }], { max_new_tokens: 30, seed: 3 }))
        answer += piece;
      assert.ok(answer.trim().length > 0 && !answer.includes("\ufffd"));
      const choice = await assistant.mcqa({ question: text, options: ["a", "b", "c"] });
      assert.deepEqual(
        choice.options.map(({ letter }) => letter),
        [...letters],
      );
      assert.ok(Math.abs(choice.options.reduce((sum, { probability }) => sum + probability, 0) - 1) < 1e-9);
      assert.equal(choice.answer, choice.options.toSorted((a, b) => b.probability - a.probability)[0]!.letter);
      const closed = await assistant.ask({ context: text, question: text });
      assert.deepEqual(
        closed.options.map((option) => option.text),
        verdicts,
      );
    }
    for (const bad of [[], ["one"], ["a", ""], ["a", 5 as never], Array(11).fill("x")]) {
      await assert.rejects(
        assistant.mcqa({ question: "Q", options: bad }),
        (error) => error instanceof BimedixError && error.code === "bad_option",
      );
    }
    await assert.rejects(
      assistant.ask({ context: " ", question: "Q" }),
      (error) => error instanceof BimedixError && error.code === "empty_prompt",
    );
    await assistant.dispose();
  });

  test("a timer goes on during a long prefill, and an abort is answered", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(model_id, { dtype: "q8", chunk_tokens: 64 });
    const long = Array.from({ length: 900 }, (_, i) => 300 + (i % 4000));
    let ticks = 0;
    const timer = setInterval(() => ticks++, 2);
    await model.generate({ input_ids: [long], max_new_tokens: 1 });
    // How often is the machine's business; that it fired at all while the runtime was computing is ours.
    assert.ok(ticks >= 2);
    clearInterval(timer);
    const signal = AbortSignal.timeout(20);
    await assert.rejects(
      model.generate({ input_ids: [long.toReversed()], max_new_tokens: 100, eos_token_id: null, signal }),
      (error) => {
        return error instanceof BimedixError && error.code === "aborted";
      },
    );
    assert.equal((await model.generate({ input_ids: [[1, 5]], max_new_tokens: 2, eos_token_id: null }))[0]!.length, 4);
    await sleep(1);
    await model.dispose();
  });

  test("threads start whatever Node was told, and Node's own messages from them do no harm", () => {
    const script = `
      import { AutoModelForCausalLM, EMBEDDED_MODEL } from ${JSON.stringify(pathToFileURL(join(root, "dist/src/index.js")).href)};
      const model = await AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL);
      const [ids] = await model.generate({ input_ids: [[1, 5]], max_new_tokens: 3, eos_token_id: null });
      console.log(ids.length);
      await model.dispose();`;
    const preload = `data:text/javascript,${encodeURIComponent(script)}`;
    // A module that is preloaded and loads the model is not preloaded in the model's own thread, for ever.
    for (const args of [
      ["--input-type=module", "--eval", script],
      ["--import", preload, "--eval", "0"],
    ]) {
      const env = { ...process.env, WATCH_REPORT_DEPENDENCIES: "1" };
      const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: "utf8", env });
      assert.deepEqual([status, stdout.trim()], [0, "5"], stderr);
    }
  });

  test("many generations do not grow memory", {
    skip: process.env.BIMEDIX_FULL ? false : "slow; npm run test:full",
  }, () => {
    // V8 grows its young generation in steps of several MB whenever it likes: that one is fixed, so that the rest shows.
    const script = join(root, "dist/test/many_generations.js");
    const { stdout, stderr } = spawnSync(process.execPath, ["--max-semi-space-size=2", script], { encoding: "utf8" });
    const [before = 0, after = Number.POSITIVE_INFINITY] = JSON.parse(stdout || "[]") as number[];
    assert.ok(after <= 1.05 * before, `${before} MB, then ${after} MB ${stderr}`);
  });
});
