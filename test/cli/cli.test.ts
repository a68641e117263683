/** The command line as a person meets it: exit codes, one-line errors, JSON. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { root, twins } from "../fixtures.js";

function bimedix(
  args: string[],
  input = "",
  environment = process.env,
): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(root, "dist/src/cli/main.js"), ...args], {
    encoding: "utf8",
    input,
    env: { ...environment, HF_HUB_OFFLINE: "1" },
  });
}

test("a question is answered on stdout and the notice stands beside it, in the question's language", () => {
  const english = bimedix(["Hello, I have a headache", "--max-new-tokens", "8"]);
  assert.equal(english.status, 0, english.stderr);
  assert.ok(english.stdout.trim().length > 0);
  assert.match(english.stderr, /not medical advice/);
  assert.match(bimedix(["مرحبا، عندي صداع", "--max-new-tokens", "4"]).stderr, /ليس نصيحة طبية/);
});

test("verbs print JSON", async () => {
  const context = join(await mkdtemp(join(tmpdir(), "bimedix-")), "note.txt");
  await writeFile(context, "The patient reports a headache.");
  const lines = [
    bimedix(["chat", "hi", "--json", "--max-new-tokens", "3"]),
    bimedix(["mcqa", "--question", "Which?", "--options", "a", "b", "--json"]),
    bimedix(["ask", "Does the patient have a headache?", "--context", context, "--json"]),
    bimedix(["generate", "The symptoms", "--json", "--max-new-tokens", "3", "--temperature", "0"]),
  ];
  for (const { stdout, status } of lines) {
    assert.equal(status, 0);
    assert.equal(typeof JSON.parse(stdout), "object");
  }
});

test("nothing leaves the machine: no telemetry of the runtime is prepared or kept", async () => {
  const home = await mkdtemp(join(tmpdir(), "bimedix-"));
  const { CI: _, ...env } = process.env;
  const { status } = bimedix(["hi", "--max-new-tokens", "2"], "", { ...env, HOME: home, TMPDIR: home });
  assert.equal(status, 0);
  assert.deepEqual(await readdir(home), []);
});

test("a model that cannot be loaded is an error, and not the end of a process that waits for nothing", async () => {
  const model = await mkdtemp(join(tmpdir(), "bimedix-"));
  await cp(join(root, "models/nano"), model, { recursive: true });
  const config = JSON.parse(await readFile(join(model, "config.json"), "utf8"));
  await writeFile(join(model, "config.json"), JSON.stringify({ ...config, num_key_value_heads: 8 }));
  for (const verb of [["hi"], ["generate", "hi"], ["mcqa", "--question", "Which?", "--options", "a", "b"]]) {
    const { status, stderr } = bimedix([...verb, "--model", model]);
    assert.equal(status, 1, stderr);
    assert.match(stderr, /bimedix: .*model_quantized\.onnx.*convert the model again/);
  }
});

test("what is piped in is one question, whole or where - stands", () => {
  const short = ["--json", "--max-new-tokens", "2", "--temperature", "0"];
  const question = (args: string[], input: string) => JSON.parse(bimedix([...args, ...short], input).stdout).question;
  assert.equal(question([], "I am 40.\nI have a cough.\n/quit\n"), "I am 40.\nI have a cough.\n/quit");
  assert.equal(question(["chat", "In short:", "-"], "ما هو السكري؟\n"), "In short:\n\nما هو السكري؟");
  const prompt = JSON.parse(bimedix(["generate", "-", ...short], "Asthma is\n").stdout).prompt;
  assert.equal(prompt, "Asthma is\n");
  const asked = ["ask", "Does the patient have a cough?", "--context", "-", "--json"];
  assert.equal(JSON.parse(bimedix(asked, "The patient coughs.").stdout).language, "en");
});

test("what fails is one line and exits with 1", () => {
  const cases: [string[], RegExp][] = [
    [["hi", "--model", "/nowhere"], /nowhere/],
    [["hi", "--model", "org/name"], /cannot be reached/],
    [["ask", "q", "--context", "/nowhere.txt"], /nowhere\.txt/],
    [["ask", "q", "--context", root], /is a folder; .* name a file in it|may not/],
    [
      ["eval", "--tasks", join(root, "LICENSE"), "--limit", "0.5"],
      /LICENSE: an unknown kind of file; expected \.jsonl/,
    ],
    [["convert", "/nowhere"], /nowhere/],
    [["word ".repeat(3000)], /600\d tokens; expected at most 1023/],
    [["hi", "--model", join(twins, "llama3-rope")], /tokenizer/],
  ];
  for (const [args, mentions] of cases) {
    const { status, stdout, stderr } = bimedix(args);
    assert.equal(status, 1, args.join(" ").slice(0, 80));
    assert.equal(stdout, "");
    assert.match(stderr, mentions);
    assert.ok(!/\n\s+at /.test(stderr), stderr);
  }
});

test("what cannot be meant is one line and exits with 2", () => {
  const cases: [string[], RegExp][] = [
    [[], /no question/],
    [["hi", "--top_p", "7"], /^bimedix: --top_p 7; /],
    [["hi", "--temperature", "-1"], /^bimedix: --temperature -1; expected a number from 0/],
    [["sevre"], /did you mean bimedix serve\?/],
    [["eval", "--tasks", ""], /without a task/],
    [["eval", "--tasks", "bimedx_en"], /bimedx_en/],
    [["serve", "--model", "http://"], /^bimedix: --model http:\/\/; expected the URL/],
    [
      ["mcqa", "--question", "q", "--options", "a, b"],
      /1 option; expected 2 to 10 texts; .* each option as a text of its own/,
    ],
  ];
  for (const [args, mentions] of cases) {
    const { status, stdout, stderr } = bimedix(args);
    assert.equal(status, 2, `${args.join(" ")} ${stderr}`);
    assert.equal(stdout, "");
    assert.match(stderr, mentions);
    assert.match(stderr, /^[^\n]*\n$/);
  }
});

test("train refuses an option that belongs to the other engine", () => {
  const recipe = join(root, "recipes/bimedix-nano.yaml");
  const here = bimedix(["train", recipe, "--dry-run"]);
  assert.deepEqual([here.status, here.stdout], [2, ""]);
  assert.match(here.stderr, /^bimedix: --dry-run with --engine local; .*\n$/);
  assert.match(bimedix(["train", recipe, "--engine", "axolotl", "--resume"]).stderr, /--resume with --engine axolotl/);
});
