/** What every engine keeps to, in this thread and in a worker, at every precision. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { Engine, GenerateOptions } from "../../src/engine/engine.js";
import { LocalEngine } from "../../src/engine/local.js";
import { WorkerEngine } from "../../src/engine/worker.js";
import { BimedixError } from "../../src/errors.js";
import { type Dtype, dtypes } from "../../src/model/convert.js";
import { open_store } from "../../src/model/store.js";
import { max_difference, twins } from "../fixtures.js";

const dir = join(twins, "mixtral-4-experts-bf16");
type Variant = { dtype: Dtype; accuracy_level: 0 | 4 };
/** Every precision as exact as it gets, and the fast mode that is the default for quantised models. */
const variants: Variant[] = [
  ...dtypes.map((dtype) => ({ dtype, accuracy_level: 0 as const })),
  { dtype: "q8", accuracy_level: 4 },
];
const makers = {
  LocalEngine: async ({ dtype, ...options }: Variant) =>
    LocalEngine.create(await open_store(dir, { dtype }), { threads: 1, ...options }),
  WorkerEngine: (options: Variant) => WorkerEngine.create(dir, { threads: 1, ...options }),
  "WorkerEngine in a process": (options: Variant) =>
    WorkerEngine.create(dir, { threads: 1, isolation: "process", ...options }),
};
const prompts = [
  [1, 5, 9, 33, 70, 12],
  [1, 5, 9],
  [1, 80],
];

async function all(engine: Engine, batch: number[][], options: GenerateOptions): Promise<number[][]> {
  const out: number[][] = batch.map(() => []);
  for await (const { sequence, token_id } of engine.generate(batch, options)) out[sequence]!.push(token_id);
  return out;
}

const rejects = (work: () => Promise<unknown>, code: string) =>
  assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof BimedixError, String(error));
    assert.equal(error.code, code);
    assert.ok(!error.message.includes("\n"));
    return true;
  });

for (const [name, make] of Object.entries(makers)) {
  for (const variant of variants) {
    const { dtype, accuracy_level } = variant;
    describe(`${name} ${dtype}, accuracy level ${accuracy_level}`, () => {
      let engine: Engine;
      before(async () => {
        engine = await make(variant);
      });
      after(() => engine.dispose());
      const greedy = { max_new_tokens: 8, eos_token_id: null };

      test("a batch equals its members alone", async () => {
        const together = await all(engine, prompts, greedy);
        for (const [i, prompt] of prompts.entries())
          assert.deepEqual(await all(engine, [prompt], greedy), [together[i]]);
        assert.deepEqual(await all(engine, [prompts[0]!, prompts[0]!], greedy), [together[0], together[0]]);
      });

      test("scores equal the logits of forward", async () => {
        const [prompt] = prompts as [number[]];
        const { logits } = await engine.forward([prompt]);
        const vocab = logits[0]!.length / prompt.length;
        const scores = await engine.score(
          [4, 5].map((at) => ({ context: prompt.slice(0, at), continuation: prompt.slice(at) })),
        );
        for (const [i, from] of [4, 5].entries()) {
          let expected = 0;
          let is_greedy = true;
          for (let at = from; at < prompt.length; at++) {
            const row = [...logits[0]!.subarray((at - 1) * vocab, at * vocab)];
            const max = Math.max(...row);
            expected += row[prompt[at]!]! - max - Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
            is_greedy &&= row.indexOf(max) === prompt[at];
          }
          // The fast mode reads the context back from a float16 cache; these weights are large, so that shows.
          assert.ok(Math.abs(scores[i]!.logprob - expected) < (accuracy_level === 0 ? 1e-4 : 2e-2));
          assert.equal(scores[i]!.is_greedy, is_greedy);
        }
      });

      test("router logits alone are those beside the logits", async () => {
        const both = await engine.forward(prompts);
        const { logits, router_logits } = await engine.forward(prompts, { output_logits: false });
        assert.deepEqual(logits, []);
        for (const [i, router] of both.router_logits!.entries())
          assert.ok(max_difference(router, router_logits![i]!) === 0);
      });

      test("what requests share is computed once, and changes nothing", async () => {
        const beginning = [1, 5, 9, 33, 70, 12, 8];
        const requests = [
          { context: [...beginning, 20, 21], continuation: [30, 31] },
          { context: [...beginning, 20, 21], continuation: [32] },
          { context: [...beginning, 20, 21], continuation: [30] },
          { context: [...beginning, 20], continuation: [21, 30, 31] },
          { context: beginning.slice(0, 3), continuation: [33, 70] },
          { context: [...beginning, 40, 41, 42], continuation: [43] },
          { context: [2], continuation: [3] },
        ];
        const alone: { logprob: number; is_greedy: boolean }[] = [];
        for (const request of requests) {
          await engine.score([{ context: [90], continuation: [91] }], { prefix: 0 });
          alone.push((await engine.score([request], { prefix: 0 }))[0]!);
        }
        const tolerance = accuracy_level === 0 ? 1e-5 : 2e-2;
        const check = (scores: readonly { logprob: number; is_greedy: boolean }[], indices: number[]) => {
          for (const [i, index] of indices.entries()) {
            assert.ok(Math.abs(scores[i]!.logprob - alone[index]!.logprob) < tolerance, `request ${index}`);
            if (accuracy_level === 0) assert.equal(scores[i]!.is_greedy, alone[index]!.is_greedy);
          }
        };
        check(await engine.score(requests), [...requests.keys()]);
        const some = [0, 2, 5, 1];
        const picked = some.map((i) => requests[i]!);
        const first = await engine.score(picked, { prefix: beginning.length });
        check(first, some);
        await engine.score([requests[5]!], { prefix: beginning.length });
        assert.deepEqual(await engine.score(picked, { prefix: beginning.length }), first);
        assert.deepEqual(await engine.score([]), []);
      });

      test("eos ends a sequence and null does not", async () => {
        const [[first, second]] = (await all(engine, [prompts[0]!], greedy)) as [number[]];
        const ended = await all(engine, [prompts[0]!], { max_new_tokens: 8, eos_token_id: [second!] });
        assert.deepEqual(ended[0], first === second ? [first] : [first, second]);
      });

      test("a seed repeats a sample, and another differs", async () => {
        const sample = (seed: number) =>
          all(engine, [prompts[1]!], { ...greedy, max_new_tokens: 24, do_sample: true, temperature: 5, seed });
        assert.deepEqual(await sample(1), await sample(1));
        assert.notDeepEqual(await sample(1), await sample(2));
        assert.deepEqual(
          await all(engine, [prompts[1]!], { ...greedy, do_sample: true, top_k: 1 }),
          await all(engine, [prompts[1]!], greedy),
        );
      });

      test("an abort stops a generation, and leaving the loop does; the engine goes on", async () => {
        const expected = await all(engine, [prompts[0]!], greedy);
        const controller = new AbortController();
        let seen = 0;
        await rejects(async () => {
          for await (const _ of engine.generate([[3, 4, 5]], {
            max_new_tokens: 100,
            eos_token_id: null,
            signal: controller.signal,
          })) {
            if (++seen === 3) controller.abort();
          }
        }, "aborted");
        assert.ok(seen < 100);
        for await (const _ of engine.generate([[3, 4, 6]], { max_new_tokens: 100, eos_token_id: null })) break;
        assert.deepEqual(await all(engine, [prompts[0]!], greedy), expected);
      });

      test("the context's length ends a sequence", async () => {
        const [long] = await all(engine, [Array(120).fill(7)], { max_new_tokens: 100, eos_token_id: null });
        assert.equal(long!.length, 8);
      });

      test("calls at the same time do not disturb each other", async () => {
        const alone = await all(engine, [prompts[0]!], greedy);
        const results = await Promise.all([
          all(engine, [prompts[0]!], greedy),
          engine.forward([prompts[1]!]),
          all(engine, [prompts[0]!], greedy),
        ]);
        assert.deepEqual([results[0], results[2]], [alone, alone]);
        assert.ok(max_difference((await engine.forward([prompts[1]!])).logits[0]!, results[1].logits[0]!) === 0);
      });

      test("bad prompts and options are named", async () => {
        const bad: [number[], GenerateOptions, string][] = [
          [[], {}, "empty_prompt"],
          [[96], {}, "token_out_of_range"],
          [[-1], {}, "token_out_of_range"],
          [[1.5], {}, "token_out_of_range"],
          [Array(128).fill(1), {}, "context_length_exceeded"],
          [[1], { max_new_tokens: 0 }, "bad_option"],
          [[1], { max_new_tokens: 1.5 }, "bad_option"],
          [[1], { temperature: 0, do_sample: true }, "bad_option"],
          [[1], { bad_words_ids: [[96]] }, "token_out_of_range"],
          [[1], { logit_bias: { 96: 1 } }, "token_out_of_range"],
          [[1], { temperature: Number.NaN }, "bad_option"],
          [[1], { top_p: 2 }, "bad_option"],
          [[1], { top_k: -1 }, "bad_option"],
          [[1], { min_p: -1 }, "bad_option"],
          [[1], { repetition_penalty: 0 }, "bad_option"],
          [[1], { seed: 0.5 }, "bad_option"],
        ];
        for (const [prompt, options, code] of bad) await rejects(() => all(engine, [prompt], options), code);
        await rejects(() => engine.score([{ context: [1], continuation: [] }]), "empty_prompt");
        await rejects(() => engine.score([{ context: [], continuation: [1, 2] }]), "empty_prompt");
        await rejects(() => engine.forward([[1, 96]]), "token_out_of_range");
      });
    });
  }

  test(`${name} after dispose`, async () => {
    const engine = await make(variants[1]!);
    const writing = all(engine, [[1]], { max_new_tokens: 100, eos_token_id: null }).catch(() => {});
    await Promise.all([engine.dispose(), engine.dispose()]);
    await engine.dispose();
    await writing;
    await rejects(() => all(engine, [[1]], {}), "disposed");
  });
}
