/** One writer at a time, whatever its process id, and no part of a killed one left behind. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { part_in, write_atomically } from "../src/files.js";
import { with_lock, with_output } from "../src/lock.js";
import { rejects, root } from "./fixtures.js";

const module_of = (file: string) => JSON.stringify(pathToFileURL(join(root, "dist/src", file)).href);
const folder_of = () => mkdtemp(join(tmpdir(), "bimedix-lock-"));

/** Another process that writes in a folder: it stands in native code, as training does, until it is killed. */
async function writer(folder: string): Promise<ChildProcess> {
  const code = `
    import { with_output } from ${module_of("lock.js")};
    import { part_in } from ${module_of("files.js")};
    import { writeFileSync } from "node:fs";
    await with_output(${JSON.stringify(folder)}, "bimedix train", async () => {
      writeFileSync(part_in(${JSON.stringify(folder)}), "half");
      process.stdout.write("in");
      await new Promise((resolve) => setTimeout(resolve, 100));
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    });`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  await once(child.stdout!, "data");
  return child;
}

/** As if its owner had gone long ago: it need not be watched for ten seconds. */
const grow_old = (folder: string) => utimes(join(folder, ".bimedix.lock"), new Date(0), new Date(0));

describe("a lock", () => {
  test("is one caller's at a time, is given back after an error, and an abandoned one is taken over", async () => {
    const lock = join(await folder_of(), "lock");
    await writeFile(lock, "somebody who is gone");
    await utimes(lock, new Date(0), new Date(0));
    let inside = 0;
    let most = 0;
    const work = async () => {
      most = Math.max(most, ++inside);
      await new Promise((resolve) => setTimeout(resolve, 20));
      inside--;
      throw new Error("fails");
    };
    const all = await Promise.allSettled(Array.from({ length: 4 }, () => with_lock(lock, work)));
    assert.deepEqual(
      all.map(({ status }) => status),
      Array(4).fill("rejected"),
    );
    assert.equal(most, 1);
    await assert.rejects(stat(lock), /ENOENT/);
  });

  test("that another took is left alone, and its owner hears of it", async () => {
    const lock = join(await folder_of(), "lock");
    await with_lock(lock, async ({ check }) => {
      await check();
      await writeFile(lock, "another's");
      await rejects(check(), "in_use", /slept/);
    });
    assert.equal(await readFile(lock, "utf8"), "another's");
  });

  test("of a process that lives is refused by name, though its event loop stands still", async () => {
    const folder = await folder_of();
    const child = await writer(folder);
    try {
      const named = new RegExp(`bimedix train \\(process ${child.pid} on `);
      await rejects(
        with_output(folder, "bimedix train", async () => {}, { wait: false }),
        "in_use",
        named,
      );
      // Nor does its age by another machine's clock make it abandoned.
      await grow_old(folder);
      await rejects(
        with_output(folder, "bimedix train", async () => {}, { wait: false }),
        "in_use",
        named,
      );
      assert.equal((await readdir(folder)).filter((name) => name.endsWith(".part")).length, 1);
    } finally {
      child.kill("SIGKILL");
    }
  });

  test("of a process that was killed is taken over, and what it had begun is removed", async () => {
    const folder = await folder_of();
    const child = await writer(folder);
    child.kill("SIGKILL");
    await once(child, "exit");
    await grow_old(folder);
    const owners = new Set<string>();
    const options = { wait: false, on_wait: (owner: string) => void owners.add(owner) };
    await with_output(
      folder,
      "bimedix train",
      async () => assert.deepEqual(await readdir(folder), [".bimedix.lock"]),
      options,
    );
    assert.match([...owners].join(), new RegExp(`process ${child.pid} on `));
    assert.deepEqual(await readdir(folder), []);
  });

  test("that is a link to nothing is replaced", async () => {
    const folder = await folder_of();
    await symlink("nowhere", join(folder, ".bimedix.lock"));
    await with_output(folder, "bimedix merge", async ({ check }) => check());
    assert.deepEqual(await readdir(folder), []);
  });

  test("that is a pipe or a folder is refused, and not waited for", {
    skip: process.platform === "win32",
  }, async () => {
    const [piped, nested] = [await folder_of(), await folder_of()];
    assert.equal(spawnSync("mkfifo", [join(piped, ".bimedix.lock")]).status, 0);
    await mkdir(join(nested, ".bimedix.lock"));
    for (const folder of [piped, nested])
      await rejects(
        with_output(folder, "a test", async () => {}),
        "file_unreadable",
        /lock, which is no file; .*remove it/,
      );
  });

  test("of this process refuses a second one at once", async () => {
    const folder = await folder_of();
    await with_output(folder, "bimedix eval", () =>
      rejects(
        with_output(folder, "bimedix eval", async () => {}, { wait: false }),
        "in_use",
        /bimedix eval/,
      ),
    );
  });

  test("cannot be where nothing can be written, and says so", async () => {
    const file = join(await folder_of(), "file");
    await writeFile(file, "");
    await rejects(
      with_output(file, "bimedix convert", async () => {}),
      "file_unreadable",
      /is a file/,
    );
    await rejects(
      with_output(join(file, "x"), "bimedix convert", async () => {}),
      "file_not_found",
      /file/,
    );
  });
});

test("a failed write tells what failed, and not its clean-up; a name may be as long as the file system takes", async () => {
  const folder = await folder_of();
  const longest = `${"ب".repeat(127)}x`;
  await write_atomically(join(folder, longest), (handle) => handle.writeFile("whole"));
  assert.deepEqual(await readdir(folder), [longest]);
  await rejects(
    write_atomically(join(folder, `${longest}x`), async () => {}),
    "bad_option",
    /longer name/,
  );
  await rejects(
    write_atomically("/dev/null/x", async () => {}),
    "file_not_found",
    /\/dev\/null\/x/,
  );
  assert.deepEqual(await readdir(folder), [longest]);
  await mkdir(part_in(folder));
  await writeFile(join(folder, "somebody's.part"), "");
  await with_output(folder, "bimedix merge", async () => {});
  assert.deepEqual((await readdir(folder)).sort(), ["somebody's.part", longest].sort());
});
