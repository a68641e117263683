/** What merge and convert write to and what they never do: the base, by whatever path; another's files; and what they copy. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cp, link, lstat, mkdir, mkdtemp, readdir, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { make_folder, part_in, same_folder } from "../../src/files.js";
import { with_output } from "../../src/lock.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { convert } from "../../src/model/convert.js";
import { merge_adapter } from "../../src/model/merge.js";
import { open_store } from "../../src/model/store.js";
import { rejects, root } from "../fixtures.js";

const fixtures = join(root, "test/fixtures/train");
const adapter = join(fixtures, "peft4");

/** A folder with a copy of the base of the adapters, converted too. */
async function with_base(): Promise<{ dir: string; base: string }> {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  const base = join(dir, "base");
  await cp(join(fixtures, "base"), base, { recursive: true });
  await convert(await open_checkpoint(base), { dtype: "q8" });
  return { dir, base };
}

/** Names and contents of all files below a folder. */
async function contents(dir: string): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const name of (await readdir(dir, { recursive: true })).sort())
    if ((await lstat(join(dir, name))).isFile()) found.set(name, await readFile(join(dir, name), "latin1"));
  return found;
}

describe("the base is not written to", () => {
  const ways: [string, (dir: string) => Promise<string>][] = [
    ["itself", async (dir) => join(dir, "base")],
    ["a link to it", async (dir) => symlink("base", join(dir, "alias")).then(() => join(dir, "alias"))],
    [
      "a folder whose onnx is a link to its own",
      async (dir) => {
        await mkdir(join(dir, "out"));
        await symlink("../base/onnx", join(dir, "out/onnx"));
        return join(dir, "out");
      },
    ],
    [
      "the folder in which its files really are",
      async (dir) => {
        await rename(join(dir, "base"), join(dir, "real"));
        await mkdir(join(dir, "base"));
        for (const name of await readdir(join(dir, "real"))) await symlink(`../real/${name}`, join(dir, "base", name));
        return join(dir, "real");
      },
    ],
  ];
  for (const [name, make] of ways)
    test(`through ${name}`, async () => {
      const { dir, base } = await with_base();
      const output = await make(dir);
      const before = await contents(dir);
      await rejects(merge_adapter(base, adapter, output), "bad_option", /own directory/);
      if (output !== base && name !== "a link to it")
        await rejects(convert(await open_checkpoint(base), { dtype: "q4", output }), "bad_option", /own directory/);
      assert.deepEqual(await contents(dir), before);
    });

  test("through a bind mount", { skip: cannot_mount() }, async () => {
    const { dir, base } = await with_base();
    await mkdir(join(dir, "mounted"));
    const before = await contents(base);
    const cli = join(root, "dist/src/cli/main.js");
    const command = `mount --bind ${base} ${dir}/mounted && ${process.execPath} ${cli} merge ${base} ${adapter} --output ${dir}/mounted --force`;
    const { status, stderr } = spawnSync("unshare", ["--mount", "sh", "-c", command], { encoding: "utf8" });
    assert.match(stderr, /own directory/);
    assert.equal(status, 2);
    assert.deepEqual(await contents(base), before);
  });

  test("through links to its files, hard or not: these are replaced", async () => {
    const { dir, base } = await with_base();
    const before = await contents(base);
    for (const [name, connect] of [
      ["soft", symlink],
      ["hard", link],
    ] as const) {
      // biome-ignore format: a pair
      const output = join(dir, name);
      await mkdir(join(output, "onnx"), { recursive: true });
      for (const [file] of before) await connect(join(base, file), join(output, file));
      await merge_adapter(base, adapter, output);
      assert.deepEqual(await contents(base), before);
      assert.ok((await open_checkpoint(output)).tensors.size > 0);
      assert.ok((await lstat(join(output, "config.json"))).isFile());
      assert.deepEqual(await readdir(join(output, "onnx")), []);
      for (const [file] of before) {
        await rm(join(output, file), { force: true });
        await connect(join(base, file), join(output, file));
      }
      await convert(await open_checkpoint(base), { dtype: "q8", output });
      assert.deepEqual(await contents(base), before);
      assert.notEqual(await readFile(join(output, "config.json"), "latin1"), before.get("config.json"));
    }
  });

  test("converted weights behind a link in the output are another's, and stay", async () => {
    const { dir, base } = await with_base();
    await mkdir(join(dir, "other"));
    await writeFile(join(dir, "other/model_q4.onnx"), "another's");
    await mkdir(join(dir, "out"));
    await symlink("../other", join(dir, "out/onnx"));
    await merge_adapter(base, adapter, join(dir, "out"));
    assert.deepEqual(await readdir(join(dir, "other")), ["model_q4.onnx"]);
  });
});

/** A reason where a mount of one's own is not to be had. */
function cannot_mount(): string | false {
  const { status } = spawnSync("unshare", ["--mount", "true"]);
  return status === 0 ? false : "unshare --mount is not allowed here";
}

test("one folder is known in another spelling, and where it is not there yet", async () => {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  await mkdir(join(dir, "a"));
  await symlink("a", join(dir, "b"));
  assert.ok(await same_folder(join(dir, "a"), join(dir, "b")));
  assert.ok(await same_folder(join(dir, "a/new/one"), join(dir, "b/new/../new/one")));
  assert.ok(!(await same_folder(join(dir, "a"), dir)));
  assert.ok(!(await same_folder(join(dir, "a/new"), join(dir, "b/newer"))));
});

describe("what is no file beside a model", () => {
  const odd = async () => {
    const { dir, base } = await with_base();
    await rm(join(base, "onnx"), { recursive: true });
    await cp(join(root, "models/nano/chat_template.jinja"), join(base, "chat_template.jinja"));
    await writeFile(join(base, "model_card.json"), "{}");
    for (const name of ["LICENSE", "extra.json", "generation_config.json"]) {
      await rm(join(base, name), { force: true });
      await symlink("/nowhere/at/all", join(base, name));
    }
    await mkdir(join(base, "notes.json"));
    await mkdir(join(base, "README.md"));
    if (process.platform !== "win32")
      for (const name of ["pipe.json", "NOTICE"]) assert.equal(spawnSync("mkfifo", [join(base, name)]).status, 0);
    return { dir, base };
  };

  test("stops no loading, conversion or merge, and what a model does not need is not copied", async () => {
    const { dir, base } = await odd();
    assert.ok((await open_store(base, { dtype: "q4" })).tensors.size > 0);
    for (const output of [join(dir, "merged"), join(dir, "converted")]) {
      if (output.endsWith("merged")) await merge_adapter(base, adapter, output);
      else await convert(await open_checkpoint(base), { dtype: "q8", output });
      const copied = (await readdir(output)).filter((name) => !/^(model\.|onnx)/.test(name)).sort();
      assert.deepEqual(copied, ["chat_template.jinja", "config.json"]);
    }
  });

  test("and a pipe in the place of a file is refused, not waited for", {
    skip: process.platform === "win32" ? "no pipes" : false,
  }, async () => {
    for (const name of [
      "config.json",
      "model.safetensors",
      "onnx/model_quantized.onnx",
      "onnx/model_quantized.onnx_data",
    ]) {
      const { base } = await with_base();
      await rm(join(base, name));
      if (name === "model.safetensors") await rm(join(base, "onnx"), { recursive: true });
      assert.equal(spawnSync("mkfifo", [join(base, name)]).status, 0);
      await rejects(open_store(base, { dtype: "q8" }), "file_unreadable", /is a pipe/);
    }
  });
});

describe("an output", () => {
  test("has one writer at a time", async () => {
    const { dir, base } = await with_base();
    const output = join(dir, "out");
    await with_output(output, "a long merge", async () => {
      await rejects(merge_adapter(base, adapter, output), "in_use", /a long merge/);
      await rejects(convert(await open_checkpoint(base), { dtype: "q8", output }), "in_use", /a long merge/);
    });
    await merge_adapter(base, adapter, output);
  });

  test("is rid of what killed writers left, and keeps the earlier model when a merge fails", async () => {
    const { dir, base } = await with_base();
    const output = join(dir, "out");
    await merge_adapter(base, adapter, output);
    const before = await contents(output);
    const part = part_in(output);
    await mkdir(part);
    await writeFile(join(part, "model.safetensors"), "half");
    const json = JSON.parse(await readFile(join(adapter, "adapter_config.json"), "utf8")) as object;
    const weak = join(dir, "weak");
    await cp(adapter, weak, { recursive: true });
    await writeFile(join(weak, "adapter_config.json"), JSON.stringify({ ...json, lora_alpha: 1e-30 }));
    await rejects(merge_adapter(base, weak, output), "bad_adapter", /leaves all/);
    assert.deepEqual(await contents(output), before);
  });

  test("that cannot be one is named with its reason", async () => {
    const { dir, base } = await with_base();
    const long = join(dir, "ب".repeat(200));
    await writeFile(join(dir, "file"), "");
    const checkpoint = await open_checkpoint(base);
    for (const [output, mentions] of [
      ["/dev/null", /\/dev\/null is a file/],
      [join(dir, "file"), /file is a file/],
      [long, /longer name/],
    ] as const) {
      const code = output === long ? "bad_option" : "file_unreadable";
      await rejects(convert(checkpoint, { dtype: "q8", output }), code, mentions);
      await rejects(merge_adapter(base, adapter, output), code, mentions);
    }
  });

  test("on a file system without space or for reading alone", { skip: cannot_mount() }, async () => {
    const { dir, base } = await with_base();
    const cli = join(root, "dist/src/cli/main.js");
    const convert_to = (output: string) => `${process.execPath} ${cli} convert ${base} --dtype q8 --output ${output}`;
    await make_folder(join(dir, "small"));
    const run = (options: string, command: string) =>
      spawnSync("unshare", ["--mount", "sh", "-c", `mount -t tmpfs -o ${options} none ${dir}/small && ${command}`], {
        encoding: "utf8",
      });
    const full = run("size=64k", `${convert_to(`${dir}/small/out`)}; ls -A ${dir}/small/out/onnx ${dir}/small/out`);
    assert.match(full.stderr, /does not fit on the disk/);
    assert.equal(full.stdout.replaceAll(dir, "").trim(), "/small/out:\nonnx\n\n/small/out/onnx:");
    for (const output of ["small", "small/a", "small/a/b/c"])
      assert.match(run("ro", convert_to(join(dir, output))).stderr, /may not be read or written/);
  });
});
