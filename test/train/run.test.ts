/** Whole runs on the embedded model: stopped, killed, resumed, and what goes wrong. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { read_config } from "../../src/model/config.js";
import { read_adapter } from "../../src/model/read_adapter.js";
import { checkpoints, load_checkpoint, save_checkpoint } from "../../src/train/checkpoint.js";
import { read_log } from "../../src/train/log.js";
import type { Parameter } from "../../src/train/network.js";
import { AdamW } from "../../src/train/optimizer.js";
import { parse_recipe, type Recipe } from "../../src/train/recipe.js";
import { run_training, type TrainEvent } from "../../src/train/run.js";
import { rejects, root } from "../fixtures.js";

const nano = join(root, "models/nano");
let folder = "";

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "bimedix-train-"));
  const line = (i: number) => ({
    messages: [
      { role: "user", content: `Question ${i}: what helps against a headache?` },
      { role: "assistant", content: `Rest, water and time; this is answer number ${i}.` },
    ],
  });
  const lines = Array.from({ length: 40 }, (_, i) => JSON.stringify(line(i)));
  await writeFile(join(folder, "chat.jsonl"), `${lines.join("\n")}\n`);
  const mcqa = { question: "ما هو علاج الصداع؟", options: ["الراحة", "الركض"], answer: "أ" };
  await writeFile(join(folder, "mcqa.jsonl"), `${JSON.stringify(mcqa)}\n`);
});

const recipe_text = (output: string, more = "") => `
base_model: ${nano}
output_dir: ${join(folder, output)}
adapter: { r: 2, lora_alpha: 4, lora_dropout: 0.1 }
quantization: nf4_double
datasets: [{ path: ${join(folder, "chat.jsonl")}, type: chat }, { path: ${join(folder, "mcqa.jsonl")}, type: mcqa, repeat: 3 }]
eval_datasets: [{ path: ${join(folder, "mcqa.jsonl")}, type: mcqa }]
sequence_len: 96
gradient_accumulation_steps: 2
max_steps: 12
learning_rate: 1.0e-3
warmup_steps: 2
logging_steps: 3
save_steps: 4
eval_steps: 6
${more}`;

const recipe = (output: string, ...overrides: string[]): Recipe => parse_recipe(recipe_text(output), "test", overrides);

/** The log without what depends on the clock. */
const losses = async (output: string) =>
  (await read_log(join(folder, output, "log.jsonl"))).map(({ tokens_per_second, eval_runtime, ...entry }) => entry);
const adapter_bytes = (output: string) => readFile(join(folder, output, "adapter_model.safetensors"));

describe("a run", () => {
  test("learns, and leaves an adapter, a log in the Trainer's names, events and two checkpoints", async () => {
    const events: TrainEvent["kind"][] = [];
    const result = await run_training(recipe("whole"), { on_event: ({ kind }) => events.push(kind) });
    assert.deepEqual([result.steps, result.skipped], [12, 0]);
    const log = await read_log(join(folder, "whole/log.jsonl"));
    assert.deepEqual(
      log.filter(({ loss }) => loss !== undefined).map(({ step }) => step),
      [3, 6, 9, 12],
    );
    assert.deepEqual(
      log.filter(({ eval_loss }) => eval_loss !== undefined).map(({ step }) => step),
      [0, 6, 12],
    );
    assert.ok(log.at(-1)!.eval_loss! < log[0]!.eval_loss!, "held-out loss falls");
    const names = [
      "loss",
      "aux_loss",
      "grad_norm",
      "learning_rate",
      "epoch",
      "num_input_tokens_seen",
      "router_entropy",
    ];
    for (const name of [...names, "expert_load"]) assert.ok(name in log[1]!, name);
    assert.ok(log[0]!.eval_mcqa_loss! > 0);
    const files = await readdir(join(folder, "whole"));
    assert.deepEqual(files.filter((name) => name.startsWith("checkpoint")).sort(), ["checkpoint-12", "checkpoint-8"]);
    assert.ok(files.some((name) => name.startsWith("events.out.tfevents.")));
    const { pairs } = await read_adapter(join(folder, "whole"), await read_config(nano));
    assert.equal(pairs.size, 5 * (4 + 1 + 4 * 3));
    for (const kind of ["data", "begin", "step", "log", "checkpoint"] as const) assert.ok(events.includes(kind), kind);
    await rejects(run_training(recipe("whole")), "bad_option", /--resume/);
    await rejects(
      run_training(recipe("hwole"), { resume: true }),
      "bad_option",
      /nothing to resume: .*hwole does not exist/,
    );
  });

  test("stopped and resumed, it is bit for bit the run that never stopped", async () => {
    // At 6 held-out data is measured next.
    for (const at of [5, 6]) {
      const stop = new AbortController();
      const on_event = (event: TrainEvent) => event.kind === "step" && event.step === at && stop.abort();
      const stopped = run_training(recipe("stopped"), { signal: stop.signal, on_event, resume: at === 6 });
      await rejects(stopped, "aborted", /stopped/);
      assert.equal((await checkpoints(join(folder, "stopped")))[0]!.step, at);
      assert.equal((await losses("stopped")).at(-1)!.step, at === 5 ? 3 : 6);
    }
    assert.equal(
      (await losses("stopped")).at(-1)!.eval_loss,
      undefined,
      "a measurement that was stopped is not logged",
    );
    await run_training(recipe("stopped"), { resume: true });
    assert.deepEqual(await losses("stopped"), await losses("whole"));
    assert.ok((await adapter_bytes("stopped")).equals(await adapter_bytes("whole")));
    const other = recipe("stopped", "learning_rate=2e-3");
    await rejects(run_training(other, { resume: true }), "bad_option", /another recipe/);
  });

  test("it goes on where its files were moved to, and not on another base", async () => {
    const base = join(folder, "base");
    await cp(nano, base, { recursive: true, filter: (file) => !file.includes("onnx") });
    const moved = (name: string, ...more: string[]) =>
      recipe("moved", `base_model=${join(folder, name)}`, "max_steps=2", "eval_steps=2", ...more);
    const stop = new AbortController();
    const on_event = (event: TrainEvent) => event.kind === "step" && stop.abort();
    await rejects(run_training(moved("base"), { signal: stop.signal, on_event }), "aborted", /stopped/);
    const weights = join(base, "model.safetensors");
    const bytes = await readFile(weights);
    const trained = Buffer.from(bytes);
    trained[trained.length - 1]! ^= 1;
    trained[trained.length - 500]! ^= 1;
    await writeFile(weights, trained);
    await rejects(run_training(moved("base"), { resume: true }), "bad_option", /another recipe, base or other data/);
    await writeFile(weights, bytes);
    await rename(base, join(folder, "elsewhere"));
    await rename(join(folder, "chat.jsonl"), join(folder, "renamed.jsonl"));
    try {
      const data = [
        `{path: ${join(folder, "renamed.jsonl")}, type: chat}`,
        `{path: ${join(folder, "mcqa.jsonl")}, type: mcqa, repeat: 3}`,
      ];
      const { steps } = await run_training(moved("elsewhere", `datasets=[${data}]`), { resume: true });
      assert.equal(steps, 2);
    } finally {
      await rename(join(folder, "renamed.jsonl"), join(folder, "chat.jsonl"));
    }
  });

  test("killed at any moment, its last checkpoint loads and the run ends the same", async () => {
    const file = join(folder, "killed.yaml");
    await writeFile(file, recipe_text("killed"));
    let begun = false;
    const run = (milliseconds: number | null) =>
      new Promise<number | null>((resolve) => {
        const args = [
          join(root, "dist/src/cli/main.js"),
          "train",
          file,
          "save_steps=1",
          ...(begun ? ["--resume"] : []),
        ];
        begun = true;
        const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
        child.stderr.on("data", (text: Buffer) => {
          if (milliseconds !== null && String(text).includes("saved"))
            setTimeout(() => child.kill("SIGKILL"), milliseconds);
        });
        child.on("exit", resolve);
      });
    for (const milliseconds of [0, 7, 23]) {
      assert.equal(await run(milliseconds), null, "killed");
      assert.ok((await checkpoints(join(folder, "killed"))).length > 0);
      // The next start would watch it for ten seconds, to see that nobody holds it.
      await rm(join(folder, "killed/.bimedix.lock"));
    }
    assert.equal(await run(null), 0);
    assert.ok((await adapter_bytes("killed")).equals(await adapter_bytes("whole")));
    assert.deepEqual(await losses("killed"), await losses("whole"));
    assert.ok(existsSync(join(folder, "killed/curves.html")));
  });

  test("gradients that are not finite are skipped, counted and stop the run after a number in a row", async () => {
    const wild = recipe(
      "wild",
      "learning_rate=1e30",
      "max_grad_norm=0",
      "warmup_steps=0",
      "max_skipped_steps=3",
      "logging_steps=1",
    );
    await rejects(run_training(wild), "non_finite_gradients", /3 steps in a row.*another output_dir/);
    const log = await read_log(join(folder, "wild/log.jsonl"));
    assert.equal(log.at(-1)!.skipped_steps, 3);
  });

  test("a damaged line is named, and stops the run or is skipped, as the recipe says", async () => {
    const damaged = join(folder, "damaged.jsonl");
    const good = (await readFile(join(folder, "chat.jsonl"), "utf8")).split("\n").slice(0, 4);
    const bad = [
      '{"messages": [',
      '{"messages": []}',
      '{"messages": [{"role": "user", "content": "x"}]}',
      '{"messages": [{"role": "judge", "content": "x"}]}',
      "7",
    ];
    await writeFile(damaged, [...good.slice(0, 2), ...bad, ...good.slice(2)].join("\n"));
    const with_data = (output: string, ...more: string[]) =>
      recipe(output, `datasets=[{path: ${damaged}, type: chat}]`, "max_steps=1", ...more);
    await rejects(run_training(with_data("damaged")), "bad_data", /damaged\.jsonl line 3: a line that is not JSON/);
    const reports: string[] = [];
    await run_training(with_data("damaged", "on_damaged_line=skip"), {
      on_event: (event) => {
        if (event.kind === "data") reports.push(...event.report.damaged.map(({ line, reason }) => `${line} ${reason}`));
      },
    });
    assert.equal(reports.length, 5);
    assert.match(
      reports.join("\n"),
      /^3 .*not JSON.*\n4 messages is not a list.*\n5 no message that is the assistant's\n6 .*"judge"\n7 no object$/,
    );
    await writeFile(join(folder, "empty.jsonl"), "\n\n");
    const empty = recipe("empty", `datasets=[{path: ${join(folder, "empty.jsonl")}, type: chat}]`);
    await rejects(run_training(empty), "bad_data", /without an example/);
    const missing = recipe("empty", `datasets=[{path: ${join(folder, "none.jsonl")}, type: chat}]`);
    await rejects(run_training(missing), "file_not_found", /none\.jsonl/);
    const several = recipe("empty", `datasets=[{path: /a/x, type: chat}]`, "eval_datasets=[{path: /a/y, type: chat}]");
    await rejects(run_training(several), "file_not_found", /\/a\/x, \/a\/y/);
  });

  test("on a base in 8 bits it learns as on one in float32", async () => {
    const losses_of = async (output: string, quantization: string, stream: boolean) => {
      const changes = [`quantization=${quantization}`, `stream_weights=${stream}`, "adapter.lora_dropout=0"];
      await run_training(recipe(output, ...changes, "max_steps=9"));
      return (await read_log(join(folder, output, "log.jsonl"))).flatMap(({ loss }) => loss ?? []);
    };
    const [exact, eight] = [await losses_of("exact", "none", false), await losses_of("eight", "int8", true)];
    assert.ok(eight.length === 3 && eight[2]! < 0.85 * eight[0]!, String(eight));
    for (const [i, loss] of eight.entries())
      assert.ok(Math.abs(loss - exact[i]!) < 0.02 * exact[i]!, `${eight} ${exact}`);
  });

  test("full training leaves a model", async () => {
    const full = recipe("full", "adapter=none", "quantization=none", "max_steps=2", "learning_rate=1e-4");
    await run_training(full);
    const { open_checkpoint } = await import("../../src/model/checkpoint.js");
    const { tensors } = await open_checkpoint(join(folder, "full"));
    assert.equal(tensors.get("model.norm.weight")!.dtype, "BF16");
    assert.ok(existsSync(join(folder, "full/tokenizer.json")));
    const onto_itself = { ...full, base_model: join(folder, "full"), output_dir: join(folder, "full/") };
    await rm(join(folder, "full/checkpoint-2"), { recursive: true });
    await rejects(run_training(onto_itself), "bad_option", /the base model's own directory/);
  });
});

test("a full disk leaves the last checkpoint as it was, and nothing half-written", async () => {
  const output = await mkdtemp(join(tmpdir(), "bimedix-full-"));
  const parameter: Parameter = { shape: [2], data: Float32Array.of(1, 2), gradient: new Float32Array(2) };
  const parameters = new Map([["x", parameter]]);
  const optimizer = new AdamW(parameters, { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0 });
  const lock = { check: async () => {} };
  optimizer.step_count = 1;
  const state = { global_step: 1, skipped: 0, skipped_in_a_row: 0, tokens_seen: 5, pending: [], fingerprint: "f" };
  await save_checkpoint(output, { parameters, optimizer, state }, async () => {}, 1, lock);
  parameter.data.set([7, 7]);
  const full = async () => {
    throw Object.assign(new Error("no space"), { code: "ENOSPC" });
  };
  const later = { ...state, global_step: 2 };
  await rejects(
    save_checkpoint(output, { parameters, optimizer, state: later }, full, 1, lock),
    "disk_full",
    /checkpoint-2/,
  );
  assert.deepEqual(await readdir(output), ["checkpoint-1"]);
  assert.deepEqual(await load_checkpoint(join(output, "checkpoint-1"), { parameters, optimizer }), state);
  assert.deepEqual([...parameter.data], [1, 2]);
});
