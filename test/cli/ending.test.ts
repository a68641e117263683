/** How the command line ends: a reader who leaves, a signal, a port that cannot be had, files that would be written over. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { report } from "../../src/cli/ending.js";
import { root } from "../fixtures.js";

const main = join(root, "dist/src/cli/main.js");
const nano = join(root, "models/nano");
const base = join(root, "test/fixtures/train/base");
const env = { ...process.env, HF_HUB_OFFLINE: "1" };
const start = (...args: string[]) =>
  spawn(process.execPath, [main, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
const bimedix = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], { encoding: "utf8", env, stdio: ["ignore", "pipe", "pipe"] });

/** The status as a shell gives it, and what was written. */
async function ended(child: ChildProcess): Promise<{ status: number; stdout: string; stderr: string }> {
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name]?.on("data", (chunk: Buffer) => {
      text[name] += chunk.toString();
    });
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) =>
    child.once("close", (...both) => resolve(both)),
  );
  assert.ok(!/\n\s+at /.test(text.stderr), text.stderr);
  return { status: signal ? 128 + constants.signals[signal] : code!, ...text };
}

/** When a child has written something that matches. */
const says = (stream: NodeJS.ReadableStream, what: RegExp) =>
  new Promise<void>((resolve, reject) => {
    let text = "";
    stream.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      if (what.test(text)) resolve();
    });
    stream.once("end", () => reject(new Error(`ended with ${text}`)));
  });

describe("a reader who leaves", () => {
  test("ends an answer quietly, with the status of a broken pipe", async () => {
    const child = start("Tell me about the heart", "--max-new-tokens", "900", "--temperature", "1.5", "--seed", "1");
    child.stdout!.once("data", () => child.stdout!.destroy());
    const { status, stderr } = await ended(child);
    assert.equal(status, 141);
    assert.match(stderr, /^Research demonstration[^\n]*\n$/);
  });

  test("and closed progress end no training", async () => {
    const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
    const child = start("train", await recipe(folder), "max_steps=6");
    child.stderr!.once("data", () => child.stderr!.destroy());
    child.stdout!.destroy();
    assert.equal((await ended(child)).status, 0);
    assert.ok((await readdir(join(folder, "run"))).includes("adapter_model.safetensors"));
  });
});

/** A recipe whose steps take a moment. */
async function recipe(folder: string): Promise<string> {
  const file = join(folder, "recipe.yaml");
  const data = {
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "hello" },
    ],
  };
  await writeFile(join(folder, "data.jsonl"), `${JSON.stringify(data)}\n`);
  await writeFile(
    file,
    JSON.stringify({
      base_model: nano,
      output_dir: join(folder, "run"),
      adapter: { r: 1, lora_alpha: 1, targets: ["q"] },
      datasets: [{ path: "data.jsonl", type: "chat" }],
      eval_datasets: [{ path: "data.jsonl", type: "chat" }],
      sequence_len: 64,
      max_steps: 2,
      learning_rate: 0.001,
      logging_steps: 1,
    }),
  );
  return file;
}

describe("a signal", () => {
  for (const [signal, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)
    test(`${signal} stops a training run with a checkpoint and ${status}`, async () => {
      const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
      const child = start("train", await recipe(folder), "max_steps=100000");
      await says(child.stderr!, /step 2 loss/);
      child.kill(signal);
      const { status: got, stderr } = await ended(child);
      assert.equal(got, status);
      assert.match(stderr, /Stopped\. The same command with --resume goes on\.\n$/);
      assert.ok((await readdir(join(folder, "run"))).some((name) => name.startsWith("checkpoint-")));
    });

  test("ends an answer with its own status", async () => {
    const child = start("Tell me about the heart", "--max-new-tokens", "900", "--temperature", "1.5");
    await says(child.stdout!, /./);
    child.kill("SIGINT");
    assert.equal((await ended(child)).status, 130);
  });
});

test("a port that is taken or does not exist is one line", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  await new Promise((listening) => taken.once("listening", listening));
  const { port } = taken.address() as { port: number };
  const { status, stderr } = await ended(start("serve", "--port", String(port)));
  taken.close();
  assert.equal(status, 2);
  assert.match(stderr, new RegExp(`127.0.0.1:${port}, where another program listens.*choose another --port`));
  const none = bimedix("serve", "--port", "99999");
  assert.deepEqual([none.status, none.stdout], [2, ""]);
  assert.match(
    none.stderr,
    /^bimedix: --port 99999; expected a whole number from 0 to 65535; see bimedix serve --help\.\n$/,
  );
});

test("nothing is written over without --force", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
  const kept = join(folder, "notes.txt");
  await writeFile(kept, "mine");
  const merged = bimedix("merge", nano, "/nowhere", "--output", folder);
  assert.equal(merged.status, 2);
  assert.match(merged.stderr, /exists and is not empty; .*--force/);
  const converted = bimedix("convert", nano, "--dtype", "q8");
  assert.equal(converted.status, 2);
  assert.match(converted.stderr, /model_quantized\.onnx exists; .*--force/);
  assert.equal(await readFile(kept, "utf8"), "mine");
  const again = () => bimedix("convert", base, "--dtype", "q4", "--output", join(folder, "q4"));
  assert.equal(again().status, 0);
  assert.equal(again().status, 2);
  assert.equal(bimedix("convert", base, "--dtype", "q4", "--output", join(folder, "q4"), "--force").status, 0);
});

test("what a killed merge left is nobody's, and the next one goes on", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
  const part = join(folder, `.bimedix-${"0".repeat(16)}.part`);
  await mkdir(part);
  await writeFile(join(part, "config.json"), "{}");
  await writeFile(join(folder, "tokenizer.json"), "{}");
  const { status, stderr } = bimedix("merge", base, join(root, "test/fixtures/train/peft4"), "--output", folder);
  assert.equal(status, 0, stderr);
  assert.ok(!(await readdir(folder)).some((name) => name.startsWith(".")));
  assert.equal(bimedix("merge", base, "/nowhere", "--output", folder).status, 2);
});

/** What another process, killed or alive, left where it writes. */
async function locked_folder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
  const lock = join(folder, ".bimedix.lock");
  await writeFile(lock, JSON.stringify({ what: "a conversion", pid: 1, host: "ward", since: "2026-01-01T10:00:00Z" }));
  return folder;
}
const adapter = join(root, "test/fixtures/train/peft4");

test("who waits for another process says for whom, and Ctrl-C ends it at once", async () => {
  for (const verb of [
    ["convert", base, "--dtype", "q4"],
    ["merge", base, adapter],
  ]) {
    const folder = await locked_folder();
    const child = start(...verb, "--output", folder);
    const end = ended(child);
    await says(child.stderr!, /waiting for a conversion \(process 1 on ward, since 2026-01-01 10:00:00 UTC\)[^\n]*\n/);
    child.kill("SIGINT");
    assert.equal((await end).status, 130);
    // It did not wait until it could take the lock over.
    assert.match(await readFile(join(folder, ".bimedix.lock"), "utf8"), /ward/);
  }
});

test("--resume says when there is nothing to resume", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
  const file = await recipe(folder);
  const mistyped = bimedix("train", file, `output_dir=${join(folder, "rnu")}`, "--resume");
  assert.equal(mistyped.status, 2);
  assert.match(mistyped.stderr, /nothing to resume: .*rnu does not exist/);
  const other = bimedix("train", file, "--resume", join(folder, "run"));
  assert.match(other.stderr, /--resume alone.*add output_dir=/);
});

test("the first steps train with what is in the repository, and say what to do next", async () => {
  const folder = await mkdtemp(join(tmpdir(), "bimedix-"));
  const steps = ["num_epochs=~", "max_steps=3", `output_dir=${join(folder, "run")}`];
  const { status, stderr, stdout } = bimedix("train", join(root, "recipes/first-steps.yaml"), ...steps);
  assert.equal(status, 0, stderr);
  assert.equal(stdout, `${join(folder, "run")}\n`);
  assert.match(stderr, /held_out_english: \d\.\d\d -> \d\.\d\d\n {2}held_out_arabic: \d\.\d\d -> \d\.\d\d\nnext:\n/);
  assert.match(stderr, /\n {2}bimedix chat --adapter .*run\n {2}bimedix merge .*nano .*run --output my-model\n$/);
  const data = bimedix("train", join(root, "recipes/bimedix-nano.yaml"));
  assert.equal(data.status, 1);
  assert.match(data.stderr, /mcqa\.jsonl.*recipes\/first-steps\.yaml has data beside it/);
});

test("a runtime that cannot be loaded is one line with its remedy", (t) => {
  const { mock } = t.mock.method(process.stderr, "write", () => true);
  const before = process.exitCode;
  for (const code of ["ERR_MODULE_NOT_FOUND", "ERR_DLOPEN_FAILED"])
    report(Object.assign(new Error("Cannot find package 'onnxruntime-node'\n at x"), { code }), (text) => text);
  process.exitCode = before;
  for (const call of mock.calls)
    assert.match(String(call.arguments[0]), /^bimedix: ONNX Runtime .*--ignore-scripts\.\n$/);
  assert.equal(mock.callCount(), 2);
});
