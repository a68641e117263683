/** Converted models: whole or not there, complete in a folder of their own, and readable only as what they are. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { Assistant } from "../../src/assistant/assistant.js";
import { part_in } from "../../src/files.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { convert } from "../../src/model/convert.js";
import { open_store } from "../../src/model/store.js";
import { copy_of, rejects, remove, root, twins } from "../fixtures.js";

const SINGLE = "mixtral-2-experts";

describe("a converted model", () => {
  const make = async () => {
    const dir = await copy_of(SINGLE);
    await convert(await open_checkpoint(dir), { dtype: "q4" });
    return dir;
  };
  const graph = "onnx/model_q4.onnx";

  test("loads from its own folder", async () => {
    const dir = await remove(await make(), "model.safetensors");
    assert.ok((await open_store(dir, { dtype: "q4" })).tensors.size > 0);
  });

  test("with weights cut short", async () => {
    const dir = await make();
    await truncate(join(dir, `${graph}_data`), 1000);
    await rejects(open_store(dir, { dtype: "q4" }), "bad_checkpoint", /cut short/);
  });

  test("without its weights", async () => {
    await rejects(open_store(await remove(await make(), `${graph}_data`), { dtype: "q4" }), "bad_checkpoint", /_data/);
  });

  test("with a graph that is not one, or cut short", async () => {
    const dir = await make();
    const whole = await readFile(join(dir, graph));
    for (const bytes of [Buffer.from("hello"), whole.subarray(0, whole.length >> 1)]) {
      await writeFile(join(dir, graph), bytes);
      await rejects(open_store(dir, { dtype: "q4" }), "bad_checkpoint", /ONNX|convert/);
    }
  });

  test("with a table that lies", async () => {
    const dir = await make();
    const whole = (await readFile(join(dir, graph))).toString("latin1");
    // Of equal length, so that the message around the table stays whole.
    const row = /("model\.norm\.weight","float32",\[\d+\],)(\d+)/;
    for (const lie of [
      (text: string) => text.replace("[", "{"),
      (text: string) => text.replace("float32", "float99"),
      (text: string) => text.replace(row, (_, before: string, offset: string) => before + offset.replace(/./g, "9")),
      (text: string) =>
        text.replace(row, (_, before: string, offset: string) => `${before}${offset.replace(/^./, "-")}`),
    ]) {
      assert.match(whole, row);
      await writeFile(join(dir, graph), whole.replace(row, lie), "latin1");
      await rejects(open_store(dir, { dtype: "q4" }), "bad_checkpoint", /bimedix convert/);
    }
  });

  test("by another program is passed over", async () => {
    const dir = await make();
    const whole = (await readFile(join(dir, graph))).toString("latin1");
    await writeFile(join(dir, graph), whole.replace("bimedix.tensors", "another.tensors"), "latin1");
    const { folder } = await open_store(dir, { dtype: "q4" });
    assert.ok(folder.startsWith(process.env.BIMEDIX_CACHE!));
  });

  test("that was interrupted leaves nothing that loads", async () => {
    const dir = await copy_of(SINGLE);
    const controller = new AbortController();
    const work = convert(await open_checkpoint(dir), {
      dtype: "q4",
      signal: controller.signal,
      on_progress: () => controller.abort(),
    });
    await rejects(work, "aborted", /start it again/);
    await rejects(
      open_store(await remove(dir, "model.safetensors"), { dtype: "q4" }),
      "bad_checkpoint",
      /no model\.safetensors/,
    );
  });

  test("that was killed is cleared away by the next one", async () => {
    const dir = await copy_of(SINGLE);
    await mkdir(join(dir, "onnx"));
    for (const folder of [dir, join(dir, "onnx")]) await writeFile(part_in(folder), "half");
    await convert(await open_checkpoint(dir), { dtype: "q4" });
    assert.deepEqual((await readdir(join(dir, "onnx"))).sort(), ["model_q4.onnx", "model_q4.onnx_data"]);
    assert.deepEqual((await readdir(dir)).sort(), [...(await readdir(join(twins, SINGLE))), "onnx"].sort());
  });

  test("in another folder is a model by itself", async () => {
    const output = await mkdtemp(join(tmpdir(), "bimedix-"));
    await convert(await open_checkpoint(join(root, "models/nano")), { dtype: "q4", output });
    assert.deepEqual((await readdir(output)).sort(), [
      "README.md",
      "chat_template.jinja",
      "config.json",
      "generation_config.json",
      "onnx",
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    const assistant = await Assistant.from_pretrained(output, { dtype: "q4" });
    await assistant.dispose();
    // Where Transformers.js looks for weights and template; it reads no chat_template.jinja.
    const json = async (name: string) => JSON.parse(await readFile(join(output, name), "utf8"));
    assert.deepEqual((await json("config.json"))["transformers.js_config"], { use_external_data_format: true });
    const template = await readFile(join(root, "models/nano/chat_template.jinja"), "utf8");
    assert.equal((await json("tokenizer_config.json")).chat_template, template);
  });

  test("says what Transformers.js can do with it, which has no Mixtral", async () => {
    const words = async (name: string, ...more: string[]) => {
      const command = [join(root, "dist/src/cli/main.js"), "convert", await copy_of(name), "--dtype", "q8", ...more];
      const { stdout, stderr } = spawnSync(process.execPath, command, { encoding: "utf8" });
      assert.equal(stderr, "");
      return stdout.trim().split("\n").at(-1)!;
    };
    assert.match(await words(SINGLE), /Transformers\.js has no Mixtral/);
    const llama = (await readdir(twins)).find((name) => name.startsWith("llama"))!;
    assert.match(await words(llama), /use_external_data_format.*--output/);
    const output = await mkdtemp(join(tmpdir(), "bimedix-"));
    assert.match(await words(llama, "--output", output), /Transformers\.js run it from its folder/);
  });
});
