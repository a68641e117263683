/**
 * The same numbers as lm-evaluation-harness: every prompt by its hash, every option's log-likelihood, every metric. The fixtures
 * come from tools/make_eval_fixtures.py; BIMEDIX_EVAL_FIXTURES names another folder, such as one of whole test sets.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { local_model } from "../../src/eval/model.js";
import { type Results, to_results } from "../../src/eval/results.js";
import { type EvalModel, type Run, run_tasks, samples_of } from "../../src/eval/run.js";
import { tasks } from "../../src/eval/tasks.js";
import { root, shared, without_shared } from "../fixtures.js";
import { random_mixtral } from "./random_mixtral.js";

interface Fixture {
  num_fewshot: number;
  add_bos: boolean;
  chat: boolean;
  limit: number;
  groups: Record<string, Record<string, number>>;
  tasks: Record<
    string,
    {
      hash: string;
      version: number | string;
      metrics: Record<string, number | "N/A">;
      greedy: boolean[][];
      log_likelihoods: number[][];
    }
  >;
}

const folder = process.env.BIMEDIX_EVAL_FIXTURES ?? join(root, "test/fixtures/eval");
const skip = without_shared("data/mmlu_med_en") || without_shared("tokenizers/mixtral");
const TOLERANCE = 1e-3;

describe("lm-evaluation-harness 0.4.13", { skip }, () => {
  const loaded = new Map<string, Promise<EvalModel & { dispose: () => Promise<void> }>>();
  const load = (name: string) => {
    if (!loaded.has(name)) {
      const dir = name === "nano" ? Promise.resolve(join(root, "models/nano")) : random_mixtral();
      loaded.set(
        name,
        dir.then((found) => local_model(found, { dtype: "fp32" })),
      );
    }
    return loaded.get(name)!;
  };
  const outputs: string[] = [];
  after(async () => {
    for (const model of loaded.values()) await (await model).dispose();
    for (const output of outputs) await rm(output, { recursive: true });
  });

  for (const file of existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".json")) : []) {
    const name = file.replace(/-\d+-\w+\.json$/, "");
    describe(file, () => {
      let fixture: Fixture;
      let run: Run;
      let results: Results;

      test("runs", async () => {
        fixture = JSON.parse(await readFile(join(folder, file), "utf8")) as Fixture;
        const output = await mkdtemp(join(tmpdir(), "bimedix-eval-"));
        outputs.push(output);
        ({ run } = await run_tasks(await load(name), {
          tasks: Object.keys(fixture.tasks).map((task) => tasks.get(task)!),
          data: join(shared, "data"),
          num_fewshot: fixture.num_fewshot,
          limit: fixture.limit,
          add_bos: fixture.add_bos,
          apply_chat_template: fixture.chat,
          output,
        }));
        results = to_results(run);
      });

      test("documents, prompts and targets are the same, byte for byte", () => {
        const hashes = results.task_hashes as Record<string, string>;
        for (const [task, { hash }] of Object.entries(fixture.tasks)) assert.equal(hashes[task], hash, task);
      });

      test("log-likelihoods, predictions and greedy flags", (t) => {
        let worst = 0;
        for (const [task, samples] of samples_of(run)) {
          const { log_likelihoods, greedy } = fixture.tasks[task]!;
          assert.equal(samples.length, log_likelihoods.length);
          for (const [i, { bimedix, resps }] of samples.entries()) {
            const expected = log_likelihoods[i]!;
            for (const [option, value] of bimedix.log_likelihoods.entries())
              worst = Math.max(worst, Math.abs(value - expected[option]!));
            const [first, second] = expected.toSorted((a, b) => b - a) as [number, number];
            if (first - second > TOLERANCE) {
              const chosen = bimedix.log_likelihoods.indexOf(Math.max(...bimedix.log_likelihoods));
              assert.equal(chosen, expected.indexOf(first), `${task} ${i}`);
            }
            assert.deepEqual(
              resps.map(([[, flag]]) => flag === "True"),
              greedy[i],
              `${task} ${i}`,
            );
          }
        }
        t.diagnostic(`largest difference of a log-likelihood: ${worst.toExponential(1)}`);
        assert.ok(worst < TOLERANCE, `${worst}`);
      });

      test("metrics, standard errors, versions and groups", () => {
        const close = (a: unknown, b: unknown, what: string) =>
          assert.ok(a === b || Math.abs((a as number) - (b as number)) < 1e-9, `${what}: ${a}, expected ${b}`);
        for (const [task, { metrics, version }] of Object.entries(fixture.tasks)) {
          for (const [metric, value] of Object.entries(metrics))
            close(results.results[task]![metric], value, `${task} ${metric}`);
          assert.equal((results.versions as Record<string, unknown>)[task], version, task);
        }
        for (const [group, metrics] of Object.entries(fixture.groups)) {
          for (const [metric, value] of Object.entries(metrics))
            close(results.groups![group]![metric], value, `${group} ${metric}`);
        }
      });
    });
  }
});
