// The engine itself. Run: node bench/own.mjs CHECKPOINT DTYPE speed|manners|large  (one JSON line on stdout)
// It is measured as an application uses it: in its worker, from the call to the token that arrives.
import { AutoModelForCausalLM } from "../dist/src/index.js";
import { median, median_of, peak_mb, random_tokens, seconds_since } from "./measure.mjs";

const [dir, dtype, what] = process.argv.slice(2);
const result = { name: `bimedix, ${dtype}` };
const start = performance.now();
const model = await AutoModelForCausalLM.from_pretrained(dir, { dtype });
result.load_s = seconds_since(start);
const greedy = { do_sample: false, eos_token_id: null };

async function first_token_ms(ids) {
  const begin = performance.now();
  await model.generate({ ...greedy, input_ids: [ids], max_new_tokens: 1 });
  return performance.now() - begin;
}

/** Tokens a second after a prompt of `length`, by the median time between two of them. */
async function decode(length, count = 64) {
  const times = [];
  let last = 0;
  for await (const _ of model.stream({ ...greedy, input_ids: [random_tokens(length)], max_new_tokens: count })) {
    const now = performance.now();
    if (last) times.push(now - last);
    last = now;
  }
  return 1000 / median(times);
}

/** The longest time between two ticks of a timer of 50 ms while `work` goes on. */
async function longest_gap_ms(work) {
  let longest = 0;
  let last = performance.now();
  const tick = () => {
    const now = performance.now();
    longest = Math.max(longest, now - last);
    last = now;
  };
  const timer = setInterval(tick, 50);
  await work();
  tick();
  clearInterval(timer);
  return longest;
}

/** An abort in the middle of a long prefill: when the caller is answered, and when the next call has its first token. */
async function abort_ms() {
  const controller = new AbortController();
  const work = model.generate({ ...greedy, input_ids: [random_tokens(2000)], signal: controller.signal });
  await new Promise((resolve) => setTimeout(resolve, 400));
  const begin = performance.now();
  controller.abort();
  const answered = await work.then(
    () => Number.NaN,
    () => performance.now() - begin,
  );
  await model.generate({ ...greedy, input_ids: [[1]], max_new_tokens: 1 });
  return { answered, free: performance.now() - begin };
}

/** By what part memory grows from the 20th to the 220th of many short answers. */
async function growth() {
  let before = 0;
  for (let i = 0; i < 220; i++) {
    await model.generate({ ...greedy, input_ids: [random_tokens(20 + (i % 5) * 10)], max_new_tokens: 8 });
    if (i === 19) before = process.memoryUsage.rss();
  }
  return process.memoryUsage.rss() / before - 1;
}

if (what === "speed") {
  await first_token_ms(random_tokens(512));
  result.prefill = 512_000 / (await median_of(5, () => first_token_ms(random_tokens(512))));
  // In turns, so that a machine that slows down meanwhile slows both down.
  const pairs = [];
  for (let i = 0; i < 3; i++) pairs.push([await decode(500), await decode(4000)]);
  result.decode_500 = median(pairs.map(([short]) => short));
  result.decode_4000 = median(pairs.map(([, long]) => long));
} else if (what === "manners") {
  const shared = random_tokens(1000);
  const with_shared = () => first_token_ms([...shared, ...random_tokens(64)]);
  await with_shared();
  result.prompt_1064_ms = await median_of(3, () => first_token_ms(random_tokens(1064)));
  await with_shared();
  result.prompt_1064_with_1000_cached_ms = await median_of(3, with_shared);
  result.timer_gap_ms = await longest_gap_ms(() => first_token_ms(random_tokens(2000)));
  result.abort = await abort_ms();
  result.growth = await growth();
} else {
  result.decode_20 = await median_of(3, () => decode(20, 16));
  // Logits at every position, or a single layer would only compute the last one.
  const forward = async (begin = performance.now()) => {
    await model.forward({ input_ids: [random_tokens(128)] });
    return seconds_since(begin);
  };
  await forward();
  result.forward_128 = 128 / (await median_of(3, forward));
}
await model.dispose();
result.peak_mb = peak_mb();
console.log(JSON.stringify(result));
