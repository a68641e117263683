/** What a run leaves, damaged: refused by name, never read as something else. And two runs with one place for their results. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { compare_runs } from "../../src/eval/compare.js";
import { corpus_files } from "../../src/eval/contamination.js";
import { mcqa_task } from "../../src/eval/datasets.js";
import { read_journal } from "../../src/eval/journal.js";
import { local_model } from "../../src/eval/model.js";
import { file_stem, folder_name } from "../../src/eval/names.js";
import { to_results, write_results } from "../../src/eval/results.js";
import { type EvalModel, run_tasks, with_run } from "../../src/eval/run.js";
import type { Task } from "../../src/eval/tasks.js";
import { rejects, root } from "../fixtures.js";

const questions = Array.from({ length: 70 }, (_, i) => ({
  question: `What is sign ${i}?`,
  options: ["fever", "cough", "rash"],
  answer: i % 3,
}));

let dir: string;
let file: string;
let model: EvalModel & { dispose: () => Promise<void> };
let task: Task;
before(async () => {
  dir = await mkdtemp(join(tmpdir(), "bimedix-damage-"));
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
const bimedix = (...args: string[]) =>
  spawnSync(process.execPath, ["dist/src/cli/main.js", ...args], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, HF_HUB_OFFLINE: "1" },
  });

describe("a journal", () => {
  let folder: string;
  let journal: string;
  let lines: string[];
  before(async () => {
    folder = await output();
    ({ file: journal } = await run_tasks(model, { tasks: [task], output: folder }));
    lines = (await readFile(journal, "utf8")).trimEnd().split("\n");
  });
  const again = () => run_tasks(model, { tasks: [task], output: folder });
  const write = (list: readonly string[]) => writeFile(journal, list.map((line) => `${line}\n`).join(""));
  /** A line with a change, as this version or, without its checksum, as an earlier one wrote it. */
  // biome-ignore lint/suspicious/noExplicitAny: what is damaged has no type
  const changed = (line: string, change: (value: any) => void, old = false) => {
    const value = JSON.parse(line);
    if (old) delete value.sha256;
    change(value);
    return JSON.stringify(value);
  };

  test("with a damaged line is refused with the line's number, and not begun anew behind it", async () => {
    const [header, first, second, third] = lines as [string, string, string, string];
    const damaged: [string[], RegExp][] = [
      [[header, first.slice(0, 300), second, third], /line 2: not JSON/],
      [[header, first, second.replace("cough", "cougg"), third], /line 3: not what its checksum says/],
      [[header.replace('"limit":null', '"limit":7'), first], /line 1: not what its checksum says/],
      [[header, changed(first, (value) => (value.batch = -1), true)], /line 2: batch: /],
      [[header, changed(first, (value) => (value.batch = 3), true)], /line 2: batch 3 of 3/],
      [[header, changed(first, (value) => (value.samples[4].acc = 1 - value.samples[4].acc), true)], /samples\.4: /],
      [[header, changed(first, (value) => (value.samples[4].filtered_resps[0][0] = "-1.0"), true)], /samples\.4: /],
      [[header, changed(first, (value) => (value.samples[4].target = "9"), true)], /samples\.4: expected.*hashes/],
      [[header, changed(first, (value) => (value.samples[4].arguments.gen_args_1.arg_0 = ""), true)], /samples\.4: /],
      [[header, changed(first, (value) => (value.samples[4].doc.answer = 9), true)], /question 4 of mine with another/],
      [[header, changed(first, (value) => (value.samples[4].doc_id = 5), true)], /question 5 of mine, which stands/],
      [[header, changed(first, (value) => (value.samples[4].doc_id = 70), true)], /question 70 of mine, which the run/],
      [[header, changed(first, (value) => (value.samples[4].task = "x"), true)], /question 4 of x, which the run/],
      [[header, changed(first, (value) => delete value.samples[4].arguments.gen_args_1, true)], /as many scores/],
      [[changed(header, (value) => delete value.run.tasks, true), first], /line 1: run\.tasks/],
      [[header, changed(first, (value) => value.samples.pop(), true), second, third], /other questions of mine/],
    ];
    for (const [list, message] of damaged) {
      await write(list);
      await rejects(again(), "bad_data", message);
      assert.equal((await readFile(journal, "utf8")).split("\n").length, list.length + 1, "nothing is lost");
    }
  });

  test("of an earlier version, without checksums, is read", async () => {
    const old = lines.map((line) => changed(line, () => {}, true));
    await write(old.slice(0, 3));
    const { run } = await again();
    assert.equal(run.entries.length, 3);
    assert.equal((await read_journal(journal)).entries.length, 3);
  });

  test("that is a device is refused, and not read for ever", async () => {
    await rejects(read_journal("/dev/zero"), "file_unreadable", /is a pipe or a device/);
  });

  test("of another run is not written over", async () => {
    const other = changed(lines[0]!, (value) => (value.key = "0".repeat(64)), true);
    await write([other]);
    await rejects(again(), "bad_data", /holds another run/);
    assert.equal(await readFile(journal, "utf8"), `${other}\n`);
  });
});

test("a run that another process scores is refused, and its results are one set of files", async () => {
  const folder = await output();
  await with_run(model, { tasks: [task], output: folder }, async ({ run }) => {
    await rejects(run_tasks(model, { tasks: [task], output: folder }), "in_use", /bimedix eval \(process \d+ on /);
    // What a killed writer left goes with the next results.
    await writeFile(join(folder, "nano", `.bimedix-${"0".repeat(16)}.part`), "half");
    const [first, second] = [
      await write_results(run, to_results(run), folder),
      await write_results(run, to_results(run), folder),
    ];
    assert.deepEqual(first, second, "the date is the run's");
  });
  const names = (await readdir(join(folder, "nano"))).map((name) => name.replace(/_.*\./, "_."));
  assert.deepEqual(names.sort(), ["results_.json", "run_.jsonl", "samples_.jsonl"]);
});

test("two of the same command at once: one ends, the other names it", async () => {
  const folder = await output();
  const start = () => {
    const args = ["dist/src/cli/main.js", "eval", "--tasks", file, "--output", folder];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ["ignore", "ignore", "pipe"] });
    let stderr = "";
    child.stderr.on("data", (text) => (stderr += text));
    return new Promise<{ status: number | null; stderr: string }>((done) =>
      child.on("close", (status) => done({ status, stderr })),
    );
  };
  const both = await Promise.all([start(), start()]);
  for (const { status, stderr } of both) {
    assert.ok(status === 0 || /in_use|where bimedix eval \(process \d+/.test(stderr), stderr);
    assert.doesNotMatch(stderr, /\n\s+at /);
  }
  assert.ok(both.some(({ status }) => status === 0));
  const names = await readdir(join(folder, "nano"));
  assert.ok(
    names.every((name) => /^(results|samples|report)_/.test(name)),
    names.join(),
  );
});

test("names longer than a file system takes are cut, each to its own", async () => {
  const name = "ب".repeat(110);
  assert.ok(Buffer.byteLength(file_stem(name)) <= 200);
  assert.match(file_stem(name), /^ب{95}_[0-9a-f]{8}$/);
  assert.notEqual(file_stem(name), file_stem(`${name.slice(1)}ت`));
  assert.equal(file_stem("mine"), "mine");
  for (const dots of ["..", ".", "", "a/../b\u0000"]) {
    const folder = folder_name(dots);
    assert.ok(!["", ".", ".."].includes(folder) && !folder.includes("/") && !folder.includes("\u0000"));
  }
  const long = join(dir, `${name}.jsonl`);
  await writeFile(long, JSON.stringify(questions[0]));
  const folder = await output();
  const { status, stderr } = bimedix("eval", "--tasks", long, "--output", folder);
  assert.equal(status, 0, stderr);
  const { tasks } = await compare_runs(folder, folder);
  assert.equal(tasks[0]!.questions, 1);
});

test("where nothing can be written is known before the model is loaded", async () => {
  for (const place of [file, "/dev/null", "/dev/null/x"]) {
    const { status, stderr } = bimedix("eval", "--tasks", file, "--model", "/no/model", "--output", place);
    assert.equal(status, 1);
    assert.ok(stderr.startsWith(`bimedix: ${place}`) && stderr.split("\n").length === 2, stderr);
  }
});

test("compare refuses rows and results that are not one run's", async () => {
  const date = "2026-01-01T00-00-00.000000";
  const rows = Array.from({ length: 4 }, (_, i) => ({ doc_id: i, doc_hash: `h${i}`, acc: i % 2 }));
  const side = async (name: string, list: readonly unknown[], results: unknown = {}) => {
    const folder = join(dir, name);
    await mkdir(folder, { recursive: true });
    await writeFile(join(folder, `results_${date}.json`), JSON.stringify(results));
    await writeFile(join(folder, `samples_q_${date}.jsonl`), list.map((row) => `${JSON.stringify(row)}\n`).join(""));
    return folder;
  };
  const good = await side("good", rows, { results: { q: { "acc,none": 0.5 } }, config: { limit: null } });
  assert.equal((await compare_runs(good, good)).all.difference, 0);
  const cases: [string, readonly unknown[], unknown, RegExp][] = [
    ["null", [null, ...rows], {}, /line 1: expected object/],
    ["acc", rows.with(1, { ...rows[1]!, acc: 256 }), {}, /line 2: acc: /],
    ["id", rows.with(1, { ...rows[1]!, doc_id: 0 }), {}, /line 2: question 0, which stands there twice/],
    ["mean", rows.with(0, { ...rows[0]!, acc: 1 }), { results: { q: { "acc,none": 0.5 } } }, /another accuracy/],
    ["limit", rows, { config: { limit: "all" } }, /config\.limit/],
  ];
  for (const [name, list, results, message] of cases)
    await rejects(compare_runs(good, await side(name, list, results)), "bad_data", message);
});

test("a corpus is looked through before anything is scored: what is cut short, links in a circle, pipes", async () => {
  const corpus = join(dir, "corpus");
  await mkdir(join(corpus, "below"), { recursive: true });
  await writeFile(join(corpus, "below/a.txt"), "words");
  await symlink(corpus, join(corpus, "below/loop"));
  await mkdir(join(dir, "linked"));
  await writeFile(join(dir, "linked/b.txt"), "words");
  await symlink(join(dir, "linked"), join(corpus, "linked"));
  assert.deepEqual(await corpus_files(corpus), [join(corpus, "below/a.txt"), join(corpus, "linked/b.txt")]);
  await symlink(join(dir, "nothing"), join(corpus, "dangling.txt"));
  await rejects(corpus_files(corpus), "file_not_found", /dangling\.txt/);
  const cut = join(dir, "cut.txt.gz");
  await writeFile(cut, gzipSync(Buffer.alloc(50_000, "some words ")).subarray(0, 60));
  const { stderr } = bimedix("eval", "--tasks", file, "--model", "/no/model", "--contamination", cut);
  assert.match(stderr, /^bimedix: .*cut\.txt\.gz: not whole gzip data[^\n]*\n$/);
  const pipe = join(dir, "pipe.jsonl");
  spawnSync("mkfifo", [pipe]);
  await rejects(corpus_files(pipe), "bad_data", /no regular file/);
  await rejects(mcqa_task(pipe), "bad_data", /no regular file/);
});

test("more other orders than options have are as many as they have", async () => {
  const { run } = await run_tasks(model, { tasks: [task], output: await output(), limit: 2, shuffle_options: 1e9 });
  assert.equal(run.entries[0]!.samples[0]!.bimedix.shuffled!.length, 2);
});
