// node-llama-cpp beside the engine. Run: node bench/peer_llama_cpp.mjs FILE.gguf  (one JSON line on stdout)
// Tokens go in as ids. Flash attention on and off and several numbers of threads are tried: the best of each figure counts.
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { median, median_of, random_tokens } from "./measure.mjs";

const { version } = JSON.parse(readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url)));
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 0 });
const model = await llama.loadModel({ modelPath: process.argv[2] });
const result = { name: `node-llama-cpp ${version}, Q4_0`, prefill: 0, decode_500: 0, decode_4000: 0, settings: {} };
const cores = availableParallelism();

for (const flashAttention of [false, true]) {
  for (const threads of new Set([1, 2, cores >> 1, cores].filter(Boolean))) {
    const context = await model.createContext({ contextSize: 4608, batchSize: 512, threads, flashAttention });
    const sequence = context.getSequence();
    const keep = (key, value) => {
      if (value > result[key]) [result[key], result.settings[key]] = [value, { threads, flashAttention }];
    };
    const decode = async (length) => {
      await sequence.clearHistory();
      await sequence.evaluateWithoutGeneratingNewTokens(random_tokens(length - 1));
      const times = [];
      let start = 0;
      for await (const _ of sequence.evaluate(random_tokens(1), { temperature: 0, yieldEogToken: true })) {
        if (start) times.push(performance.now() - start);
        start = performance.now();
        if (times.length === 63) break;
      }
      return 1000 / median(times);
    };
    const prefill = async () => {
      await sequence.clearHistory();
      const start = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(random_tokens(512));
      return performance.now() - start;
    };
    await prefill();
    keep("prefill", 512_000 / (await median_of(3, prefill)));
    keep("decode_500", await decode(500));
    keep("decode_4000", await decode(4000));
    await context.dispose();
  }
}
console.log(JSON.stringify(result));
process.exit(0);
