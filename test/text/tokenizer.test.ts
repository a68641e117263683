/** Token ids beside SentencePiece's, on the real Mixtral tokenizer (tools/make_text_fixtures.py). */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { BimedixError } from "../../src/errors.js";
import { load_tokenizer, StreamingDecoder, type Tokenizer } from "../../src/text/tokenizer.js";
import { root, shared, without_shared } from "../fixtures.js";

interface Fixture {
  texts: [string, number[], string][];
  mmlu_sha256: Record<string, string>;
  chats: [{ role: "user" | "assistant"; content: string }[], string, number[]][];
}

const mixtral = join(shared, "tokenizers/mixtral");
const skip = without_shared("tokenizers/mixtral");

/** RFC 4180, which is what Python's csv module wrote. */
export function parse_csv(text: string): string[][] {
  const rows: string[][] = [];
  let row: string[] = [];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    row.push(quoted?.replaceAll('""', '"') ?? plain ?? "");
    if (end === ",") continue;
    if (row.length > 1 || row[0] !== "") rows.push(row);
    row = [];
  }
  return rows;
}

describe("the Mixtral tokenizer", { skip }, async () => {
  let from_json: Tokenizer;
  let from_model: Tokenizer;
  let fixture: Fixture;

  before(async () => {
    fixture = JSON.parse(await readFile(join(root, "test/fixtures/text.json"), "utf8"));
    from_json = await load_tokenizer(mixtral);
    const only_model = await mkdtemp(join(tmpdir(), "bimedix-"));
    await cp(join(mixtral, "tokenizer.model"), join(only_model, "tokenizer.model"));
    from_model = await load_tokenizer(only_model);
  });

  test("ids and decoded texts equal SentencePiece's on tricky and random Unicode", () => {
    for (const tokenizer of [from_json, from_model]) {
      for (const [text, ids, decoded] of fixture.texts) {
        assert.deepEqual(tokenizer.encode(text, { add_special_tokens: false }), ids, JSON.stringify(text));
        assert.equal(tokenizer.decode(ids), decoded, JSON.stringify(text));
      }
    }
  });

  test("ids equal SentencePiece's on every MMLU cell in English and Arabic", {
    skip: without_shared("data/mmlu_med_ar"),
  }, async () => {
    assert.equal(Object.keys(fixture.mmlu_sha256).length, 24);
    for (const [file, expected] of Object.entries(fixture.mmlu_sha256)) {
      const text = (await readFile(join(shared, file), "utf8")).replace(/^\ufeff/, "");
      for (const tokenizer of [from_json, from_model]) {
        const hash = createHash("sha256");
        for (const cell of parse_csv(text).flat()) {
          hash.update(
            new Uint8Array(Int32Array.from([...tokenizer.encode(cell, { add_special_tokens: false }), -1]).buffer),
          );
        }
        assert.equal(hash.digest("hex"), expected, file);
      }
    }
  });

  test("tokens that a fine-tuning added beside tokenizer.model", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
    await cp(join(mixtral, "tokenizer.model"), join(dir, "tokenizer.model"));
    await writeFile(join(dir, "added_tokens.json"), JSON.stringify({ "<|im_start|>": 32000 }));
    const added_tokens_decoder = { 1: { content: "<s>", special: true }, 32001: { content: "[PAD]", special: true } };
    await writeFile(join(dir, "tokenizer_config.json"), JSON.stringify({ added_tokens_decoder }));
    const tokenizer = await load_tokenizer(dir);
    const plain = { add_special_tokens: false };
    assert.equal(tokenizer.vocab_size, 32002);
    assert.deepEqual(tokenizer.encode("<|im_start|>", plain), from_model.encode("<|im_start|>", plain));
    assert.deepEqual(tokenizer.encode("<|im_start|>", { ...plain, split_special_tokens: false }), [32000]);
    // A token of added_tokens.json is special only if it has a role.
    assert.equal(tokenizer.decode([32000, 32001, 1], { skip_special_tokens: true }), "<|im_start|>");
    await writeFile(join(dir, "added_tokens.json"), JSON.stringify({ "<|im_start|>": 32005 }));
    await assert.rejects(load_tokenizer(dir), /no token has id 32000/);
  });

  test("chats equal transformers'", () => {
    for (const [messages, text, ids] of fixture.chats) {
      assert.equal(from_json.apply_chat_template(messages, { tokenize: false, chat_template: MIXTRAL }), text);
      assert.deepEqual(from_json.apply_chat_template(messages, { chat_template: MIXTRAL }), ids);
    }
  });

  test("control strings typed by a user are text, in prompts and in chats", () => {
    for (const typed of ["<s>", "</s>", "<unk>", "a</s>b", "</s></s>", "<s</s>>"]) {
      const control = (ids: number[]) => ids.filter((id) => from_json.is_special(id));
      assert.deepEqual(control(from_json(typed).input_ids[0]!), [1], typed);
      assert.deepEqual(control(from_json.apply_chat_template([{ role: "user", content: typed }])), [1], typed);
      const ids = from_json.apply_chat_template([{ role: "user", content: typed }]);
      assert.ok(from_json.decode(ids).includes(typed), `${typed} is still there`);
    }
    assert.deepEqual(from_json.encode("</s>", { split_special_tokens: false, add_special_tokens: false }), [2]);
    assert.deepEqual(
      from_json.encode("<s>x", { split_special_tokens: false }).filter((id) => id === 1),
      [1],
      "one <s>",
    );
  });

  test("streaming equals decoding, and shows only whole characters", () => {
    const text = "I feel \ufffd tired — أشعر بالتعب الشديد 👩‍👩‍👧 منذ أسبوع\n\ufffd";
    const ids = from_json.encode(text, { add_special_tokens: false });
    const decoder = new StreamingDecoder(from_json);
    const shown: string[] = [];
    for (const id of ids) {
      const piece = decoder.push(id);
      shown.push(piece);
      // The only U+FFFD that may appear are the two of the text itself.
      assert.ok(shown.join("").split("\ufffd").length <= text.split("\ufffd").length);
      assert.ok(text.startsWith(shown.join("")));
    }
    assert.equal(shown.join("") + decoder.flush(), text);
    let seed = 1;
    for (let round = 0; round < 200; round++) {
      const random = Array.from({ length: 30 }, () => (seed = (seed * 48271) % 2147483647) % (round % 2 ? 32000 : 300));
      const stream = new StreamingDecoder(from_json);
      assert.equal(random.map((id) => stream.push(id)).join("") + stream.flush(), from_json.decode(random));
    }
  });

  test("a word of a megabyte passes", () => {
    const word = "كلمة".repeat(250_000);
    assert.equal(from_json.decode(from_json.encode(word, { add_special_tokens: false })), word);
  });
});

const MIXTRAL =
  "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}";

describe("a tokenizer that cannot be read", () => {
  const json = (change: object) =>
    JSON.stringify({ model: { type: "BPE", vocab: { a: 0, b: 1 }, merges: [] }, added_tokens: [], ...change });
  const cases: [string, Record<string, string>, string][] = [
    ["nothing", {}, "file_not_found"],
    ["no JSON", { "tokenizer.json": "{" }, "bad_tokenizer"],
    ["a list", { "tokenizer.json": "[]" }, "bad_tokenizer"],
    [
      "an id twice",
      { "tokenizer.json": json({ model: { type: "BPE", vocab: { a: 0, b: 0 }, merges: [] } }) },
      "bad_tokenizer",
    ],
    [
      "a huge id",
      { "tokenizer.json": json({ model: { type: "BPE", vocab: { a: 1e15 }, merges: [] } }) },
      "bad_tokenizer",
    ],
    [
      "a merge of three",
      { "tokenizer.json": json({ model: { type: "BPE", vocab: { a: 0 }, merges: ["a b c"] } }) },
      "bad_tokenizer",
    ],
    ["a word-piece model", { "tokenizer.json": json({ model: { type: "WordPiece", vocab: {} } }) }, "bad_tokenizer"],
    ["a cut SentencePiece file", { "tokenizer.model": "\n\x0e\n\x05<unk>\x15" }, "bad_tokenizer"],
    ["an empty SentencePiece file", { "tokenizer.model": "" }, "bad_tokenizer"],
  ];
  for (const [name, files, code] of cases) {
    test(name, async () => {
      const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
      await mkdir(dir, { recursive: true });
      for (const [file, content] of Object.entries(files)) await writeFile(join(dir, file), content);
      await assert.rejects(load_tokenizer(dir), (error: unknown) => {
        assert.ok(error instanceof BimedixError);
        assert.equal(error.code, code);
        assert.ok(error.message.includes(dir) && !error.message.includes("\n"), error.message);
        return true;
      });
    });
  }
});
