/** Evaluation that is killed at random moments, alone and two at once: the same results, one set of files, and no part. */
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { command, type Ended, forget_locks, has_stack, moments } from "../kills.js";

describe("evaluation", { skip: process.env.BIMEDIX_FULL ? false : "slow; npm run test:full" }, () => {
  let tasks: string;
  let output: string;
  let whole: string;
  let milliseconds: number;
  const start = (kill_after?: number) =>
    command(["eval", "--tasks", tasks, "--output", output, "--dtype", "q8"], kill_after);
  const samples = async () => {
    const names = await readdir(join(output, "nano"));
    const dates = new Set(names.map((name) => /\d{4}-.*\d{6}/.exec(name)?.[0]));
    assert.equal(names.length, 6 * dates.size, names.join());
    const files = names.filter((name) => name.startsWith("samples_"));
    const texts = await Promise.all(files.map((name) => readFile(join(output, "nano", name), "utf8")));
    assert.equal(new Set(texts).size, 1);
    await rm(output, { recursive: true });
    return texts[0]!;
  };
  before(async () => {
    const folder = await mkdtemp(join(tmpdir(), "bimedix-kills-"));
    [tasks, output] = [join(folder, "mine.jsonl"), join(folder, "results")];
    const question = (i: number) =>
      JSON.stringify({ question: `What is sign ${i}?`, options: ["fever", "cough"], answer: i % 2 });
    await writeFile(tasks, Array.from({ length: 160 }, (_, i) => `${question(i)}\n`).join(""));
    await start();
    await rm(output, { recursive: true });
    const began = performance.now();
    assert.equal((await start()).status, 0);
    milliseconds = performance.now() - began;
    whole = await samples();
  });
  const ends_whole = async ({ status, stderr }: Ended) => {
    assert.equal(status, 0, stderr);
    assert.equal(await samples(), whole);
  };
  const forget = async () => {
    await forget_locks(output);
    await forget_locks(join(output, "nano"));
  };

  test("40 kills, alone", async () => {
    const moment = moments(3, 0.3 * milliseconds, 1.05 * milliseconds);
    for (let kills = 0; kills < 40; ) {
      const ended = await start(moment());
      if (ended.status === 0) {
        await ends_whole(ended);
        continue;
      }
      assert.ok(ended.status === null && !has_stack(ended.stderr), ended.stderr);
      // One of them is waited for, as a person would.
      if (++kills !== 7) await forget();
    }
    await ends_whole(await start());
  });

  test("40 kills of two at once", async () => {
    const moment = moments(4, 0.3 * milliseconds, 1.3 * milliseconds);
    for (let kills = 0; kills < 40; ) {
      const both = await Promise.all([start(moment()), start(moment())]);
      for (const { status, stderr } of both) {
        assert.ok(!has_stack(stderr), stderr);
        if (status !== null && status !== 0) assert.match(stderr, /where bimedix eval \(process/);
        kills += Number(status === null);
      }
      await forget();
      if (both.some(({ status }) => status === 0)) await ends_whole(await start());
    }
    await ends_whole(await start());
  });
});
