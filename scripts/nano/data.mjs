// The training text of models/nano: chats and questions in English and Arabic, as JSON lines. Run: node scripts/nano/data.mjs DATA OUT
//
// Chats by language, chats from templates, and questions with options.
// Only corpora that are free to redistribute and are not a test set of anything; MentalQA's own test questions are dropped from its
// training file by exact match. Held out for measuring: 2 % of each source, chosen by a hash of the question, so that a repeated
// question is on one side; of MedQuAD's questions with options a tenth of all topics, so that no option was right in training.
// Rejected: translating MedQuAD with a dictionary (unreadable), and the benchmarks' questions (never train on a test).
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync, inflateRawSync } from "node:zlib";
import { parse } from "csv-parse/sync";
import { generator } from "../../dist/src/train/data.js";

const templates = JSON.parse(await readFile(new URL("templates.json", import.meta.url), "utf8"));

const clean = (text) =>
  text
    .replace(/\s+([.,;:?!])/g, "$1")
    .replace(/\s+/g, " ")
    .trim();

/** Whole sentences up to `limit` characters. */
function clip(text, limit = 900) {
  if (text.length <= limit) return text;
  const cut = Math.max(...[". ", "؟ ", "? ", "! "].map((mark) => text.slice(0, limit).lastIndexOf(mark)));
  return cut > 80 ? text.slice(0, cut + 1) : text.slice(0, limit).replace(/ [^ ]*$/, "");
}

const table = async (file, delimiter = ",") =>
  parse(await readFile(file), { columns: true, bom: true, delimiter, relax_quotes: true, relax_column_count: true });

const pair = (question, answer) => [
  { role: "user", content: question },
  { role: "assistant", content: answer },
];

/** A transcript as alternating turns that begin with the patient and end with the doctor. */
function turns(dialogue, doctor, patient) {
  const messages = [];
  for (const line of dialogue.trim().split(new RegExp(`\n(?=${doctor}|${patient})`))) {
    const match = new RegExp(`^(?:(${doctor})|${patient})\\s*([\\s\\S]*)`).exec(line);
    const text = match && clean(match[2]);
    if (!text) continue;
    const role = match[1] ? "assistant" : "user";
    if (messages.at(-1)?.role === role) messages.at(-1).content += ` ${text}`;
    else messages.push({ role, content: text });
  }
  if (messages[0]?.role === "assistant") messages.unshift({ role: "user", content: "Hello, doctor." });
  if (messages.at(-1)?.role === "user") messages.pop();
  return messages;
}

/** The only file of a zip archive. */
function unzip(bytes) {
  const name = bytes.readUInt16LE(26) + bytes.readUInt16LE(28);
  const central = bytes.lastIndexOf(Buffer.from("PK\x01\x02", "latin1"));
  return inflateRawSync(bytes.subarray(30 + name, 30 + name + bytes.readUInt32LE(central + 20)));
}

async function medquad(data) {
  const text = gunzipSync(await readFile(join(data, "medquad/medquad.jsonl.gz"))).toString();
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

async function* corpora(data, random) {
  for (const { question, answer } of await medquad(data))
    yield ["medquad", "en", pair(clean(question.replace("(are)", "").replace("(is)", "")), clip(clean(answer), 600))];
  for (const { dialogue } of await table(join(data, "mts_dialog/MTS-Dialog-TrainingSet.csv")))
    yield ["mts_dialog", "en", turns(dialogue, "Doctor:", "(?:Patient|Guest_family):")];
  for (const { dialogue } of await table(join(data, "aci_bench/train.csv"))) {
    const messages = turns(dialogue, "\\[doctor\\]", "\\[patient\\]");
    for (let at = 0; at + 8 <= messages.length; at += 8) yield ["aci_bench", "en", messages.slice(at, at + 8)];
  }
  for (const row of await table(join(data, "covid_faq_en_ar/MT_ar_faq_covidbert.csv"))) {
    // The other sources' web pages state no licence, or one that forbids commercial use.
    if (!row.link.includes("cdc.gov")) continue;
    yield ["covid_faq", "en", pair(clean(row.question), clip(clean(row.answer)))];
    yield ["covid_faq", "ar", pair(clean(row.question_ar), clip(clean(row.answer_ar)))];
  }
  const tests = new Set();
  for (const name of await readdir(join(data, "mentalqa_ar")))
    if (/ubtask.*_input_test\.tsv$/.test(name))
      for (const line of (await readFile(join(data, "mentalqa_ar", name), "utf8")).split("\n")) tests.add(clean(line));
  // One answer holds a person's address.
  for (const { question, answer } of await table(join(data, "mentalqa_ar/Train_Dev.tsv"), "\t"))
    if (!tests.has(clean(question)) && !(answer + question).includes("@"))
      yield ["mentalqa", "ar", pair(clean(question), clip(clean(answer)))];
  for (const segments of await translations(data)) {
    if (random() < 0.5) yield ["tico19", "ar", pair(`ترجم إلى العربية: ${segments[0]}`, segments[1])];
    else yield ["tico19", "en", pair(`Translate to English: ${segments[1]}`, segments[0])];
  }
  for (const name of (await readdir(join(data, "med_safety_bench/train/gpt4"))).sort())
    for (const row of await table(join(data, "med_safety_bench/train/gpt4", name)))
      yield ["med_safety", "en", pair(clean(row.harmful_medical_request), clean(row.safe_response))];
}

/** Conversations from the templates: complaints, closed questions, and questions about conditions. */
function written(random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const all = [];
  for (const language of ["en", "ar"]) {
    const { hello, say, durations, reply, close, more, follow, complaints, conditions, ask } = templates[language];
    for (let i = 0; i < 6000; i++) {
      const { name, question, warning } = pick(complaints);
      const fill = {
        s: name,
        s_cap: name[0].toUpperCase() + name.slice(1),
        d: pick(durations),
        q: question,
        w: warning,
        c: pick(close),
      };
      const text = (list) => pick(list).replace(/\{(\w+)\}/g, (_, key) => fill[key]);
      const messages = pair(text(hello) + text(say), text(reply));
      if (random() < 0.33) messages.push(...pair(text(more), text(follow)));
      all.push([language, messages]);
    }
    for (let i = 0; i < 1500; i++) {
      const [right, other] = sample(complaints, 2, random);
      const kind = pick(["yes", "no", "maybe"]);
      const about = kind === "no" ? other.name : right.name;
      const note = {
        en: kind === "maybe" ? `The notes about ${right.name} are not clear.` : `The patient reports ${right.name}.`,
        ar: kind === "maybe" ? `الملاحظات عن ${right.name} غير واضحة.` : `يشكو المريض من ${right.name}.`,
      }[language];
      const asked = {
        en: `Context: ${note}\nQuestion: Does the patient have ${about}?`,
        ar: `السياق: ${note}\nالسؤال: هل لدى المريض ${about}؟`,
      }[language];
      const told = { en: { yes: "yes", no: "no", maybe: "maybe" }, ar: { yes: "نعم", no: "لا", maybe: "ربما" } }[
        language
      ][kind];
      all.push([language, pair(asked, told)]);
    }
    for (let i = 0; i < 6000; i++) {
      const condition = pick(conditions);
      const { answer, questions } = pick(ask);
      const told = answer.replace(/\{(\w+)\}/g, (_, key) => condition[key]) + (random() < 0.5 ? ` ${pick(close)}` : "");
      all.push([
        language,
        pair(pick(hello) + pick(questions).replace("{n}", condition.name).replace("بـال", "بال"), told),
      ]);
    }
  }
  // A person goes on to something else, and may change the language.
  for (let i = 0; i < 4000; i++) {
    const [, before] = pick(all);
    const [language, after] = pick(all);
    all.push([language, [...before, ...after]]);
  }
  return all;
}

function sample(list, n, random) {
  const left = [...list];
  return Array.from({ length: n }, () => left.splice(Math.floor(random() * left.length), 1)[0]);
}

/**
 * Questions with options about a text: which topic of MedQuAD it is about, and which word of a sentence of TICO-19 stands in it.
 * Rejected: which complaint or condition a line of the templates belongs to. A model of this size learnt the lines, not to choose.
 */
async function* mcqa(data, random) {
  const item = (language, kind, question, right, wrong, topic) => {
    const options = [...wrong];
    const answer = Math.floor(random() * 4);
    options.splice(answer, 0, right);
    return { language, kind, question, options, answer, topic };
  };
  const asked = { en: "Which of these words stands in the text?", ar: "أي كلمة وردت في النص؟" };
  const rows = (await medquad(data)).filter(
    ({ focus, qtype }) => qtype === "information" && focus.trim() && focus.length < 40,
  );
  const topics = [...new Set(rows.map(({ focus }) => focus))];
  for (const { focus, answer } of rows) {
    const text = clip(clean(answer), 200);
    if (!text.includes(focus)) continue;
    const wrong = sample(topics, 4, random)
      .filter((topic) => topic !== focus)
      .slice(0, 3);
    yield item("en", "topic", `What is this text about? ${text}`, focus, wrong, focus);
  }
  const pairs = await translations(data);
  for (const [side, language] of ["en", "ar"].entries()) {
    const words = pairs.map((pair) => [...new Set(pair[side].match(/\p{L}{5,14}/gu) ?? [])]);
    const all = [...new Set(words.flat())];
    for (const [i, pair] of pairs.entries()) {
      const text = clip(pair[side], 160);
      const inside = words[i].filter((word) => text.includes(word));
      if (inside.length === 0 || text.length < 30) continue;
      // Each sentence asks twice, about two of its words.
      for (const right of sample(inside, Math.min(2, inside.length), random)) {
        const wrong = sample_few(all, 6, random)
          .filter((word) => !pair[side].includes(word))
          .slice(0, 3);
        if (wrong.length === 3) yield item(language, "word", `${asked[language]} ${text}`, right, wrong, pair[side]);
      }
    }
  }
}

/** A few different entries of a long list. */
function sample_few(list, n, random) {
  const chosen = new Set();
  while (chosen.size < n) chosen.add(list[Math.floor(random() * list.length)]);
  return [...chosen];
}

/** TICO-19's pairs of sentences, English and Arabic. */
async function translations(data) {
  const memory = unzip(await readFile(join(data, "tico19_en_ar/all.en-ar.tmx.zip"))).toString();
  const entities = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };
  return [...memory.matchAll(/<tu\b[^>]*>([\s\S]*?)<\/tu>/g)].map(([, unit]) =>
    [...unit.matchAll(/<seg>([\s\S]*?)<\/seg>/g)].map(([, text]) =>
      clip(clean(text.replace(/<[^>]+>/g, "").replace(/&(\w+);/g, (all, name) => entities[name] ?? all)), 400),
    ),
  );
}

const first_byte = (text) => createHash("sha256").update(text).digest()[0];
const is_held_out = (messages) => {
  const key = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}_]+/gu, "");
  return first_byte(key(messages[0].content) + key(messages.at(-1).content).slice(0, 40)) < 5;
};

/** Writes the files into `out` and returns how many lines each has. */
export async function build(data, out) {
  const random = generator(0);
  const files = new Map();
  const add = (name, line) => (files.get(name) ?? files.set(name, []).get(name)).push(JSON.stringify(line));
  const counts = {};
  const chat = (source, language, messages) => {
    if (messages.length < 2) return;
    const held = is_held_out(messages);
    const tally = (counts[source] ??= { training: 0, held_out: 0 });
    tally[held ? "held_out" : "training"]++;
    // The templates are easy: what is measured is the rest.
    if (!held)
      add(source === "templates" ? "templates.jsonl" : `chat_${language}.jsonl`, { source, language, messages });
    else if (source !== "templates") add(`held_out_chat_${language}.jsonl`, { source, language, messages });
  };
  for await (const [source, language, messages] of corpora(data, random)) chat(source, language, messages);
  for (const [language, messages] of written(random)) chat("templates", language, messages);
  for await (const { topic, ...item } of mcqa(data, random)) {
    const held = first_byte(topic) < 26;
    add(held ? `held_out_mcqa_${item.language}.jsonl` : "mcqa.jsonl", item);
    (counts[`mcqa ${item.kind}`] ??= { training: 0, held_out: 0 })[held ? "held_out" : "training"]++;
  }
  await mkdir(out, { recursive: true });
  for (const [name, lines] of files) await writeFile(join(out, name), `${lines.join("\n")}\n`);
  return { counts, files: Object.fromEntries([...files].map(([name, lines]) => [name, lines.length])) };
}

if (process.argv[1]?.endsWith("data.mjs"))
  console.log(JSON.stringify(await build(process.argv[2], process.argv[3]), null, 1));
