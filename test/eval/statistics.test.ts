/** Statistics against scipy's and numpy's values, comparisons of runs, and contamination. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { bootstrap_interval, compare_runs, comparison_text, mcnemar } from "../../src/eval/compare.js";
import { contamination, corpus_files, words } from "../../src/eval/contamination.js";
import { calibration, group_mean, mean_stderr, per_question } from "../../src/eval/metrics.js";
import { float_string } from "../../src/eval/python.js";
import type { Run, Sample } from "../../src/eval/run.js";
import { max_difference, rejects } from "../fixtures.js";

test("McNemar's exact test is scipy's binomtest", () => {
  const cases = [
    [5, 15, 0.04138946533203125],
    [15, 5, 0.04138946533203125],
    [0, 0, 1],
    [1, 0, 1],
    [30, 31, 1],
    [200, 260, 0.0058839224731039984],
  ] as const;
  for (const [b, c, p] of cases) assert.ok(Math.abs(mcnemar(b, c) - p) < 1e-9, `${b} ${c}: ${mcnemar(b, c)}`);
});

test("the bootstrap interval is numpy's, up to chance", () => {
  const differences = Array.from({ length: 100 }, (_, i) => (i < 15 ? 1 : i < 20 ? -1 : 0));
  assert.ok(max_difference(bootstrap_interval(differences), [0.02, 0.19]) < 0.011);
  assert.deepEqual(bootstrap_interval(differences), bootstrap_interval(differences));
});

test("metrics count characters, take the first maximum, and know no error of one value", () => {
  assert.equal(per_question.acc([-1, -1], ["A", "B"], 0), 1);
  // -6 / 3 characters is more than -4 / 1: the letter that is written with two code units counts once.
  assert.equal(per_question.acc_norm([-4, -6], ["𝔸", "abc"], 1), 1);
  assert.equal(mean_stderr([1]), "N/A");
  assert.equal(mean_stderr([1, 0, 0, 1]), Math.sqrt(1 / 3) / 2);
  assert.deepEqual(group_mean([{ value: 1, stderr: "N/A", size: 1 }], false), { value: 1, stderr: "N/A" });
});

test("calibration of answers that are as right as they claim, and of sure wrong ones", () => {
  const answers = Array.from({ length: 100 }, (_, i) => ({
    log_likelihoods: [Math.log(0.75), Math.log(0.25)],
    gold: i < 75 ? 0 : 1,
  }));
  assert.ok(calibration(answers).ece < 1e-9);
  assert.ok(Math.abs(calibration(answers).brier - 0.375) < 1e-9);
  const sure = calibration([{ log_likelihoods: [0, -50], gold: 1 }]);
  assert.ok(Math.abs(sure.ece - 1) < 1e-9 && Math.abs(sure.brier - 2) < 1e-9);
});

test("numbers are written as Python writes them", () => {
  const cases: [number, string][] = [
    [-1.5, "-1.5"],
    [-3, "-3.0"],
    [0, "0.0"],
    [0.0001, "0.0001"],
    [-0.00001234, "-1.234e-05"],
    [1e16, "1e+16"],
    [123456789012345680, "1.2345678901234568e+17"],
    [1e-7, "1e-07"],
    [1.5e-10, "1.5e-10"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ];
  for (const [value, text] of cases) assert.equal(float_string(value), text);
});

describe("two runs", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-compare-"));
  });
  after(() => rm(dir, { recursive: true }));
  const write = async (name: string, answers: number[], hash = "h", limit: number | null = null) => {
    const folder = join(dir, name, "model");
    await mkdir(folder, { recursive: true });
    const results = JSON.stringify({ config: { limit } });
    await writeFile(join(folder, "results_2026-01-01T00-00-00.000000.json"), results);
    const lines = answers.map((acc, doc_id) => `${JSON.stringify({ doc_id, doc_hash: `${hash}${doc_id}`, acc })}\n`);
    await writeFile(join(folder, "samples_mmlu_anatomy_2026-01-01T00-00-00.000000.jsonl"), lines.join(""));
    return join(dir, name);
  };

  test("are compared question by question", async () => {
    const a = await write("a", [1, 1, 0, 0, 1, 0]);
    const b = await write("b", [1, 0, 1, 1, 1, 1]);
    const { tasks, all } = await compare_runs(a, b);
    assert.equal(tasks[0]!.task, "mmlu_anatomy");
    const { interval: _, ...rest } = all;
    assert.deepEqual(rest, {
      task: "all questions",
      questions: 6,
      accuracy: [0.5, 5 / 6],
      difference: 1 / 3,
      only_first: 1,
      only_second: 3,
      p_value: 0.625,
    });
    assert.match(
      comparison_text({ runs: ["a", "b"], limits: [null, null], tasks, all }),
      /mmlu_anatomy\s+6\s+50\.0\s+83\.3\s+\+33\.3/,
    );
  });

  test("of other questions, or none, are refused", async () => {
    const a = await write("c", [1, 0]);
    await rejects(compare_runs(a, await write("d", [1, 0], "other")), "bad_data", /question 0: not the same/);
    await rejects(
      compare_runs(a, await write("e", [1], "h", 1)),
      "bad_data",
      /mmlu_anatomy with 2 questions in A \(no --limit\) and 1 in B \(--limit 1\)/,
    );
    const both = await compare_runs(await write("f", [1], "h", 1), await write("g", [0], "h", 0.5));
    assert.deepEqual(both.limits, [1, 0.5]);
    assert.match(comparison_text(both), /A .*--limit 1\)\nB .*--limit 0\.5\)/);
    await rejects(compare_runs(a, dir.concat("/nowhere")), "file_not_found", /nowhere/);
    await mkdir(join(dir, "empty"));
    await rejects(compare_runs(a, join(dir, "empty")), "file_not_found", /no results/);
  });
});

describe("contamination", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-corpus-"));
  });
  after(() => rm(dir, { recursive: true }));
  const long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen";
  const arabic = "ما هو العِلاج المناسب لمريض يعاني من ارتفاع في ضغط الدم منذ عشر سنوات كاملة";
  const run = (questions: string[]) => {
    const samples = questions.map((question, doc_id) => ({ task: "mine", doc_id, doc: { question }, acc: doc_id % 2 }));
    return {
      header: { key: "", batches: 1, run: { tasks: [{ name: "mine" }] } },
      entries: [{ batch: 0, seconds: 0, samples: samples as unknown as Sample[] }],
    } as unknown as Run;
  };

  test("thirteen words in a row are found in text, JSON lines and archives, over line ends, marks and case", async () => {
    const plain = words(arabic).join(" ");
    await writeFile(
      join(dir, "wrapped.txt"),
      `${"filler ".repeat(30)}\nTwo, three four\nfive six SEVEN eight nine\nten eleven twelve thirteen; fourteen`,
    );
    await writeFile(
      join(dir, "arabic.jsonl.gz"),
      gzipSync(`${JSON.stringify({ messages: [{ content: `${plain}؟` }] })}\n`),
    );
    await writeFile(join(dir, "near.csv"), `${long.split(" ").slice(0, 12).join(" ")} other\n`);
    const questions = [long, arabic, `${long.split(" ").reverse().join(" ")}`, "too short to say"];
    const files = await corpus_files(dir);
    assert.equal(files.length, 3);
    const { tasks } = await contamination(run(questions), files);
    assert.deepEqual(tasks.mine!.found_ids, [0, 1]);
    assert.equal(tasks.mine!.too_short, 1);
    assert.equal(tasks.mine!.accuracy_clean, 0.5);
    const { tasks: clean } = await contamination(run(questions), [join(dir, "near.csv")]);
    assert.equal(clean.mine!.found, 0);
  });

  test("a corpus without text is refused", async () => {
    await mkdir(join(dir, "empty"));
    await rejects(corpus_files(join(dir, "empty")), "bad_option", /holds no text/);
    await rejects(corpus_files(join(dir, "nowhere")), "file_not_found", /nowhere/);
  });
});
