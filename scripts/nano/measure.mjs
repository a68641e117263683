// What a model knows of held-out data: accuracy on questions with options, as the product asks them (Assistant.mcqa), and the loss.
import { readFile } from "node:fs/promises";
import { Assistant, AutoModelForCausalLM, AutoTokenizer } from "../../dist/src/index.js";
import { read_dataset } from "../../dist/src/train/data.js";

/** Every question's kind and whether the answer was right, in order. */
export async function answers(model, file, { adapter, dtype = "fp32" } = {}) {
  const assistant = await Assistant.from_pretrained(model, { dtype, ...(adapter ? { adapter } : {}) });
  const items = (await readFile(file, "utf8"))
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  const results = [];
  for (const { question, options, answer, language, kind } of items) {
    const { options: scored } = await assistant.mcqa({ question, options, language });
    const chosen = scored.reduce((best, { probability }, i) => (probability > scored[best].probability ? i : best), 0);
    results.push({ kind, right: chosen === answer });
  }
  await assistant.dispose();
  return results;
}

/** Of every conversation, in order, the sum of the answers' negative log-likelihoods, in nats, and how many tokens they have. */
export async function losses(model, file, type, { adapter, dtype = "fp32" } = {}) {
  const { engine, config } = await AutoModelForCausalLM.from_pretrained(model, {
    dtype,
    accuracy_level: 0,
    ...(adapter ? { adapter } : {}),
  });
  const options = { sequence_len: 512, train_on_inputs: false, on_damaged_line: "stop" };
  const { examples } = await read_dataset({ path: file, type }, await AutoTokenizer.from_pretrained(model), options);
  const results = [];
  for (const { input_ids, learnt } of examples) {
    const { logits } = await engine.forward([[...input_ids]]);
    const result = { nll: 0, tokens: 0 };
    for (let i = 1; i < input_ids.length; i++) {
      if (!learnt[i]) continue;
      const row = logits[0].subarray((i - 1) * config.vocab_size, i * config.vocab_size);
      const best = row.reduce((a, b) => Math.max(a, b));
      result.nll += best + Math.log(row.reduce((sum, value) => sum + Math.exp(value - best), 0)) - row[input_ids[i]];
      result.tokens++;
    }
    results.push(result);
  }
  await engine.dispose();
  return results;
}

/** Nats a token, and how far it lies from another model's on the same conversations, with the standard error of that. */
export function loss_beside(results, others) {
  const tokens = results.reduce((sum, one) => sum + one.tokens, 0);
  const loss = results.reduce((sum, one) => sum + one.nll, 0) / tokens;
  const gaps = results.map(({ nll }, i) => nll - others[i].nll);
  const gap = gaps.reduce((a, b) => a + b, 0) / tokens;
  // Of a ratio of sums over conversations, of which the lengths differ (Cochran, Sampling Techniques, 6.3).
  const spread = results.reduce((sum, one, i) => sum + (gaps[i] - gap * one.tokens) ** 2, 0);
  const n = results.length;
  return { loss, gap, stderr: Math.sqrt((spread * n) / (n - 1)) / tokens, n };
}

export function accuracy(results) {
  const share = results.filter(({ right }) => right).length / results.length;
  return { n: results.length, accuracy: share, stderr: Math.sqrt((share * (1 - share)) / (results.length - 1)) };
}

if (process.argv[1]?.endsWith("measure.mjs")) {
  const [model, adapter, ...files] = process.argv.slice(2);
  for (const file of files) {
    const results = await answers(model, file, { adapter: adapter === "none" ? undefined : adapter });
    const line = ({ n, accuracy: a, stderr }) => `${(100 * a).toFixed(1)} ± ${(100 * stderr).toFixed(1)} (${n})`;
    const kinds = [...new Set(results.map(({ kind }) => kind))];
    const by_kind = kinds.map((kind) => `${kind} ${line(accuracy(results.filter((one) => one.kind === kind)))}`);
    console.log(file.split("/").at(-1), line(accuracy(results)), by_kind.join(", "));
  }
}
