/** Where added tokens, normalizers and post-processors meet: the ids are those of transformers 5.17 (tokenizers 0.23.2) for the same tokenizer.json. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { align } from "../../src/text/alignment.js";
import { load_tokenizer, type Tokenizer } from "../../src/text/tokenizer.js";

const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
after(() => rm(dir, { recursive: true }));

const vocab = ["<unk>", "<s>", "</s>", ...new Set("▁<|>_imstarednouhcglIHx.\n ")];
const [START, END] = [vocab.length, vocab.length + 1];

async function tokenizer(change: object, model: object = {}): Promise<Tokenizer> {
  const ids = Object.fromEntries(vocab.map((piece, id) => [piece, id]));
  const json = { model: { type: "BPE", vocab: ids, merges: [], unk_token: "<unk>", ...model }, ...change };
  await writeFile(join(dir, "tokenizer.json"), JSON.stringify(json));
  return load_tokenizer(dir);
}

test("a token that is normalized is found at the beginning of a chat, where it has the prefix", async () => {
  const own = await tokenizer({
    added_tokens: [
      { id: START, content: "<|im_start|>", normalized: true },
      { id: END, content: "<|im_end|>", normalized: false },
    ],
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
  });
  own.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
  const ids = own.apply_chat_template([{ role: "user", content: "I got a cough." }]);
  // biome-ignore format: a list
  assert.deepEqual(ids, [29, 18, 10, 14, 13, 27, 23, 3, 21, 17, 11, 3, 12, 3, 20, 17, 18, 21, 19, 26, 30, 3, 27]);
});

test("white space that one token took along is no token that would take it along itself", async () => {
  for (const [lstrip, expected] of [
    [false, [START, END, 24]],
    [true, [START, 24]],
  ] as const) {
    const own = await tokenizer({
      added_tokens: [
        { id: START, content: "user", rstrip: true },
        { id: END, content: "  ", lstrip },
      ],
    });
    assert.deepEqual(own.encode("user  H"), expected);
  }
});

test("post-processors in a sequence put theirs around each other's", async () => {
  const template = {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
  };
  const around = { type: "BertProcessing", cls: ["<unk>", 0], sep: ["</s>", 2] };
  const byte_level = { type: "ByteLevel", add_prefix_space: true, trim_offsets: false };
  const own = await tokenizer({
    added_tokens: ["<unk>", "<s>", "</s>"].map((content, id) => ({ id, content, special: true })),
    post_processor: { type: "Sequence", processors: [byte_level, template, around] },
    normalizer: { type: "Prepend", prepend: "▁" },
  });
  assert.deepEqual(own.encode("Hi"), [0, 1, 3, 24, 8, 2]);
});

test("characters merge across one that leaves nothing, where there is no unknown token", async () => {
  const ids = Object.fromEntries([...vocab.filter((one) => one !== "x"), "▁▁"].map((piece, id) => [piece, id]));
  const own = await tokenizer({}, { vocab: ids, merges: [["▁", "▁"]], unk_token: null });
  assert.deepEqual(own.encode("▁x▁H"), [28, 24]);
});

test("what a normalizer changed stands where it stood", () => {
  const cases: [string, string, number[]][] = [
    ["Hello World", "▁hello▁world", [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]],
    ["ب ﷺ", "▁ب▁صلى الله عليه وسلم", [0, 0, 1, ...Array<number>(18).fill(2), 3]],
    ["مَرحبًا", "▁مرحبا", [0, 0, 2, 3, 4, 6, 7]],
    [`ab${"\u200b".repeat(20)}c`, "▁abc", [0, 0, 1, 22, 23]],
  ];
  for (const [original, changed, expected] of cases) {
    const place = align(original, changed);
    assert.deepEqual(
      Array.from({ length: changed.length + 1 }, (_, i) => place(i)),
      expected,
      original,
    );
  }
});
