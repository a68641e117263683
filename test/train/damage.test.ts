/** What a training run leaves, damaged; what no machine can do; who listens and fails; and two runs with one output_dir. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { with_output } from "../../src/lock.js";
import type { ModelConfig } from "../../src/model/config.js";
import { check_parameters } from "../../src/train/bounds.js";
import { checkpoints } from "../../src/train/checkpoint.js";
import { read_log } from "../../src/train/log.js";
import { Plan } from "../../src/train/plan.js";
import { plot_page } from "../../src/train/plot.js";
import { parse_recipe, type Recipe } from "../../src/train/recipe.js";
import { run_training, type TrainOptions } from "../../src/train/run.js";
import { rejects, root } from "../fixtures.js";

let folder = "";
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "bimedix-train-damage-"));
  const line = (i: number) =>
    JSON.stringify({
      messages: [
        { role: "user", content: `question ${i}` },
        { role: "assistant", content: `answer ${i}` },
      ],
    });
  await writeFile(join(folder, "chat.jsonl"), Array.from({ length: 12 }, (_, i) => `${line(i)}\n`).join(""));
});

const recipe = (output: string, ...overrides: string[]): Recipe =>
  parse_recipe(
    `
base_model: ${join(root, "models/nano")}
output_dir: ${join(folder, output)}
adapter: { r: 2, lora_alpha: 4, targets: [q] }
datasets: [{ path: ${join(folder, "chat.jsonl")}, type: chat }]
sequence_len: 64
max_steps: 6
learning_rate: 1.0e-3
logging_steps: 2
save_steps: 1
save_total_limit: 9`,
    "test",
    overrides,
  );

/** Throws once the step has been told. */
const failing_at = (at: number, kind = "step"): NonNullable<TrainOptions["on_event"]> => {
  return (event) => {
    if (event.kind === kind && (!("step" in event) || event.step === at)) throw new RangeError("a listener's own");
  };
};

describe("a checkpoint", () => {
  let whole: string;
  before(async () => {
    await assert.rejects(run_training(recipe("whole"), { on_event: failing_at(3) }), /a listener's own/);
    whole = join(folder, "whole");
    assert.deepEqual(
      (await checkpoints(whole)).map(({ step }) => step),
      [3, 2, 1],
    );
  });

  /** A copy of the run whose newest checkpoint has another state; without checksums unless they are kept. */
  // biome-ignore lint/suspicious/noExplicitAny: what is damaged has no type
  async function damaged(change: (state: any) => void, keep = false): Promise<Recipe> {
    const output = join(folder, "damaged");
    await rm(output, { recursive: true, force: true });
    await cp(whole, output, { recursive: true });
    const file = join(output, "checkpoint-3/trainer_state.json");
    const state = JSON.parse(await readFile(file, "utf8"));
    if (!keep) for (const name of ["sha256", "optimizer_sha256"]) delete state[name];
    change(state);
    await writeFile(file, JSON.stringify(state));
    return recipe("damaged");
  }

  test("with a damaged state is refused by the field's name", async () => {
    const cases: [Parameters<typeof damaged>[0], RegExp, boolean?][] = [
      [(state) => (state.tokens_seen += 1), /not what its checksum says/, true],
      [(state) => (state.pending = 1.5), /pending: expected array/],
      [(state) => (state.pending = ["a"]), /pending\.0: expected object/],
      [(state) => (state.pending[0].entry.step = 9), /the last steps in pending/],
      [(state) => delete state.optimizer_steps, /optimizer_steps/],
      [(state) => (state.optimizer_steps = 4), /as many steps of the optimizer/],
      [(state) => (state.skipped = "0"), /skipped: expected number/],
      [(state) => (state.global_step = 1e9), /as many steps of the optimizer/],
      [(state) => Object.assign(state, { global_step: 900, optimizer_steps: 900, pending: [] }), /state of step 900/],
      [(state) => (state.more = 1), /more/],
    ];
    for (const [change, message, keep] of cases)
      await rejects(run_training(await damaged(change, keep), { resume: true }), "bad_checkpoint", message);
    await damaged((state) => Object.assign(state, { global_step: 900, optimizer_steps: 900, pending: [] }));
    await cp(join(folder, "damaged/checkpoint-3"), join(folder, "damaged/checkpoint-900"), { recursive: true });
    await rejects(run_training(recipe("damaged"), { resume: true }), "bad_option", /another recipe/);
  });

  test("with damaged tensors is refused: their bytes, names, number", async () => {
    for (const [keep, from, to, message] of [
      [true, null, null, /optimizer\.safetensors: not what its checksum says/],
      [false, "exp_avg_sq.", "exp_avg_sx.", /without exp_avg_sq/],
      [false, null, null, /negative squares/],
    ] as const) {
      const one = await damaged(() => {}, keep);
      const file = join(folder, "damaged/checkpoint-3/optimizer.safetensors");
      const bytes = await readFile(file);
      if (from) bytes.write(to, bytes.indexOf(from));
      else bytes.writeFloatLE(-1, bytes.length - 4);
      await writeFile(file, bytes);
      await rejects(run_training(one, { resume: true }), "bad_checkpoint", message);
    }
  });

  test("of an earlier version goes on to the same bits, and a listener that fails costs no step and no line", async () => {
    const one = await damaged(() => {});
    await run_training(one, { resume: true });
    await run_training(recipe("straight"));
    const adapter = (output: string) => readFile(join(folder, output, "adapter_model.safetensors"));
    assert.ok((await adapter("damaged")).equals(await adapter("straight")));
    const steps = async (output: string) => (await read_log(join(folder, output, "log.jsonl"))).map(({ step }) => step);
    assert.deepEqual(await steps("damaged"), await steps("straight"));
    const later: TrainOptions["on_event"] = (async (event: { kind: string }) => {
      if (event.kind === "log") throw new RangeError("a listener's own");
    }) as never;
    await assert.rejects(run_training(recipe("later"), { on_event: later }), /a listener's own/);
    assert.ok((await checkpoints(join(folder, "later"))).length > 0);
  });
});

test("a log is read by its shape, and in its order", async () => {
  const file = join(folder, "log.jsonl");
  const good = {
    step: 1,
    epoch: 0.5,
    loss: 1.5,
    grad_norm: null,
    router_entropy: [1, null],
    expert_load: [[0.5, 0.5]],
  };
  const write = (...list: unknown[]) => writeFile(file, list.map((one) => `${JSON.stringify(one)}\n`).join(""));
  await write(good, { step: 1, epoch: 0.5, eval_loss: 2, eval_x_loss: 2, train_runtime: 1 });
  assert.ok(plot_page("x", await read_log(file)).includes("Held-out loss, x"));
  const cases: [unknown, RegExp][] = [
    [null, /line 2: expected object/],
    [{ ...good, expert_load: 0 }, /line 2: expert_load: /],
    [{ ...good, expert_load: [[1], [1, 2]] }, /line 2: expert_load: /],
    [{ ...good, step: -1 }, /line 2: step: /],
    [{ ...good, step: 0 }, /line 2: step 0 after step 1/],
    [{ ...good, eval_loss: "low" }, /line 2: eval_loss: /],
  ];
  for (const [entry, message] of cases) {
    await write(good, entry);
    await rejects(read_log(file), "bad_data", message);
  }
});

test("what no machine can do is refused by name, before anything is allocated", async () => {
  const cases: [string[], RegExp][] = [
    [[`datasets=[{path: ${join(folder, "chat.jsonl")}, type: chat, repeat: 1000000000}]`], /repeat 1000000000/],
    [["micro_batch_size=1000000000"], /^micro_batch_size 1000000000 with rows of \d+ tokens/],
  ];
  for (const [changes, message] of cases)
    await rejects(run_training(recipe("impossible", ...changes)), "bad_recipe", message);
  const tensors = new Map([["x", [1e6, 1e6] as [number, number]]]);
  const shape = { rank: 65536, scale: 1, dropout: 0, tensors };
  const message = /^adapter\.r 65536 with 131,072,000,000 parameters, for which/;
  assert.throws(() => check_parameters(shape, {} as ModelConfig), { code: "bad_recipe", message });
  assert.throws(() => recipe("x", "max_steps=~", "num_epochs=1000000000"), /num_epochs: .*<=1000000/);
  assert.throws(() => recipe("x", "adapter.r=1000000000"), /adapter\.r: .*<=65536/);
  assert.throws(() => recipe("x", "adapter.lora_alpha=1.0e308"), /adapter\.lora_alpha: Too big/);
  assert.throws(() => recipe("x", "threads=1000000"), /threads: .*<=1024/);
  assert.throws(() => recipe("x", "seed=*nope"), /"seed=\*nope": Unresolved alias/);
  const laughs = `a: &a [1,1,1,1,1,1,1,1,1]\n${[..."bcdefghi"].map((x, i) => `${x}: &${x} [${`*${"abcdefgh"[i]},`.repeat(9)}]`).join("\n")}`;
  assert.throws(() => parse_recipe(laughs, "x"), /alias/);
  const pipe = join(folder, "pipe.jsonl");
  spawnSync("mkfifo", [pipe]);
  const piped = recipe("piped", `datasets=[{path: ${pipe}, type: chat}]`);
  await rejects(run_training(piped), "file_not_found", /pipe\.jsonl/);
});

test("a plan of many epochs keeps one of them", () => {
  const example = { input_ids: new Int32Array(30), learnt: new Uint8Array(30).fill(1) };
  const data = Array.from({ length: 50 }, () => example);
  const plan = new Plan(recipe("x", "max_steps=~", "num_epochs=3000.5"), data);
  // 25 rows of two; a part of an epoch is rounded up.
  assert.equal(plan.steps, 3000 * 25 + 13);
  assert.equal(plan.epoch_at(2999 * 25), 2999);
  assert.equal(plan.epoch_at(0), 0);
  assert.deepEqual(plan.batches(26), new Plan(recipe("x", "max_steps=99"), data).batches(26));
});

test("an output_dir has one writer at a time, whoever comes second is told by whom", async () => {
  const output = join(folder, "taken");
  await with_output(output, "bimedix train", async () => {
    await rejects(run_training(recipe("taken")), "in_use", /taken, where bimedix train \(process \d+ on /);
  });
  await writeFile(join(output, `.bimedix-${"0".repeat(16)}.part`), "half");
  await run_training(recipe("taken"));
  assert.deepEqual(
    (await readdir(output)).filter((name) => name.startsWith(".")),
    [],
  );
});

test("a run that cannot begin leaves nothing", async () => {
  const base = join(folder, "base");
  await cp(join(root, "models/nano"), base, { recursive: true });
  const names = (await readdir(base)).sort();
  const onto_itself = recipe("base", `base_model=${base}`, "adapter=none");
  await rejects(run_training(onto_itself), "bad_option", /the base model's own directory/);
  assert.deepEqual((await readdir(base)).sort(), names);
});

test("a run that lost its place while it slept writes nothing more", async () => {
  const output = join(folder, "robbed");
  const on_event: TrainOptions["on_event"] = (event) => {
    if (event.kind === "step" && event.step === 3)
      spawnSync(process.execPath, [
        "-e",
        `require("fs").writeFileSync(${JSON.stringify(join(output, ".bimedix.lock"))}, "{}")`,
      ]);
  };
  await rejects(run_training(recipe("robbed"), { on_event }), "in_use", /while this one slept/);
  const names = (await readdir(output)).filter((name) => !name.startsWith("events")).sort();
  assert.deepEqual(names, [".bimedix.lock", "checkpoint-1", "checkpoint-2", "log.jsonl"]);
});
