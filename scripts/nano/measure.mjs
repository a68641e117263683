// Accuracy on held-out questions with options, as the product asks them (Assistant.mcqa).
import { readFile } from "node:fs/promises";
import { Assistant } from "../../dist/src/index.js";

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
