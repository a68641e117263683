/** Damaged data: questions and lessons in every kind of file that is read. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { read_records } from "../../src/data/records.js";
import { load_task, mcqa_task } from "../../src/eval/datasets.js";
import { load_tokenizer } from "../../src/text/tokenizer.js";
import { read_dataset } from "../../src/train/data.js";
import { root } from "../fixtures.js";
import { Folder } from "./folder.js";
import { type Case, fuzz, type Target } from "./harness.js";
import { mutate_bytes, mutate_json, pick, type Random } from "./mutate.js";

const A_ROW = "a row is what it says, as long as it is a whole one; damage that leaves it whole is another row";
const numbers = Array.from({ length: 8 }, (_, i) => i);
const questions = numbers.map((i) => ({
  id: i,
  question: `What ${i}?`,
  options: ["a", "b", "c", "d"],
  answer: i % 4,
}));
const lines = (rows: unknown): string =>
  (Array.isArray(rows) ? rows : [rows]).map((row) => JSON.stringify(row)).join("\n");
const table = (separator: string): string =>
  ["id,question,A,B,C,D,answer", ...numbers.map((i) => `${i},"What, ""${i}""?",a,b,"c\nd",e,${"ABCD"[i % 4]}`)]
    .join("\n")
    .replaceAll(",", separator);

/** Bytes of a file of this name, damaged or whole, and what they are read to. */
async function of_bytes(
  name: string,
  bytes: Uint8Array,
  read: (file: string) => Promise<unknown>,
): Promise<(random: Random) => Case> {
  const folder = await Folder.make();
  const whole = JSON.stringify(await read(folder.write(name, bytes)));
  return (random) => {
    const { value, detail } = mutate_bytes(bytes, random);
    const file = folder.write(name, value);
    return { detail, work: async () => (JSON.stringify(await read(file)) === whole ? "same" : "other records") };
  };
}

/** The questions of a file as evaluation reads them: of each the options and which one is right. */
async function questions_of(file: string): Promise<unknown> {
  const task = await mcqa_task(file);
  const { docs } = await load_task(task, { num_fewshot: 0 });
  return docs.map((doc) => {
    const [options, answer] = [task.doc_to_choice(doc), task.doc_to_target(doc)];
    if (options[answer as number] === undefined) throw new Error(`answer ${answer} of ${options.length} options`);
    return [task.doc_to_text(doc), options, answer];
  });
}

const records = async (file: string): Promise<unknown> => (await read_records(file)).map(({ value }) => value);

const targets: Target[] = [
  {
    name: "questions as JSON lines",
    harmless: [[/^other records$/, A_ROW]],
    make: async () => {
      const folder = await Folder.make();
      const whole = JSON.stringify(await questions_of(folder.write("q.jsonl", lines(questions))));
      return (random) => {
        const [{ value, detail }, kind] = [mutate_json(questions, random), pick(random, ["q.jsonl", "q.json"])];
        const file = folder.write(kind, kind === "q.json" ? (JSON.stringify(value) ?? "") : lines(value));
        return {
          detail: `${kind}: ${detail}`,
          work: async () => (JSON.stringify(await questions_of(file)) === whole ? "same" : "other records"),
        };
      };
    },
  },
  ...(["q.jsonl", "q.json", "q.csv", "q.tsv", "q.jsonl.gz"] as const).map((name): Target => {
    const text = name.endsWith("l") || name.endsWith("gz") ? lines(questions) : JSON.stringify(questions);
    const plain = name === "q.csv" ? table(",") : name === "q.tsv" ? table("\t") : text;
    const bytes = name.endsWith(".gz") ? gzipSync(plain) : Buffer.from(plain);
    return {
      name: `questions, the bytes of ${name}`,
      harmless: [[/^other records$/, A_ROW]],
      make: () => of_bytes(name, bytes, questions_of),
    };
  }),
  {
    name: "Parquet",
    harmless: [[/^other records$/, "values have no checksum in these files, as Arrow writes them"]],
    make: async () => {
      const made: ((random: Random) => Case)[] = [];
      for (const name of ["none", "snappy", "gzip", "brotli", "lz4", "zstd", "types"])
        made.push(
          await of_bytes("x.parquet", await readFile(join(root, `test/fixtures/data/${name}.parquet`)), records),
        );
      return (random) => pick(random, made)(random);
    },
  },
  {
    name: "lessons",
    harmless: [[/^\d examples$/, A_ROW]],
    make: async () => {
      const folder = await Folder.make();
      const tokenizer = await load_tokenizer(join(root, "models/nano"));
      const lessons = {
        chat: numbers.map((i) => ({
          messages: [
            { role: "user", content: `q${i}` },
            { role: "assistant", content: `a${i}` },
          ],
        })),
        instruction: numbers.map((i) => ({ instruction: `q${i}`, input: "x", output: "a" })),
        mcqa: numbers.map((i) => ({ question: `q${i}`, options: ["a", "b"], answer: i % 2, context: "c" })),
        prompt_completion: numbers.map((i) => ({ prompt: `q${i}`, completion: `a${i}` })),
      } as const;
      return (random) => {
        const type = pick(random, Object.keys(lessons) as (keyof typeof lessons)[]);
        const on_damaged_line = pick(random, ["stop", "skip"] as const);
        const bytes = Buffer.from(lines(lessons[type]));
        const { value, detail } = random() < 0.75 ? mutate_json(lessons[type], random) : mutate_bytes(bytes, random);
        const path = folder.write("d.jsonl", value instanceof Uint8Array ? value : lines(value));
        const options = { sequence_len: 64, train_on_inputs: false, on_damaged_line };
        return {
          detail: `${type}, ${on_damaged_line}: ${detail}`,
          work: async () => `${(await read_dataset({ path, type }, tokenizer, options)).examples.length} examples`,
        };
      };
    },
  },
];

for (const target of targets) fuzz(target);
