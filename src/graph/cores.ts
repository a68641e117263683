/**
 * How many threads one operator gets by default.
 *
 * ONNX Runtime counts physical cores by the processor's own description, which in a virtual machine may be that of the host: on two
 * cores of a cloud machine it counted one, and ran at half the speed (docs/log.md). Linux knows better, and knows what a container may use.
 */
import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";

/**
 * Physical cores of this machine that this process may use: each counts once, however many threads it has, and no more than the process's
 * affinity and its control group's share of time allow. Undefined where Linux's files do not say, as on other systems.
 *
 * @param root where those files are, for tests
 * @param allowed processors in the process's affinity
 */
export function usable_cores(root = "/", allowed = availableParallelism()): number | undefined {
  try {
    const cpus = join(root, "sys/devices/system/cpu");
    const siblings = readdirSync(cpus)
      .filter((name) => /^cpu\d+$/.test(name))
      .flatMap((name) => read(join(cpus, name, "topology/thread_siblings_list")) ?? []);
    if (siblings.length === 0) return undefined;
    const [quota, period] = (read(join(root, "sys/fs/cgroup/cpu.max")) ?? "max").split(" ").map(Number);
    const share = Number.isFinite(quota) ? Math.max(1, Math.round(quota! / period!)) : Number.POSITIVE_INFINITY;
    return Math.min(new Set(siblings).size, allowed, share);
  } catch {
    return undefined;
  }
}

/** A file's text; undefined where it is missing, as it is for a processor that is switched off. */
function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}
