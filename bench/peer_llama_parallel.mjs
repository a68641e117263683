// node-llama-cpp with 16 sequences of one context, which it batches. Run: node bench/peer_llama_parallel.mjs FILE.gguf [prompt tokens] [answer tokens]
// One JSON line: tokens a second of one sequence and of sixteen, at the best number of threads.
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { median, random_tokens } from "./measure.mjs";

const [file, prompt_tokens = 64, answer_tokens = 96] = process.argv.slice(2);
const { version } = JSON.parse(readFileSync(new URL("node_modules/node-llama-cpp/package.json", import.meta.url)));
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 0 });
const model = await llama.loadModel({ modelPath: file });
const result = { name: `node-llama-cpp ${version}, Q4_0`, one: 0, sixteen: 0, settings: {} };

for (const threads of new Set([2, availableParallelism()])) {
  const context = await model.createContext({ contextSize: 256, sequences: 16, batchSize: 512, threads });
  const sequences = Array.from({ length: 16 }, () => context.getSequence());
  const write = async (sequence) => {
    await sequence.clearHistory();
    let count = 0;
    for await (const _ of sequence.evaluate(random_tokens(Number(prompt_tokens)), {
      temperature: 1,
      topK: 40,
      yieldEogToken: true,
    }))
      if (++count === Number(answer_tokens)) break;
    return count;
  };
  const rate = async (count) => {
    const began = performance.now();
    const counts = await Promise.all(sequences.slice(0, count).map(write));
    return counts.reduce((sum, one) => sum + one, 0) / ((performance.now() - began) / 1000);
  };
  await rate(1);
  for (const [key, count] of Object.entries({ one: 1, sixteen: 16 })) {
    const value = median([await rate(count), await rate(count), await rate(count)]);
    if (value > result[key]) [result[key], result.settings[key]] = [value, { threads }];
  }
  await context.dispose();
}
console.log(JSON.stringify(result));
process.exit(0);
