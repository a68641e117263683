/** Damaged tokenizers: tokenizer.json of every kind, what stands beside it, tokenizer.model, and chat templates. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { load_tokenizer } from "../../src/text/tokenizer.js";
import { root } from "../fixtures.js";
import { Folder } from "./folder.js";
import { type Case, fuzz, type Target } from "./harness.js";
import { type Mutated, mutate_bytes, mutate_json, pick, type Random } from "./mutate.js";

type Json = Record<string, unknown>;
const read = async (file: string): Promise<Json> => JSON.parse(await readFile(join(root, file), "utf8"));

const TEXT = "What is الربو? <s>[INST] 漢 😀 <unk>\n\tÀ é 12345 ''s don't";

/** All that a tokenizer makes of a text, as one text. */
async function outcome(folder: string): Promise<string> {
  const tokenizer = await load_tokenizer(folder);
  const ids = tokenizer.encode(TEXT);
  const rendered = tokenizer.encode(TEXT, { add_special_tokens: false, split_special_tokens: false });
  const text = tokenizer.chat_template ? tokenizer.apply_chat_template([{ role: "user", content: "hi </s>" }]) : [];
  return JSON.stringify([
    ids,
    rendered,
    tokenizer.decode(ids),
    tokenizer.decode(rendered, { skip_special_tokens: true }),
    text,
  ]);
}

/** As bytes now and then, so that syntax is damaged too. */
function damaged(json: unknown, random: Random): Mutated<unknown> {
  if (random() < 0.85) {
    const { value, detail } = mutate_json(json, random);
    return { value: JSON.stringify(value), detail };
  }
  return mutate_bytes(Buffer.from(JSON.stringify(json)), random);
}

const ITS_OWN = "the file is a whole tokenizer, though not the one that it was; nothing else says what it should be";

/** Cases of a folder with these files, of which one is damaged at a time. */
async function of_files(files: Json, also: readonly string[] = []): Promise<(random: Random) => Case> {
  const folder = await Folder.make(join(root, "models/nano"), also);
  for (const [name, json] of Object.entries(files)) folder.write(name, json);
  const whole = await outcome(folder.path);
  let last = "";
  return (random) => {
    if (last) folder.write(last, files[last]);
    // tokenizer.json has the most to get wrong.
    last = random() < 0.5 ? Object.keys(files)[0]! : pick(random, Object.keys(files));
    const { value, detail } = damaged(files[last], random);
    folder.write(last, value);
    return {
      detail: `${last}: ${detail}`,
      work: async () => ((await outcome(folder.path)) === whole ? "same" : "other tokens"),
    };
  };
}

interface Fixture {
  models: Record<string, Json>;
  components: { json: Json & { model: Json } }[];
  folders: { json: Json & { model: Json }; files: Json }[];
  sentencepiece: { model: string }[];
}

const fixture = (await read("test/fixtures/tokenizers.json")) as unknown as Fixture;
const with_vocabulary = ({ model, ...rest }: Json & { model: Json }): Json => {
  const { name, ...options } = model as { name: string };
  return { ...rest, model: { ...fixture.models[name], ...options } };
};

/** Each case of one of several targets. */
async function any_of(all: readonly Promise<(random: Random) => Case>[]): Promise<(random: Random) => Case> {
  const made = await Promise.all(all);
  return (random) => pick(random, made)(random);
}

const targets: Target[] = [
  {
    name: "tokenizer.json of every kind",
    harmless: [[/^other tokens$/, ITS_OWN]],
    make: () => any_of(fixture.components.map(({ json }) => of_files({ "tokenizer.json": with_vocabulary(json) }))),
  },
  {
    name: "what stands beside tokenizer.json",
    harmless: [[/^other tokens$/, ITS_OWN]],
    make: () =>
      any_of(fixture.folders.map(({ json, files }) => of_files({ "tokenizer.json": with_vocabulary(json), ...files }))),
  },
  {
    name: "tokenizer of models/nano",
    few: 40,
    harmless: [[/^other tokens$/, ITS_OWN]],
    make: async () => {
      const names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"];
      const files = Object.fromEntries(
        await Promise.all(names.map(async (name) => [name, await read(`models/nano/${name}`)] as const)),
      );
      return of_files({ ...files, "config.json": await read("models/nano/config.json") }, ["chat_template.jinja"]);
    },
  },
  {
    name: "tokenizer.model",
    harmless: [[/^other tokens$/, ITS_OWN]],
    make: () =>
      any_of(
        fixture.sentencepiece.map(async ({ model }) => {
          const bytes = Buffer.from(model, "base64");
          const folder = await Folder.make();
          folder.write("tokenizer.model", bytes);
          const whole = await outcome(folder.path);
          return (random: Random): Case => {
            // Half of them where the pieces begin, or at the end, where the settings and the rules are.
            const half = Math.min(3000, bytes.length >> 1);
            const { value, detail } = mutate_bytes(
              bytes,
              random,
              pick(random, [{}, { to: half }, { from: bytes.length - half }]),
            );
            folder.write("tokenizer.model", value);
            return { detail, work: async () => ((await outcome(folder.path)) === whole ? "same" : "other tokens") };
          };
        }),
      ),
  },
];

for (const target of targets) fuzz(target);
