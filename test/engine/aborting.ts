/**
 * A program that stops the engine at random moments, for `aborts.test.ts` and by hand in any runtime:
 *
 *     node dist/test/engine/aborting.js WAY [thread|process] [SEED] [TIMES]
 */
import { pathToFileURL } from "node:url";
import { isMainThread, Worker, workerData } from "node:worker_threads";
import type { Isolation } from "../../src/engine/link.js";
import { AutoModelForCausalLM, BimedixError } from "../../src/index.js";
import { seeded } from "../fuzz/mutate.js";

export const ways = ["loop", "exit", "throw", "end", "worker-exit", "worker-throw", "worker-terminate"] as const;
const model_dir = new URL("../../../models/nano", import.meta.url).pathname;
const sleep = (milliseconds: number) => new Promise((resume) => setTimeout(resume, milliseconds));

async function run(way: string, isolation: Isolation, seed: number, times: number): Promise<void> {
  const random = seeded(seed);
  const load = (signal?: AbortSignal) =>
    AutoModelForCausalLM.from_pretrained(model_dir, { isolation, threads: 1, ...(signal ? { signal } : {}) });
  const long = { input_ids: [[1, 2, 3]], max_new_tokens: 900, eos_token_id: null };

  /** Loads, and in one of two tries generates, until the signal of a random moment; then lets go twice. */
  async function stop_once(): Promise<void> {
    const controller = new AbortController();
    const { signal } = controller;
    const loading = random() < 0.6;
    if (loading) setTimeout(() => controller.abort(), 600 * random());
    try {
      const model = await load(loading ? signal : undefined);
      if (!loading) setTimeout(() => controller.abort(), 60 * random());
      const work = model.generate({ ...long, signal }).catch(expected);
      if (random() < 0.3) await sleep(30 * random());
      else await work;
      await Promise.all([model.dispose(), model.dispose(), work]);
    } catch (error) {
      expected(error);
    }
  }

  if (way === "loop") {
    // Three at a time: who is stopped in a native call is still there when the next one loads.
    for (let at = 0; at < times; at += 3) await Promise.all(Array.from({ length: Math.min(3, times - at) }, stop_once));
    console.log(`stopped ${times}`);
    return;
  }
  const moment = 200 + 500 * random();
  if (way === "end") {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), moment);
    const model = await load(controller.signal).catch(expected);
    if (model) void model.generate({ ...long, signal: controller.signal }).catch(expected);
    return;
  }
  if (way.startsWith("worker") && isMainThread) {
    const worker = new Worker(new URL(import.meta.url), { workerData: [way, isolation, seed] });
    worker.on("error", ({ message }) => console.log(message));
    const ended = new Promise((resolve) => worker.on("exit", resolve));
    if (way === "worker-terminate") setTimeout(() => void worker.terminate(), moment);
    await ended;
    return;
  }
  setTimeout(() => {
    if (way.endsWith("exit")) process.exit(isMainThread ? 7 : 0);
    if (way.endsWith("throw")) throw new Error("the program's own");
  }, moment);
  const model = await load();
  for (;;) await model.generate(long);
}

function expected(error: unknown): undefined {
  if (error instanceof BimedixError && ["aborted", "disposed"].includes(error.code)) return;
  throw error;
}

const [way, isolation = "thread", seed = 1, times = 100] = isMainThread
  ? import.meta.url === pathToFileURL(process.argv[1] ?? "").href
    ? process.argv.slice(2)
    : []
  : (workerData as string[]);
if (way) await run(way, isolation as Isolation, Number(seed), Number(times));
