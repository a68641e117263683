/** Training that is killed at random moments, alone and two at once: it goes on to the same bits, and leaves no part. */
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { checkpoints } from "../../src/train/checkpoint.js";
import { read_log } from "../../src/train/log.js";
import { root } from "../fixtures.js";
import { command, type Ended, forget_locks, has_stack, moments } from "../kills.js";

describe("training", { skip: process.env.BIMEDIX_FULL ? false : "slow; npm run test:full" }, () => {
  let recipe: string;
  let output: string;
  let whole: Buffer;
  let milliseconds: number;
  const STEPS = 12;
  before(async () => {
    const folder = await mkdtemp(join(tmpdir(), "bimedix-kills-"));
    output = join(folder, "run");
    recipe = join(folder, "recipe.yaml");
    const messages = [
      { role: "user", content: "hi" },
      { role: "assistant", content: "hello" },
    ];
    await writeFile(join(folder, "data.jsonl"), `${JSON.stringify({ messages })}\n`);
    await writeFile(
      recipe,
      JSON.stringify({
        base_model: join(root, "models/nano"),
        output_dir: output,
        adapter: { r: 1, lora_alpha: 1, targets: ["q"] },
        datasets: [{ path: "data.jsonl", type: "chat" }],
        sequence_len: 64,
        max_steps: STEPS,
        learning_rate: 0.001,
        logging_steps: 1,
        save_steps: 1,
      }),
    );
    const began = performance.now();
    assert.equal((await command(["train", recipe, `output_dir=${output}-whole`])).status, 0);
    milliseconds = performance.now() - began;
    whole = await readFile(join(`${output}-whole`, "adapter_model.safetensors"));
  });

  const start = async (kill_after?: number): Promise<Ended> => {
    const resume = (await checkpoints(output)).length > 0 ? ["--resume"] : [];
    return command(["train", recipe, ...resume], kill_after);
  };
  const ends_whole = async ({ status, stderr }: Ended) => {
    assert.equal(status, 0, stderr);
    assert.ok((await readFile(join(output, "adapter_model.safetensors"))).equals(whole));
    const steps = (await read_log(join(output, "log.jsonl"))).map(({ step }) => step);
    assert.deepEqual(
      steps,
      Array.from({ length: STEPS }, (_, i) => i + 1),
    );
    assert.deepEqual(
      (await readdir(output, { recursive: true })).filter((name) => /\.part|\.lock/.test(name)),
      [],
    );
    await rm(output, { recursive: true });
  };

  test("40 kills, alone", async () => {
    const moment = moments(1, 0.2 * milliseconds, milliseconds);
    for (let kills = 0; kills < 40; ) {
      const ended = await start(moment());
      if (ended.status === 0) {
        await ends_whole(ended);
        continue;
      }
      assert.ok(ended.status === null && !has_stack(ended.stderr), ended.stderr);
      // One of them is waited for, as a person would.
      if (++kills !== 7) await forget_locks(output);
    }
    await ends_whole(await start());
  });

  test("40 kills of two at once", async () => {
    const moment = moments(2, 0.2 * milliseconds, milliseconds);
    for (let kills = 0; kills < 40; ) {
      const both = await Promise.all([start(moment()), start(moment())]);
      for (const { status, stderr } of both) {
        assert.ok(!has_stack(stderr), stderr);
        // The second is refused, or comes when the first has left a checkpoint or all.
        if (status !== null && status !== 0) assert.match(stderr, /where bimedix train \(process|add --resume/);
        kills += Number(status === null);
      }
      await forget_locks(output);
      const done = both.find(({ status }) => status === 0);
      if (done) await ends_whole(await start());
    }
    await ends_whole(await start());
  });
});
