/**
 * Tokenizer files of every kind beside the `tokenizers` library, transformers and SentencePiece (tools/make_tokenizer_fixtures.py);
 * what is not supported is refused by its name.
 */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { encode_prompt } from "../../src/eval/prompts.js";
import type { TokenizerCallOptions } from "../../src/text/batch.js";
import { regex_pattern } from "../../src/text/patterns.js";
import { load_tokenizer, StreamingDecoder, type Tokenizer } from "../../src/text/tokenizer.js";
import { rejects, root } from "../fixtures.js";

type Json = Record<string, unknown>;
type Decoded = [ids: number[], skip_special_tokens: boolean, text: string];

interface Fixture {
  texts: string[];
  models: Record<string, Json & { vocab: object }>;
  components: { name: string; json: Json; rows: [number[], string][]; hello: number[]; decoded: Decoded[] }[];
  folders: {
    name: string;
    json: Json;
    files: Record<string, Json>;
    rows: [text: string, plain: number[], whole: number[], skipped: string][];
    calls: [TokenizerCallOptions, Json][];
    ids: (number | null)[];
    special: string[];
  }[];
  sentencepiece: { name: string; model: string; rows: [string, number[]][] }[];
}

const fixture: Fixture = JSON.parse(await readFile(join(root, "test/fixtures/tokenizers.json"), "utf8"));
const made: string[] = [];

after(() => Promise.all(made.map((dir) => rm(dir, { recursive: true }))));

async function folder(files: Record<string, unknown>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  made.push(dir);
  for (const [name, content] of Object.entries(files))
    await writeFile(join(dir, name), content instanceof Uint8Array ? content : JSON.stringify(content));
  return dir;
}

/** With the vocabulary that the model names. */
function whole({ model, ...rest }: Json): Json {
  const { name, ...options } = model as { name: string };
  return { ...rest, model: { ...fixture.models[name], ...options } };
}

const of_json = async (json: Json, more: Record<string, unknown> = {}): Promise<Tokenizer> =>
  load_tokenizer(await folder({ "tokenizer.json": json, ...more }));

const rendered = { add_special_tokens: false, split_special_tokens: false };

describe("tokenizer.json as the tokenizers library reads it", () => {
  for (const { name, json, rows, hello, decoded } of fixture.components) {
    test(name, async () => {
      const tokenizer = await of_json(whole(json));
      for (const [i, [ids, text]] of rows.entries()) {
        const given = fixture.texts[i]!;
        assert.deepEqual(tokenizer.encode(given, rendered), ids, JSON.stringify(given));
        // A text that begins with <s> gets no second one, so those are left out.
        if (ids[0] !== 1) {
          const around = tokenizer.encode(given, { split_special_tokens: false });
          assert.equal(tokenizer.decode(around, { skip_special_tokens: true }), text, JSON.stringify(given));
        }
      }
      assert.deepEqual(tokenizer.encode("Hello"), hello);
      for (const [ids, skip_special_tokens, text] of decoded) {
        assert.equal(tokenizer.decode(ids, { skip_special_tokens }), text, JSON.stringify(ids));
        const stream = new StreamingDecoder(tokenizer, { skip_special_tokens });
        assert.equal(ids.map((id) => stream.push(id)).join("") + stream.flush(), text);
      }
    });
  }

  test("nobody types a token in brackets, and words of a domain are found all the same", async () => {
    for (const { name, json } of fixture.components) {
      const tokenizer = await of_json(whole(json));
      for (const typed of ["a<s>b</s>", "<|im_start|>system\nx<|im_end|>", "<mask>", "<unk>"]) {
        const ids = tokenizer.encode(typed, { add_special_tokens: false });
        const control = (id: number) => /^<(?!0x)[^>]{2,}>$/.test(tokenizer.convert_ids_to_tokens(id)) && id !== 0;
        assert.deepEqual(ids.filter(control), [], `${name}: ${typed}`);
      }
    }
    const flags = fixture.components.find(({ name }) => name === "GPT-2")!;
    const tokenizer = await of_json(whole(flags.json));
    const foo = tokenizer.convert_tokens_to_ids("foo")!;
    assert.deepEqual(tokenizer.encode("foo", { add_special_tokens: false }), [foo]);
  });
});

describe("a folder as transformers 5.17 reads it", () => {
  for (const { name, json, files, rows, calls, ids, special } of fixture.folders) {
    test(name, async () => {
      const tokenizer = await of_json(whole(json), files);
      const { bos_token_id, eos_token_id, pad_token_id, unk_token_id, all_special_tokens } = tokenizer;
      assert.deepEqual([bos_token_id, eos_token_id, pad_token_id, unk_token_id], ids);
      assert.deepEqual([...all_special_tokens].sort(), [...special].sort());
      for (const [text, plain, around, skipped] of rows) {
        assert.deepEqual(tokenizer.encode(text, rendered), plain, text);
        assert.deepEqual(tokenizer.encode(text, { split_special_tokens: false }), around, text);
        assert.equal(tokenizer.decode(around, { skip_special_tokens: true }), skipped, text);
      }
      for (const [options, expected] of calls) {
        const texts = rows.slice(0, 3).map(([text]) => text);
        const own = tokenizer(texts, { ...options, split_special_tokens: false });
        assert.deepEqual(own, expected, JSON.stringify(options));
      }
    });
  }

  test("a chat has the tokens of its rendered text, also where tokens are looked for behind a normalizer", async () => {
    for (const { name, json, files } of fixture.folders) {
      const tokenizer = await of_json(whole(json), files);
      const chat_template =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";
      const messages = [{ role: "user", content: "patient has a cough" } as const];
      const text = tokenizer.apply_chat_template(messages, { chat_template, tokenize: false });
      assert.deepEqual(
        tokenizer.apply_chat_template(messages, { chat_template }),
        tokenizer.encode(text, rendered),
        name,
      );
    }
  });

  test("an evaluation puts around a text what the files say, as lm-evaluation-harness 0.4.13 does", async () => {
    const { json } = fixture.components.find(({ name }) => name === "Llama, not legacy")!;
    const tokenizer = await of_json(whole(json), { "tokenizer_config.json": { bos_token: "<s>", eos_token: "</s>" } });
    // By `_encode_pair` of its HFLM with this tokenizer, and `add_bos_token` left out, true and false.
    const cases: [boolean | null, string, string, number[], number[]][] = [
      [null, "patient has ", "fever", [1, 350, 408, 2], [2]],
      [null, "<s>patient has", " cough", [1, 346, 349, 408], [351]],
      [null, "dose", " 500 mg", [1, 373, 2], [399, 2]],
      [true, "patient has ", "fever", [1, 350, 408], [391]],
      [true, "dose", " 500 mg", [1, 373], [389, 399]],
      [false, "patient has ", "fever", [350, 408], [391]],
    ];
    for (const [add_bos, context, text, before, continuation] of cases) {
      const { requests } = encode_prompt({ context, continuations: [text] }, { tokenizer, add_bos, max_length: 100 });
      assert.deepEqual(requests, [{ context: before, continuation }], `${add_bos} ${context}`);
    }
  });

  test("options that a call does not know, or that contradict each other, are refused by name", async () => {
    const tokenizer = await of_json(whole(fixture.components[0]!.json));
    const call = (options: object) => async () => tokenizer("x", options as TokenizerCallOptions);
    await rejects(call({ return_tensors: "pt" })(), "bad_option", /return_tensors/);
    await rejects(call({ padding: "longst" })(), "bad_option", /padding "longst"/);
    await rejects(call({ padding: true })(), "bad_option", /pad_token/);
    await rejects(call({ max_length: 0 })(), "bad_option", /max_length 0.*at least 1/);
  });
});

describe("tokenizer.model as SentencePiece reads it", () => {
  for (const { name, model, rows } of fixture.sentencepiece) {
    test(name, async () => {
      const tokenizer = await load_tokenizer(await folder({ "tokenizer.model": Buffer.from(model, "base64") }));
      for (const [text, ids] of rows)
        assert.deepEqual(tokenizer.encode(text, { add_special_tokens: false }), ids, JSON.stringify(text));
    });
  }
});

describe("a file that is not applied is refused by name", () => {
  const json = { model: { type: "BPE", vocab: { a: 0, b: 1 }, merges: [] as string[] } };
  const changed = (change: Json) => ({ "tokenizer.json": { ...json, ...change } });
  const nested = (levels: number): Json =>
    levels === 0 ? { type: "NFC" } : { type: "Sequence", normalizers: [nested(levels - 1)] };
  const split = (Regex: string) => ({
    pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
  });
  const cases: [string, Record<string, unknown>, RegExp][] = [
    ["normalizer", changed({ normalizer: { type: "Morse" } }), /normalizer Morse.*one of BertNormalizer/],
    ["pre-tokenizer", changed({ pre_tokenizer: { type: "UnicodeScripts" } }), /pre-tokenizer UnicodeScripts/],
    ["post-processor", changed({ post_processor: { type: "toString" } }), /post-processor toString/],
    ["decoder", changed({ decoder: { type: "Sequence", decoders: [{ type: "Morse" }] } }), /decoder Morse/],
    ["model", changed({ model: { type: "Morse", vocab: {} } }), /model Morse/],
    ["dropout", changed({ model: { ...json.model, dropout: 0.1 } }), /dropout 0.1/],
    ["a merge outside of the vocabulary", changed({ model: { ...json.model, merges: ["a b"] } }), /merge of a and b/],
    ["version", changed({ version: "2.0" }), /version "2.0"/],
    ["a part of an expression", changed(split("a\\Kb")), /\\K in the regular expression/],
    ["a property", changed(split("\\p{Morse}")), /property Morse/],
    ["a behavior", changed({ pre_tokenizer: { type: "Punctuation", behavior: "Doubled" } }), /behavior Doubled/],
    ["a missing field", changed({ normalizer: { type: "Prepend" } }), /prepend is missing/],
    ["parts too deep", changed({ normalizer: nested(200) }), /at most 64 levels/],
    ["padding", changed({ padding: { direction: "Up", pad_token: "a" } }), /padding_side "up"/],
    ["tekken.json", { "tekken.json": {} }, /tekken.json and no tokenizer.json/],
    ["vocab.txt", { "vocab.txt": {} }, /vocab.txt and no tokenizer.json/],
    ["tiktoken", { "tokenizer.model": Buffer.from("IQ== 0\nIg== 1\n") }, /format of tiktoken/],
    [
      "a class without two files",
      { "vocab.json": { a: 0 }, "merges.txt": {} },
      /vocab.json and merges.txt of no class/,
    ],
  ];
  for (const [name, files, mentions] of cases)
    test(name, async () => rejects(load_tokenizer(await folder(files)), "bad_tokenizer", mentions));

  test("ids with a hole are read, as the library reads them", async () => {
    const tokenizer = await of_json({ model: { type: "BPE", vocab: { a: 0, b: 2 }, merges: [] } });
    assert.deepEqual(tokenizer.encode("ab"), [0, 2]);
    assert.equal(tokenizer.decode([0, 1, 2]), "a b");
    await rejects((async () => tokenizer.decode([3]))(), "token_out_of_range", /token id 3/);
  });
});

test("expressions mean what they mean to Oniguruma", () => {
  // By the library: tokenizers.normalizers.Replace(Regex(source), "-"), version 0.23.2
  const cases: [source: string, text: string, expected: string][] = [
    ["\\s", "a\u0085b\ufeffc\u00a0d", "a-b\ufeffc-d"],
    ["\\w+", "ab_1²é- x", "-- -"],
    ["[\\w]", "a²", "-²"],
    ["(?i)s|k", "sSſ kK\u212a x", "--- --- x"],
    ["(?i:'s)|T", "'S t T", "- t -"],
    ["[[:punct:]]", "a+b,c$⁄", "a-b-c--"],
    ["\\p{Punct}", "a+b,c", "a+b-c"],
    ["\\p{^L}", "a1", "a-"],
    ["^a|b$", "ab\nab", "--\n--"],
    [".", "a\nb", "-\n-"],
    ["(?>a+)ab|x", "aaab x", "aaab -"],
    ["a++b|a", "aab", "-"],
    ["[a-f&&[^c]]", "abcg", "--cg"],
    ["\\bfoo\\b", "foo foobar", "- foobar"],
    ["\\h", "fz", "-z"],
    ["a{,2}b", "aab", "-"],
    ["(a|b)\\1*", "aab bb", "-- -"],
    ["\\A\\p{Nd}{1,2}(?=\\p{Nd}{3}+\\z)", "12345", "-345"],
    ["['\\\"]", "a'b\"", "a-b-"],
    ["(\\[[^\\]]+]|Br?|\\%[0-9]{2}|[0-9])", "[x]Br%12", "---"],
    ["[()\\[\\]{}]|([!\"#$%&'*+,\\-.\\/:;<=>?\\\\^_`|~])\\1*", "(a!!b--", "-a-b-"],
    ["(?:\\r?\\n)+(?!\\r?\\n)", "a\r\n\nb", "a-b"],
    [" ?[^(\\s|[.,!?…。，、।۔،])]+", "a b, c", "--,-"],
    ["\\x{1F600}|\\u0041", "😀A", "--"],
  ];
  for (const [source, text, expected] of cases)
    assert.equal(regex_pattern(source, assert.fail).replace(text, "-").text, expected, source);
});

/** What JavaScript's own engine would take for ever, or the square of the text's length, for. */
const endless: readonly [source: string, text: string][] = [
  ["(a+)+$", `${"a".repeat(40)}b`],
  ["(a|aa)+$", `${"a".repeat(60)}b`],
  ["(?:(?:a*)*)*b", "a".repeat(3000)],
  ["(a?){50}a{50}b", "a".repeat(50)],
  ["(?=.*.*.*.*x)", "y".repeat(3000)],
  ["\\s+x", " ".repeat(200_000)],
  ["a+b|a", "a".repeat(200_000)],
  ["(?:\\r\\n|x)+?z", "x".repeat(200_000)],
];
const too_much: readonly [source: string, why: RegExp][] = [
  ["(".repeat(10_000), /inside each other/],
  ["[".repeat(10_000), /inside each other/],
  ["a".repeat(30_000), /30000 characters/],
  ["(?:(?:){99999}){99999}", /too large/],
  ["(?:(?:ab){1000}){1000}", /too large/],
  ["(a)\\2", /\\2/],
  ["a{3,2}", /quantifier/],
  ["(?<=a*)b", /look behind/],
  ["(?<n>a)\\k<n>", /\\k/],
  ["[z-a]", /Range/],
];

describe("regular expressions of tokenizer.json", () => {
  const split = (Regex: string) => ({
    model: { type: "WordLevel", vocab: { a: 0 }, unk_token: "a" },
    pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
  });
  for (const [source, text] of endless)
    test(`an error ends ${source}`, async () => {
      const tokenizer = await of_json(split(source));
      await rejects(
        (async () => tokenizer.encode(text))(),
        "bad_tokenizer",
        /tokenizer\.json: .* takes too long on \d+/,
      );
    });
  for (const [source, why] of too_much)
    test(`refused: ${source.slice(0, 30)}`, () => rejects(of_json(split(source)), "bad_tokenizer", why));

  test("what they find, and where they go back to", () => {
    const found = (source: string, text: string): string => regex_pattern(source, assert.fail).all(text).join(" ");
    assert.equal(found("x*", "axxb"), "0 0 1 3 4 4");
    assert.equal(found("(?:a|ab)(?:c|bcd)", "abcd"), "0 4");
    assert.equal(found("a*?b|.", "caab"), "0 1 1 4");
    assert.equal(found("(?:\\d{3})+(?!\\d)", "12345678"), "2 8");
    assert.equal(found("(?<=\\d)(?=(?:\\d{3})+$)", "1234567"), "1 1 4 4");
    assert.equal(found("(?<!a|bc)d", "adbcddd"), "5 6 6 7");
    assert.equal(found("(.)\\1+", "aabccc😀😀"), "0 2 3 6 6 10");
    assert.equal(found("(?>a|ab)c|[ab]++b|.", "abc"), "0 1 1 2 2 3");
    assert.equal(found("(?:a?b?)*c", "ababc"), "0 5");
    assert.equal(found("\\bx\\b|\\By", "x xy"), "0 1 3 4");
  });
});

test("a token that is longer than any is refused, and so is an added id that is no token's", async () => {
  const model = { type: "WordLevel", vocab: { a: 0, ["b".repeat(5000)]: 1 }, unk_token: "a" };
  await rejects(of_json({ model }), "bad_tokenizer", /token 1 of 5000 characters; expected at most/);
  const post_processor = { type: "BertProcessing", sep: ["a", 0], cls: ["c", 4294967296] };
  const small = { model: { type: "WordLevel", vocab: { a: 0 }, unk_token: "a" }, post_processor };
  await rejects(of_json(small), "bad_tokenizer", /post_processor adds the id 4294967296/);
});

test("parts of another shape are refused by name, in a Llama's files too", async () => {
  const config = {
    "config.json": { model_type: "llama" },
    "tokenizer_config.json": { tokenizer_class: "LlamaTokenizer" },
  };
  const model = { type: "BPE", vocab: { a: 0 }, merges: [] };
  await rejects(of_json({}, config), "bad_tokenizer", /tokenizer\.json: no model/);
  await rejects(
    of_json({ model, normalizer: { type: "Sequence", normalizers: 7 } }, config),
    "bad_tokenizer",
    /normalizers/,
  );
  await rejects(of_json({ model: { ...model, dropout: {} } }), "bad_tokenizer", /dropout \{\}/);
});
