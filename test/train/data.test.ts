/** From lines to rows: which tokens are learnt, how rows are packed, and the log's event files. */
import assert from "node:assert/strict";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import { load_tokenizer, type Tokenizer } from "../../src/text/tokenizer.js";
import { balance, balance_each } from "../../src/train/balance.js";
import { encode_messages, pack, read_dataset, to_batch } from "../../src/train/data.js";
import { EventFile } from "../../src/train/events.js";
import { clip_scale, schedule_at } from "../../src/train/optimizer.js";
import { plot_page } from "../../src/train/plot.js";
import type { SourceRecipe } from "../../src/train/recipe.js";
import { rejects, root, shared, without_shared } from "../fixtures.js";

let tokenizer: Tokenizer;
before(async () => {
  tokenizer = await load_tokenizer(join(root, "models/nano"));
});

const options = { sequence_len: 128, train_on_inputs: false, on_damaged_line: "stop" as const };

async function examples_of(type: SourceRecipe["type"], ...lines: object[]) {
  const path = join(await mkdtemp(join(tmpdir(), "bimedix-")), "data.jsonl");
  await writeFile(path, lines.map((line) => JSON.stringify(line)).join("\n"));
  return (await read_dataset({ path, type }, tokenizer, options)).examples;
}

const learnt = ({ input_ids, learnt }: { input_ids: Int32Array; learnt: Uint8Array }) =>
  tokenizer.decode([...input_ids].filter((_, i) => learnt[i]));

describe("examples", () => {
  test("learn every answer of a conversation with its end, and nothing else", async () => {
    const chat = [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Hello, how are you?" },
      { role: "user", content: "I have fever" },
      { role: "assistant", content: "Rest and drink." },
    ] as const;
    const example = encode_messages(chat, tokenizer, false);
    assert.equal(learnt(example), "Hello, how are you?</s> Rest and drink.</s>");
    assert.deepEqual([...example.input_ids], tokenizer.apply_chat_template(chat, { add_generation_prompt: false }));
    assert.ok(encode_messages(chat, tokenizer, true).learnt.every((one) => one === 1));
  });

  test("in the three forms, in both languages", async () => {
    const [a, b] = await examples_of(
      "instruction",
      { instruction: "Say it", input: "fever", output: "Done." },
      { instruction: "ما هي الحمى؟", output: "حرارة." },
    );
    assert.equal(learnt(a!), "Done.</s>");
    assert.match(tokenizer.decode([...a!.input_ids]), /Say it\n\nfever/);
    assert.equal(learnt(b!), "حرارة.</s>");
    const mcqa = { question: "What is it?", options: ["one", "two", "three"] };
    const arabic = { question: "ما هذا؟", options: ["واحد", "اثنان"], answer: 1 };
    const forms = await examples_of(
      "mcqa",
      { ...mcqa, answer: 2 },
      { ...mcqa, answer: "C" },
      { ...mcqa, answer: "three", context: "A text." },
      arabic,
    );
    assert.deepEqual(forms.map(learnt), [...Array(3).fill("The correct answer is C.</s>"), "الجواب الصحيح هو ب.</s>"]);
    assert.match(
      tokenizer.decode([...forms[2]!.input_ids]),
      /Context: A text\.\nQuestion: What is it\?\nOptions:\nA\. one\nB\. two\nC\. three/,
    );
  });
});

/** What transformers 5.17 masks with `return_assistant_tokens_mask`, the answers in `{% generation %}`; the second answer is "(C)". */
const MASKED: [string, string][] = [
  ["(B) Metformin.", "]( B ) ▁Met form in . </s> ]( C ) </s>"],
  ["[1] see", "][ 1 ] ▁see </s> ]( C ) </s>"],
  ["**Bold**", "** B old ** </s> ]( C ) </s>"],
  ["* item", "]* ▁item </s> ]( C ) </s>"],
  ["{x}", "]{ x } </s> ]( C ) </s>"],
  ["<b>", "]< b > </s> ]( C ) </s>"],
  ["(أ) القلب", "]( أ ) ▁ال ق ل ب </s> ]( C ) </s>"],
  [". and", "]. ▁and </s> ]( C ) </s>"],
  ["\nnew", "<0x0A> new </s> ]( C ) </s>"],
  ["]", "]] </s> ]( C ) </s>"],
];

describe("answers of any beginning, with Mixtral's own tokenizer", {
  skip: without_shared("tokenizers/mixtral"),
}, () => {
  const conversation = (answer: string) => [
    { role: "user" as const, content: "Q?" },
    { role: "assistant" as const, content: answer },
    { role: "user" as const, content: "R?" },
    { role: "assistant" as const, content: "(C)" },
  ];
  const turn = "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}";
  const templates: [string, string][] = [
    ["Mixtral's", `{{ bos_token }}{% for m in messages %}${turn}{{ m.content + eos_token }}{% endif %}{% endfor %}`],
    [
      "one with generation",
      `{{ bos_token }}{% for m in messages %}${turn}{% generation %}{{ m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}`,
    ],
    [
      "one that writes the last turn otherwise",
      `{{ bos_token }}{% for m in messages %}{{ '\\n\\n' if loop.last and m.role == 'user' }}${turn}{{ m.content + eos_token }}{% endif %}{% endfor %}`,
    ],
  ];
  for (const [name, chat_template] of templates)
    test(`under ${name} template: the tokens that transformers masks`, async () => {
      const mixtral = await load_tokenizer(join(shared, "tokenizers/mixtral"));
      mixtral.chat_template = chat_template;
      for (const [answer, tokens] of MASKED) {
        const { input_ids, learnt } = encode_messages(conversation(answer), mixtral, false);
        const found = [...input_ids].filter((_, i) => learnt[i]).map((id) => mixtral.convert_ids_to_tokens(id));
        assert.equal(found.join(" "), tokens, answer);
      }
    });
});

describe("data sets in the forms of other trainers", () => {
  const chat = (...rows: object[]) => examples_of("chat", ...rows);
  const turns = (...contents: string[]) =>
    contents.map((content, i) => ({ role: i % 2 ? "assistant" : "user", content }));

  test("ShareGPT, with a system message of its own or beside it", async () => {
    const conversations = [
      { from: "human", value: "Hi" },
      { from: "gpt", value: "Hello" },
    ];
    const system = { from: "system", value: "Be kind." };
    const [plain, inside, beside, empty] = await chat(
      { conversations },
      { conversations: [system, ...conversations] },
      { conversations, system: "Be kind." },
      { conversations: [{ from: "system", value: "" }, ...conversations] },
    );
    assert.equal(learnt(plain!), "Hello</s>");
    assert.deepEqual(inside, beside);
    assert.match(tokenizer.decode([...inside!.input_ids]), /Be kind\./);
    assert.deepEqual(empty, plain);
    const [openai] = await chat({ messages: turns("Hi", "Hello") });
    assert.deepEqual(openai, plain);
    const [text] = await chat({ messages: JSON.stringify(turns("Hi", "Hello")) });
    assert.deepEqual(text, plain);
  });

  test("a message's weight, as OpenAI has it, and train, as Axolotl", async () => {
    const [first, second, third, fourth] = turns("Hi", "bad", "Again", "good");
    const all = (more: object, user = {}) => ({
      messages: [{ ...first, ...user }, { ...second, ...more }, third, fourth],
    });
    const found = await chat(all({ weight: 0 }), all({ train: false }), all({ weight: 1 }), all({ weight: null }));
    assert.deepEqual(found.map(learnt), ["good</s>", "good</s>", "bad</s> good</s>", "bad</s> good</s>"]);
    const [user] = await chat(all({ train: false }, { train: true }));
    assert.equal(learnt(user!), "Hi good</s>");
    const message = (more: object) => chat({ messages: [first, { ...second, ...more }] });
    await rejects(message({ weight: 0.5 }), "bad_data", /weight of message 1: 0\.5; expected 0 or 1/);
    await rejects(message({ train: "yes" }), "bad_data", /train of message 1: "yes"; expected true or false/);
    await rejects(message({ weight: 0 }), "bad_data", /no message to learn/);
    await rejects(message({ weight: 0, train: true }), "bad_data", /that disagree/);
    await rejects(chat({ messages: [{ ...first, weight: 1 }, second] }), "bad_data", /message 0, which is the user's/);
  });

  test("what follows the last answer is left out", async () => {
    const [whole, longer] = await chat({ messages: turns("Hi", "Hello") }, { messages: turns("Hi", "Hello", "Bye") });
    assert.deepEqual(longer, whole);
  });

  test("what is not trained on here is refused by name", async () => {
    const [user, assistant] = turns("Hi", "Hello");
    const cases: [object, RegExp][] = [
      [
        { messages: [user, { role: "assistant", content: null, tool_calls: [{ id: "1" }] }] },
        /message 1 with tool_calls/,
      ],
      [{ messages: [user, { ...assistant, trainable: false }] }, /message 1 with trainable; expected weight/],
      [{ messages: [user, { ...assistant, loss_mask: 0 }] }, /message 1 with loss_mask/],
      [{ messages: [user, { role: "tool", content: "x" }] }, /message 1 has the role "tool"/],
      [{ messages: [user, assistant], tools: [{ type: "function" }] }, /tools, which is not trained on here/],
      [{ messages: [user, { role: "assistant", content: " " }] }, /message 1 is empty/],
      [{ messages: [user, { role: "assistant", content: [{ type: "image_url" }] }] }, /not a text in message 1/],
      [{ instruction: "Say", output: "x" }, /is of type instruction/],
      [{ question: "q?", options: ["x", "y"], answer: 0 }, /is of type mcqa/],
      [{ prompt: "Say", completion: "x" }, /prompt is not a list of messages/],
    ];
    for (const [row, message] of cases) await rejects(chat(row), "bad_data", message);
    await rejects(
      examples_of("instruction", { instruction: "a", output: "b", history: [["c", "d"]] }),
      "bad_data",
      /history/,
    );
    await rejects(examples_of("instruction", { instruction: "a" }), "bad_data", /output is missing/);
  });

  test("Alpaca with an input that is empty in each of the ways, Dolly, and a system message", async () => {
    const row = { instruction: "Say", output: "Done." };
    const nothing = [{}, { input: null }, { input: "" }, { input: "  " }].map((more) => ({ ...row, ...more }));
    const [first, ...others] = await examples_of("instruction", ...nothing);
    for (const other of others) assert.deepEqual(other, first);
    const [alpaca, dolly] = await examples_of(
      "instruction",
      { ...row, input: "fever" },
      { instruction: "Say", context: "fever", response: "Done." },
    );
    assert.deepEqual(dolly, alpaca);
    const [system] = await examples_of("instruction", { ...row, system: "Be kind." });
    assert.match(tokenizer.decode([...system!.input_ids]), /Be kind\./);
  });

  test("prompt and completion: texts as they are with the end token, messages through the template, as TRL", async () => {
    const [text, ended, messages] = await examples_of(
      "prompt_completion",
      { prompt: "The sky is", completion: " blue." },
      { prompt: "The sky is", completion: " blue.</s>" },
      { prompt: turns("Hi", "No", "Hi"), completion: [{ role: "assistant", content: "Hello" }] },
    );
    const eos = tokenizer.eos_token_id!;
    assert.deepEqual([...text!.input_ids], [...tokenizer.encode("The sky is blue."), eos]);
    assert.equal(text!.learnt.indexOf(1), tokenizer.encode("The sky is").length);
    assert.deepEqual(ended, text);
    assert.equal(learnt(messages!), "Hello</s>");
    await rejects(examples_of("prompt_completion", { prompt: "x" }), "bad_data", /completion is missing/);
    await rejects(examples_of("prompt_completion", { prompt: "x", completion: "y", label: true }), "bad_data", /label/);
  });

  test("from a JSON array, CSV and Parquet as from JSON lines", async () => {
    const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
    const read = async (name: string, text: string | Uint8Array, type: "instruction" | "mcqa") => {
      await writeFile(join(dir, name), text);
      return (await read_dataset({ path: join(dir, name), type }, tokenizer, options)).examples;
    };
    const rows = [
      { instruction: "Say", input: "", output: "Done." },
      { instruction: "قل", input: "نص, آخر", output: "(أ) تم" },
    ];
    const lines = await read("a.jsonl", rows.map((row) => JSON.stringify(row)).join("\n"), "instruction");
    assert.deepEqual(await read("a.json", JSON.stringify(rows, null, 2), "instruction"), lines);
    const csv = 'instruction,input,output\r\nSay,,Done.\r\nقل,"نص, آخر",(أ) تم\r\n';
    assert.deepEqual(await read("a.csv", csv, "instruction"), lines);
    const parquet = await read("a.parquet", await readFile(join(root, "test/fixtures/data/zstd.parquet")), "mcqa");
    assert.deepEqual(parquet.map(learnt), ["The correct answer is B.</s>", "الجواب الصحيح هو أ.</s>"]);
  });
});

describe("rows", () => {
  const lengths = Array.from({ length: 500 }, (_, i) => 5 + ((i * 37) % 90));
  test("hold every example once, within their length, in an order that the seed decides", () => {
    const rows = pack(lengths, 128, true, 3);
    assert.deepEqual(
      rows.flat().sort((a, b) => a - b),
      [...lengths.keys()],
    );
    assert.ok(rows.every((row) => row.reduce((sum, i) => sum + lengths[i]!, 0) <= 128));
    const used = lengths.reduce((a, b) => a + b, 0) / (rows.length * 128);
    assert.ok(used > 0.95, `${used} of the rows is used`);
    assert.deepEqual(pack(lengths, 128, true, 3), rows);
    assert.notDeepEqual(pack(lengths, 128, true, 4), rows);
    assert.ok(pack(lengths, 128, false, 3).every((row) => row.length === 1));
  });

  test("number documents, restart positions and never learn across a border", () => {
    const example = (...ids: number[]) => ({ input_ids: Int32Array.from(ids), learnt: Uint8Array.from(ids, () => 1) });
    const batch = to_batch([[example(5, 6, 7), example(8, 9)], [example(10)]], 3);
    assert.deepEqual([...batch.input_ids], [5, 6, 7, 8, 9, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert.deepEqual([...batch.position_ids], [0, 1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert.deepEqual([...batch.documents], [1, 1, 1, 2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert.deepEqual(
      [...batch.labels].filter((label) => label >= 0),
      [6, 7, 9],
    );
    assert.deepEqual([batch.labels[2], batch.labels[4]], [-100, -100]);
  });
});

test("an even router has the least balance loss, and entropy and load say how even it is", () => {
  const shape = { experts: 4, top_k: 2, counted: () => true };
  const even = balance([Float32Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? 1e-3 : 0))], shape);
  const one_sided = balance([Float32Array.from({ length: 16 }, (_, i) => [9, 5, 0, 0][i % 4]!)], shape);
  assert.ok(Math.abs(even.aux_loss - 2) < 0.01);
  assert.ok(one_sided.aux_loss > 3.9);
  assert.ok(Math.abs(even.entropy[0]! - Math.log(4)) < 1e-3 && one_sided.entropy[0]! < 0.2);
  assert.deepEqual(one_sided.load, [[0.5, 0.5, 0, 0]]);
});

test("layers that starve opposite experts are even together, and uneven each by itself", () => {
  const shape = { experts: 4, top_k: 2, counted: () => true };
  const layer = (logits: number[]) => Float32Array.from({ length: 16 }, (_, i) => logits[i % 4]!);
  const layers = [layer([9, 8, 0, 0]), layer([0, 0, 8, 9])];
  const [together, each] = [balance(layers, shape), balance_each(layers, shape)];
  assert.ok(Math.abs(together.aux_loss - 2) < 0.01 && each.aux_loss > 3.9);
  assert.deepEqual(each.load, together.load);
  // Of one layer it is the same loss; of two, each has half of its own gradient.
  const one = balance([layers[0]!], shape);
  assert.deepEqual(balance_each([layers[0]!], shape), one);
  assert.deepEqual(
    each.gradients[0],
    one.gradients[0]!.map((value) => value / 2),
  );
});

test("schedules and clipping are transformers' and torch's", () => {
  const at = (step: number, kind: "constant" | "linear" | "cosine" = "cosine") =>
    schedule_at(kind, step, { warmup: 10, total: 110 });
  assert.deepEqual([at(0), at(5), at(10), at(60), at(110)], [0, 0.5, 1, 0.5, 0]);
  assert.deepEqual([at(60, "linear"), at(110, "linear"), at(60, "constant")], [0.5, 0, 1]);
  assert.equal(clip_scale(0.5, 1), 1);
  assert.ok(Math.abs(clip_scale(4, 1) - 0.25) < 1e-6);
  assert.equal(clip_scale(1e9, 0), 1);
});

test("event files are TFRecords with CRC-32C", async () => {
  const file = join(await mkdtemp(join(tmpdir(), "bimedix-")), "events");
  await new EventFile(file).add(7, { "train/loss": 0.5 });
  const bytes = await readFile(file);
  // A bitwise CRC-32C; its check value is that of "123456789".
  const crc = (data: Uint8Array) => {
    let c = 0xffffffff;
    for (const byte of data) {
      c ^= byte;
      for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    }
    return ~c >>> 0;
  };
  assert.equal(crc(Buffer.from("123456789")), 0xe3069283);
  const masked = (data: Uint8Array) => (((crc(data) >>> 15) | (crc(data) << 17)) + 0xa282ead8) >>> 0;
  let at = 0;
  const records: Buffer[] = [];
  while (at < bytes.length) {
    const length = Number(bytes.readBigUInt64LE(at));
    assert.equal(bytes.readUInt32LE(at + 8), masked(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    assert.equal(bytes.readUInt32LE(at + 12 + length), masked(data));
    records.push(data);
    at += 16 + length;
  }
  assert.equal(records.length, 2);
  assert.ok(records[0]!.includes("brain.Event:2"));
  assert.ok(records[1]!.includes("train/loss"));
});

test("curves are a page of their own, without scripts or other sources", () => {
  const log = [
    {
      step: 1,
      epoch: 0.1,
      loss: 2,
      aux_loss: 2,
      grad_norm: 1,
      learning_rate: 1e-5,
      router_entropy: [1.2],
      expert_load: [[0.5, 0.5]],
    },
    { step: 2, epoch: 0.2, eval_loss: 1.5, "eval_<b>_loss": 1.5 },
    {
      step: 3,
      epoch: 0.3,
      loss: 1,
      aux_loss: 2,
      grad_norm: 1,
      learning_rate: 2e-5,
      router_entropy: [1.1],
      expert_load: [[0.6, 0.4]],
    },
  ];
  const page = plot_page("a <run>", log as never);
  assert.ok(!/<script|https?:|<run>|<b>/.test(page));
  assert.equal(page.match(/<figure>/g)!.length, 7);
  assert.match(page, /training: 2 → 1; held out: 1.5 → 1.5/);
  assert.match(plot_page("empty", []), /0 steps/);
});
