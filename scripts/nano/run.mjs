// npm run nano -- DATA: makes models/nano's next version with this project's own trainer, and docs/nano_training.md, which says what it
// learnt. DATA is a folder with the corpora (see data.mjs). Three adapters of about one size are trained over the same base: on
// everything (the one that is kept), on experts and router alone, and on attention alone. `--merge` writes the first into models/nano.
// Stopped, it goes on where it was. About an hour on two cores. The base is the first version, which transformers trained and which
// is in this repository's history.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { root, run, setup } from "../setup.mjs";

const [data] = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
if (!data) {
  console.error("npm run nano -- DATA [--merge] (see the first lines of scripts/nano/run.mjs)");
  process.exit(1);
}
setup();
const { build } = await import("./data.mjs");
const { accuracy, answers, loss_beside, losses } = await import("./measure.mjs");
const { read_log } = await import("../../dist/src/train/index.js");
const { checkpoints } = await import("../../dist/src/train/checkpoint.js");

const runs = join(root, "runs");
const folder = join(runs, "nano-data");
const model = join(root, "models/nano");
const base = join(runs, "nano-base");
/** The weights of the base, as git names their bytes. */
const BASE = "57fcfead4aae3c3b27b6515ca5c9668ec19aaeee";
const cli = join(root, "dist/src/cli/main.js");
const recipe = join(root, "recipes/bimedix-nano.yaml");
if (!existsSync(folder)) {
  await mkdir(runs, { recursive: true });
  await build(data, `${folder}.part`);
  await rename(`${folder}.part`, folder);
}

if (!existsSync(base)) {
  await mkdir(`${base}.part`, { recursive: true });
  const { status, stdout } = spawnSync("git", ["cat-file", "blob", BASE], { cwd: root, maxBuffer: 2 ** 28 });
  if (status !== 0)
    throw new Error(`git has no object ${BASE}: the base's weights need the repository's whole history`);
  await writeFile(join(`${base}.part`, "model.safetensors"), stdout);
  for (const name of await readdir(model))
    if (/\.(json|jinja)$/.test(name)) await copyFile(join(model, name), join(`${base}.part`, name));
  await rename(`${base}.part`, base);
}

/** Ranks for which the adapters have nearly the same number of parameters. */
const adapters = {
  "attention, experts and router": { name: "nano", overrides: [] },
  "experts and router": {
    name: "nano-experts",
    overrides: ["adapter.targets=[w1,w2,w3,gate]", "adapter.r=21", "adapter.lora_alpha=42"],
  },
  "attention alone": {
    name: "nano-attention",
    overrides: ["adapter.targets=[q,k,v,o]", "adapter.r=63", "adapter.lora_alpha=126"],
  },
};
const languages = { English: "en", Arabic: "ar" };

/** Answers and losses by language; on the base that was trained on, in NF4, or any other model. */
async function measured(dir, adapter) {
  const options = { adapter, dtype: adapter === null ? "fp32" : "bnb4" };
  const found = { mcqa: {}, chat: {}, asked: {}, all: {} };
  for (const [language, code] of Object.entries(languages)) {
    found.mcqa[language] = await answers(dir, join(folder, `held_out_mcqa_${code}.jsonl`), options);
    found.chat[language] = await losses(dir, join(folder, `held_out_chat_${code}.jsonl`), "chat", options);
    found.asked[language] = await losses(dir, join(folder, `held_out_mcqa_${code}.jsonl`), "mcqa", options);
  }
  for (const language of Object.keys(languages))
    found.all[language] = [...found.chat[language], ...found.asked[language]];
  return found;
}

const rows = [];
rows.push({ title: "the base, untouched (NF4)", ...(await measured(base, undefined)) });
for (const [title, { name, overrides }] of Object.entries(adapters)) {
  const output = join("runs", name);
  if (!existsSync(join(root, output, "adapter_model.safetensors"))) {
    const begun = (await checkpoints(join(root, output))).length > 0;
    run(process.execPath, [cli, "train", recipe, `output_dir=${output}`, ...(begun ? ["--resume"] : []), ...overrides]);
  }
  const log = await read_log(join(root, output, "log.jsonl"));
  rows.push({ title, log, ...(await measured(base, join(root, output))) });
}
const merged = join(runs, "nano-merged");
await rm(merged, { recursive: true, force: true });
run(process.execPath, [cli, "merge", base, join(runs, "nano"), "--output", merged]);
rows.push({ title: "the first, merged into the base's own weights", ...(await measured(merged, null)) });

const logged = rows[1].log.filter(({ loss }) => loss !== undefined).at(-1);
const points = ({ accuracy: share, stderr, n }) => `${(100 * share).toFixed(1)} ± ${(100 * stderr).toFixed(1)} (${n})`;
const table = (head, body) =>
  [head, head.map(() => "---"), ...body].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const kinds = [
  ...new Set(
    Object.values(rows[0].mcqa)
      .flat()
      .map(({ kind }) => kind),
  ),
];
const beside = (row, kind, language) => {
  const { loss, gap, stderr, n } = loss_beside(row[kind][language], rows[0][kind][language]);
  const difference =
    row === rows[0] ? "" : ` (${gap > 0 ? "+" : "−"}${Math.abs(gap).toFixed(3)} ± ${stderr.toFixed(3)})`;
  return `${loss.toFixed(3)}${difference}, ${n}`;
};
const million = (count) => (count / 1e6).toFixed(1);
const text = `# What the embedded model learnt

Written by \`npm run nano\` on ${new Date().toISOString().slice(0, 10)} with this project's trainer: [recipes/bimedix-nano.yaml](../recipes/bimedix-nano.yaml), QLoRA on chats and questions in English and Arabic, ${logged.step} steps, ${million(logged.num_input_tokens_seen)} million tokens. The base is the first models/nano, in NF4. The three adapters differ in what they adapt and, so that they have the same size, in rank. Nothing held out was trained on: conversations are held out by a hash of the question, questions with options by a hash of the topic or the sentence they ask about. No benchmark is among them.

## Questions with options, held out

Accuracy in percent ± standard error (questions), asked as \`bimedix mcqa\` asks; 25 is chance.

${table(
  ["", "English", "Arabic"],
  rows.map(({ title, mcqa }) => [title, points(accuracy(mcqa.English)), points(accuracy(mcqa.Arabic))]),
)}

By kind of question, English and Arabic together:

${table(
  ["", ...kinds],
  rows.map(({ title, mcqa }) => [
    title,
    ...kinds.map((kind) =>
      points(
        accuracy(
          Object.values(mcqa)
            .flat()
            .filter((one) => one.kind === kind),
        ),
      ),
    ),
  ]),
)}

## Loss, held out

In nats a token of the answers, and in brackets beside the untouched base's on the same conversations ± the standard error of that difference.

${table(
  ["", ...["chats", "questions with options", "both"].flatMap((kind) => [`${kind}, English`, `${kind}, Arabic`])],
  rows.map((row) => [
    row.title,
    ...["chat", "asked", "all"].flatMap((kind) => [beside(row, kind, "English"), beside(row, kind, "Arabic")]),
  ]),
)}

The curves of the first run are in [nano_training.html](nano_training.html).
`;
await writeFile(join(root, "docs/nano_training.md"), text);
await copyFile(join(runs, "nano/curves.html"), join(root, "docs/nano_training.html"));
console.log(text);

if (process.argv.includes("--merge")) {
  await copyFile(join(merged, "model.safetensors"), join(model, "model.safetensors.part"));
  await rename(join(model, "model.safetensors.part"), join(model, "model.safetensors"));
  run(process.execPath, [cli, "convert", model, "--dtype", "q8"]);
}
