/** Runs: whole, interrupted, in shards; what is computed once; reports; and the command line around them. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { appendFile, mkdtemp, readdir, readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { mcqa_task } from "../../src/eval/datasets.js";
import { read_journal } from "../../src/eval/journal.js";
import { local_model } from "../../src/eval/model.js";
import { to_html } from "../../src/eval/report.js";
import { merge_runs, to_results, write_results } from "../../src/eval/results.js";
import { type EvalModel, type Run, type RunInfo, run_tasks, type Sample, samples_of } from "../../src/eval/run.js";
import { tables, to_csv, to_latex, to_markdown, to_text } from "../../src/eval/table.js";
import type { Task } from "../../src/eval/tasks.js";
import { max_difference, rejects, root } from "../fixtures.js";

/** Questions of different lengths that begin alike, in two languages. */
const questions = Array.from({ length: 80 }, (_, i) => ({
  id: `q${i}`,
  question:
    i % 2
      ? `ما العلاج المناسب للحالة رقم ${i}؟`
      : `A patient ${"with a long history ".repeat(i % 7)}has sign ${i}. What is it?`,
  options: [`choice ${i}`, "fever", "<img src=x onerror=alert(1)>", `خيار ${i}`].slice(0, 2 + (i % 3)),
  answer: i % 2,
}));

describe("runs", () => {
  let dir: string;
  let file: string;
  let model: EvalModel & { dispose: () => Promise<void> };
  let task: Task;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-run-"));
    file = join(dir, "mine.jsonl");
    await writeFile(file, questions.map((one) => `${JSON.stringify(one)}\n`).join(""));
    task = await mcqa_task(file);
    model = await local_model(join(root, "models/nano"), { dtype: "fp32" });
  });
  after(async () => {
    await model.dispose();
    await rm(dir, { recursive: true });
  });
  const output = () => mkdtemp(join(dir, "out-"));
  const run = async (options: Partial<Parameters<typeof run_tasks>[1]> = {}) =>
    run_tasks(model, { tasks: [task], output: await output(), ...options });
  /** All that a run found, without times. */
  const found = (one: Run) => ({
    samples: Object.fromEntries(samples_of(one)),
    results: { ...to_results(one), date: 0, total_evaluation_time_seconds: "", bimedix: {} },
  });

  test("an interrupted run goes on where it stopped and gives the same to the last bit", async () => {
    const whole = await run();
    const folder = await output();
    const stop = new AbortController();
    await rejects(
      run({ output: folder, signal: stop.signal, on_progress: ({ scored }) => scored > 0 && stop.abort() }),
      "aborted",
      /stopped/,
    );
    const journal = join(folder, "nano", (await readdir(join(folder, "nano")))[0]!);
    const { entries } = await read_journal<Sample, RunInfo>(journal);
    assert.equal(entries.length, 1);
    // A kill may leave a part of a line behind.
    await appendFile(journal, '{"batch":1,"seconds":0.1,"samples":[{"task":"mi');
    let scored = 0;
    const resumed = await run({ output: folder, on_progress: (progress) => (scored = progress.scored) });
    assert.equal(scored, questions.length - 32);
    assert.deepEqual(found(resumed.run), found(whole.run));
    const again = await run({ output: folder, on_progress: (progress) => (scored = -progress.scored) });
    assert.deepEqual(found(again.run), found(whole.run));
  });

  test("any cut of the journal resumes to the same", async () => {
    const folder = await output();
    const whole = await run({ output: folder });
    const bytes = (await readFile(whole.file)).length;
    for (const length of [0, 5, 700, Math.floor(bytes / 2), bytes - 1]) {
      await truncate(whole.file, length);
      assert.deepEqual(found((await run({ output: folder })).run), found(whole.run), `${length} of ${bytes} bytes`);
    }
  });

  test("shards give what one run gives, and are merged only when they belong together and are whole", async () => {
    const whole = await run();
    const parts = await Promise.all([1, 2].map((index) => run({ shard: { index, count: 2 } })));
    assert.deepEqual(found(merge_runs(parts)), found(whole.run));
    assert.throws(() => merge_runs([parts[0]!]), /1 of 3 batches are missing/);
    const other = await run({ shard: { index: 2, count: 2 }, limit: 40 });
    assert.throws(() => merge_runs([parts[0]!, other]), /belong to different runs/);
  });

  test("sharing changes no score: one question at a time, uncached, gives the same within 1e-5 of it", async () => {
    const { run: together } = await run({ num_fewshot: 0 });
    const alone = await local_model(join(root, "models/nano"), { dtype: "fp32", chunk_tokens: 4096 });
    for (const { bimedix, arguments: args } of samples_of(together).get("mine")!.slice(0, 12)) {
      const requests = Object.values(args).map(({ arg_0, arg_1 }) => {
        const [start, all] = [arg_0, arg_0 + arg_1].map((text) => alone.tokenizer.encode(text));
        return { context: start!, continuation: all!.slice(start!.length) };
      });
      const scores: number[] = [];
      for (const request of requests) {
        // Another text between two requests leaves nothing in the cache that they share.
        await alone.engine.score([{ context: [5, 6, 7], continuation: [8] }], { prefix: 0 });
        scores.push((await alone.engine.score([request], { prefix: 0 }))[0]!.logprob);
      }
      assert.ok(max_difference(scores, bimedix.log_likelihoods) < 1e-5 * Math.max(...scores.map(Math.abs)));
    }
    await alone.dispose();
  });

  test("options in other orders", async () => {
    const { run: shuffled } = await run({ shuffle_options: 3, limit: 6 });
    const samples = samples_of(shuffled).get("mine")!;
    assert.deepEqual(
      samples.map(({ bimedix }) => bimedix.shuffled!.length),
      [1, 2, 3, 1, 2, 3],
    );
    const moved = questions.slice(0, 6).map(({ options, answer, ...rest }) => {
      const order = options.map((_, i) => (i + 1) % options.length);
      return { ...rest, options: order.map((i) => options[i]!), answer: order.indexOf(answer) };
    });
    await writeFile(join(dir, "moved.jsonl"), moved.map((one) => `${JSON.stringify(one)}\n`).join(""));
    const direct = await run({ tasks: [await mcqa_task(join(dir, "moved.jsonl"))] });
    for (const [i, { bimedix }] of samples_of(direct.run).get("moved")!.entries()) {
      const { order, log_likelihoods } = samples[i]!.bimedix.shuffled![0]!;
      const back = order.map((_, old) => bimedix.log_likelihoods[order.indexOf(old)]!);
      assert.ok(max_difference(back, log_likelihoods) < 1e-5);
    }
    const changed = to_results(shuffled).bimedix.changed_by_order!.mine!;
    assert.ok(changed >= 0 && changed <= 1);
  });

  test("results say what decided the numbers", async () => {
    const { run: one } = await run({ limit: 4, add_bos: false });
    const { bimedix, "n-samples": sizes } = to_results(one, new Map([["mine", task]]));
    assert.deepEqual(sizes, { mine: { original: 80, effective: 4 } });
    const { model: info, tasks: data, add_bos } = bimedix.run;
    assert.equal(info.dtype, "fp32");
    assert.equal(info.activations, "float32");
    assert.match(info.sha256, /^[0-9a-f]{64}$/);
    assert.equal(info.versions["onnxruntime-node"], "1.30.0");
    assert.equal(add_bos, false);
    assert.match(data[0]!.files[0]!.sha256, /^[0-9a-f]{64}$/);
    assert.ok(bimedix.tokens_per_question.mine! > 20);
  });

  test("every key of lm-evaluation-harness's files is there, with its type", async () => {
    const { run: one } = await run({ limit: 4 });
    const results = to_results(one, new Map([["mine", task]]));
    const folder = await output();
    const written = await write_results(one, results, folder);
    const read = (name: string) => readFile(join(written.folder, name), "utf8");
    const files: Record<string, unknown> = {
      results: JSON.parse(await read(`results_${written.date}.json`)),
      samples: JSON.parse((await read(`samples_mine_${written.date}.jsonl`)).split("\n")[0]!),
    };
    const kind = (value: unknown) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);
    const schema = (await readFile(join(root, "test/fixtures/eval/schema.txt"), "utf8")).trim().split("\n");
    for (const line of schema) {
      const [path, type] = line.split(" ") as [string, string];
      // Groups are there with all tasks of one, a question has its own columns and number of options, a configuration what its task set.
      if (/GROUP|^results\.groups$|^samples\.doc\.|gen_args_[23]|^results\.configs\.TASK\./.test(path)) continue;
      const keys = path.replace("TASK", "mine").split(".");
      const value = keys.reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], files);
      assert.notEqual(value, undefined, path);
      // A version is a number or a text there too.
      const right = [type, "null"].includes(kind(value)) || type === "null" || path.startsWith("results.versions");
      assert.ok(right, `${path}: ${kind(value)}, expected ${type}`);
    }
  });

  test("tables and the page hold every number, and data stays text", async () => {
    const { run: one } = await run({ limit: 12 });
    const results = to_results(one, new Map([["mine", task]]));
    const list = tables(results);
    const accuracy = (100 * (results.results.mine!["acc,none"] as number)).toFixed(1);
    for (const text of [to_text(list), to_markdown(list), to_latex(list), to_csv(list)])
      assert.ok(text.includes(accuracy) && text.includes("mine"), text);
    const page = to_html(one, results, list);
    assert.ok(!page.includes("<img"), "markup of a data set reached the page");
    assert.ok(!/(src|href)=["']?(https?:)?\/\//.test(page));
    assert.match(page, /Content-Security-Policy/);
    assert.equal(page.match(/"dir":"rtl"/g)?.length, 6);
  });

  test("a limit below 1 is a part of each task, rounded up; every output says that there was one", async () => {
    const { run: one } = await run({ limit: 0.101 });
    const results = to_results(one, new Map([["mine", task]]));
    assert.deepEqual(results["n-samples"], { mine: { original: 80, effective: 9 } });
    assert.equal((results.config as { limit: number }).limit, 0.101);
    const list = tables(results);
    const marked = /only the first 10\.1 \\?% of each task's questions \(--limit 0\.101\)/;
    for (const text of [to_text(list), to_markdown(list), to_latex(list), to_csv(list)]) assert.match(text, marked);
    const page = to_html(one, results, list);
    assert.match(page, /<dt>Questions<\/dt><dd>9 of 80<\/dd>/);
    assert.match(page, /<dt>Limit<\/dt><dd>only the first 10\.1 %/);
    // A limit that leaves nothing out is none.
    const whole = to_results((await run({ limit: 80 })).run, new Map([["mine", task]]));
    assert.ok(!to_text(tables(whole)).includes("limit"));
  });

  test("own Arabic questions have Arabic letters, and count as Arabic in the report, also when merged", async () => {
    const own = join(dir, "عربي.jsonl");
    await writeFile(own, questions.map((one) => `${JSON.stringify({ ...one, question: "ما هو؟" })}\n`).join(""));
    const { run: one } = await run({ tasks: [await mcqa_task(own)], limit: 4 });
    const [sample] = samples_of(one).get("عربي")!;
    assert.deepEqual(
      Object.values(sample!.arguments).map(({ arg_1 }) => arg_1),
      [" أ", " ب"],
    );
    assert.match(sample!.arguments.gen_args_0!.arg_0, /^ما هو؟\nأ\. choice 0\nب\. fever\nالإجابة:$/);
    // A merged run has no task of own questions, only what the journal says.
    const results = to_results(one);
    const page = to_html(one, results, tables(results));
    assert.match(page, /<rect class="ar letters"/);
    assert.match(page, /aria-label="Arabic: expected calibration error/);
    assert.ok(!page.includes('aria-label="English'));
    // Of 2, 3, 4 and 2 options.
    const chance = 90 + (560 * (1 / 2 + 1 / 3 + 1 / 4 + 1 / 2)) / 4;
    assert.ok(page.includes(`class="chance" d="M${chance.toFixed(1)} `), `${chance}`);
  });

  test("what is odd about the data is said before the first question and kept in the results", async () => {
    const own = join(dir, "odd.jsonl");
    await writeFile(own, '{"question":"Which vitamin?","options":["D","C","B"],"answer":"B"}\n');
    const said: string[] = [];
    const { run: one } = await run({ tasks: [await mcqa_task(own)], on_warning: (warning) => said.push(warning) });
    assert.match(said.join(), /odd\.jsonl: answers that are a position and also the text.*line 1/);
    assert.deepEqual(to_results(one).bimedix.run.tasks[0]!.warnings, said);
  });

  test("a kill -9 at any moment loses at most the batch in flight; the command goes on and tidies up", async () => {
    const folder = await output();
    const args = ["dist/src/cli/main.js", "eval", "--tasks", file, "--output", folder, "--dtype", "q8", "--json"];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "ignore", "ignore"] });
    const inside = join(folder, "nano");
    for (let lines = 0; lines < 2 && child.exitCode === null; ) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      const names = await readdir(inside).catch(() => []);
      const journal = names.find((name) => name.startsWith("run_"));
      if (journal) lines = (await readFile(join(inside, journal), "utf8").catch(() => "")).split("\n").length - 1;
    }
    child.kill("SIGKILL");
    await new Promise((resolve) =>
      child.exitCode !== null || child.signalCode ? resolve(0) : child.once("exit", resolve),
    );
    // As if it had gone long ago: its lock need not be watched for ten seconds.
    for (const name of await readdir(inside))
      if (name.endsWith(".lock")) await utimes(join(inside, name), new Date(0), new Date(0));
    const json = (where: string) => {
      const call = spawnSync(process.execPath, args.with(5, where), { cwd: root, encoding: "utf8" });
      assert.equal(call.status, 0, call.stderr);
      return { ...JSON.parse(call.stdout), date: 0, total_evaluation_time_seconds: "", bimedix: {} };
    };
    assert.deepEqual(json(folder), json(await output()));
    assert.ok((await readdir(inside)).every((name) => /^(results|samples|report)_/.test(name)));
  });

  test("bad options end in one line", () => {
    // What was typed wrongly ends with 2, what is not there with 1.
    const cases: [string[], RegExp, status?: number][] = [
      [["--tasks", "mmlu_astrology"], /task "mmlu_astrology"; expected bimedix_en/],
      [["--tasks", "mmlu_anatomy", "--data", "/nowhere"], /--data \/nowhere/, 1],
      [["--tasks", file, "--limit", "0"], /--limit 0; expected a whole number from 1, or a part/],
      [["--tasks", file, "--batch_size", "8"], /--batch_size; .*leave it out/],
      [["--tasks", file, "--num-fewshot", "-1"], /--num-fewshot -1/],
      [["--tasks", file, "--shard", "3/2"], /--shard 3\/2/],
      [["--tasks", file, "--num-fewshot", "2", "--output", dir], /2 shots for mine, which has no examples/, 1],
      [["--tasks", file, "--contamination", "/nowhere", "--output", dir], /\/nowhere/, 1],
      [["--tasks", file, "--model", "http://127.0.0.1:9/v1"], /cannot be reached/, 1],
    ];
    for (const [args, message, expected = 2] of cases) {
      const { status, stderr } = spawnSync(process.execPath, ["dist/src/cli/main.js", "eval", ...args], {
        cwd: root,
        encoding: "utf8",
        env: { ...process.env, HF_HUB_OFFLINE: "1" },
      });
      assert.equal(status, expected, stderr);
      const lines = stderr.trim().split("\n");
      assert.match(lines.at(-1)!, message);
      assert.ok(!stderr.includes("    at "), stderr);
    }
  });
});
