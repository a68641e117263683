// The engine itself. Run: node bench/own.mjs CHECKPOINT DTYPE [quick]  (one JSON line on stdout)
// It is measured as an application uses it: in its worker, from the call to the token that arrives.
import { AutoModelForCausalLM } from "../dist/src/index.js";
import { median, random_tokens } from "./measure.mjs";

const [dir, dtype, quick] = process.argv.slice(2);
const result = { name: `bimedix, ${dtype}` };
const megabytes = (bytes) => Math.round(bytes / 1e6);
const peak = () => megabytes(process.resourceUsage().maxRSS * 1024);

let start = performance.now();
let model = await AutoModelForCausalLM.from_pretrained(dir, { dtype });
result.first_load_s = (performance.now() - start) / 1000;
result.convert_peak_mb = peak();
await model.dispose();
start = performance.now();
model = await AutoModelForCausalLM.from_pretrained(dir, { dtype });
result.second_load_s = (performance.now() - start) / 1000;

async function first_token(ids) {
  const begin = performance.now();
  await model.generate({ input_ids: [ids], max_new_tokens: 1, do_sample: false, eos_token_id: null });
  return performance.now() - begin;
}

async function decode(length, count = 64) {
  const times = [];
  let last = 0;
  const options = { input_ids: [random_tokens(length)], max_new_tokens: count, do_sample: false, eos_token_id: null };
  for await (const _ of model.stream(options)) {
    const now = performance.now();
    if (last) times.push(now - last);
    last = now;
  }
  return 1000 / median(times);
}

if (quick) {
  result.decode_20 = await decode(20, 16);
  result.prefill = 128_000 / (await first_token(random_tokens(128)));
} else {
  await first_token(random_tokens(512));
  result.prefill =
    512_000 /
    median([
      await first_token(random_tokens(512)),
      await first_token(random_tokens(512)),
      await first_token(random_tokens(512)),
    ]);
  result.decode_500 = median([await decode(500), await decode(500), await decode(500)]);
  result.decode_4000 = median([await decode(4000), await decode(4000), await decode(4000)]);
  const shared = random_tokens(1000);
  result.prompt_1064_ms = await first_token([...shared, ...random_tokens(64)]);
  result.prompt_1064_with_1000_cached_ms = median([
    await first_token([...shared, ...random_tokens(64)]),
    await first_token([...shared, ...random_tokens(64)]),
  ]);
}
await model.dispose();
result.peak_mb = peak();
console.log(JSON.stringify(result));
