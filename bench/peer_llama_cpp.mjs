// node-llama-cpp beside the engine. Run: node bench/peer_llama_cpp.mjs FILE.gguf  (one JSON line on stdout)
// Tokens go in as ids. Flash attention on and off and 1 and 2 threads are all tried: the best of each is what counts.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { median, random_tokens } from "./measure.mjs";

const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 0 });
const model = await llama.loadModel({ modelPath: process.argv[2] });
const result = { name: "node-llama-cpp 3.22.1, Q4_0", prefill: 0, decode_500: 0, decode_4000: 0, settings: {} };

for (const flashAttention of [false, true]) {
  for (const threads of [1, 2]) {
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
        if (times.length === 48) break;
      }
      return 1000 / median(times);
    };
    const prefills = [];
    for (let i = 0; i < 4; i++) {
      await sequence.clearHistory();
      const start = performance.now();
      await sequence.evaluateWithoutGeneratingNewTokens(random_tokens(512));
      prefills.push(performance.now() - start);
    }
    keep("prefill", 512_000 / median(prefills.slice(1)));
    keep("decode_500", await decode(500));
    keep("decode_4000", await decode(4000));
    await context.dispose();
  }
}
console.log(JSON.stringify(result));
process.exit(0);
