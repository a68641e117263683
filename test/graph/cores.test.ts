/** The default number of threads, from files as Linux has them. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { usable_cores } from "../../src/graph/cores.js";

describe("usable cores", () => {
  const folders: string[] = [];
  after(() => {
    for (const folder of folders) rmSync(folder, { recursive: true });
  });
  /** A machine whose processor `i` is on the core of the processors `siblings[i]`. */
  const machine = (siblings: (string | null)[], cpu_max?: string) => {
    const root = mkdtempSync(join(tmpdir(), "cores-"));
    folders.push(root);
    for (const [i, list] of siblings.entries()) {
      const folder = join(root, `sys/devices/system/cpu/cpu${i}/topology`);
      mkdirSync(folder, { recursive: true });
      if (list !== null) writeFileSync(join(folder, "thread_siblings_list"), `${list}\n`);
    }
    mkdirSync(join(root, "sys/fs/cgroup"), { recursive: true });
    if (cpu_max) writeFileSync(join(root, "sys/fs/cgroup/cpu.max"), `${cpu_max}\n`);
    return root;
  };

  it("counts a core with two threads once", () => {
    assert.equal(usable_cores(machine(["0,2", "1,3", "0,2", "1,3"]), 4), 2);
    assert.equal(usable_cores(machine(["0-1", "0-1"]), 2), 1);
    assert.equal(usable_cores(machine(["0", "1"]), 2), 2);
  });
  it("passes over a processor that is switched off", () => {
    assert.equal(usable_cores(machine(["0", "1", null]), 2), 2);
  });
  it("takes no more than the process's affinity", () => {
    assert.equal(usable_cores(machine(["0", "1", "2", "3"]), 3), 3);
  });
  it("takes no more than a container's share of time, and at least one", () => {
    const four = ["0", "1", "2", "3"];
    assert.equal(usable_cores(machine(four, "max 100000"), 4), 4);
    assert.equal(usable_cores(machine(four, "250000 100000"), 4), 3);
    assert.equal(usable_cores(machine(four, "20000 100000"), 4), 1);
  });
  it("leaves the count to the runtime where there are no such files", () => {
    assert.equal(usable_cores(machine([])), undefined);
    assert.equal(usable_cores(join(tmpdir(), "no-such-folder")), undefined);
  });
});
