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
import { root } from "../fixtures.js";

let tokenizer: Tokenizer;
before(async () => {
  tokenizer = await load_tokenizer(join(root, "models/nano"));
});

const options = { sequence_len: 128, train_on_inputs: false, on_damaged_line: "stop" as const };

async function examples_of(type: "chat" | "instruction" | "mcqa", ...lines: object[]) {
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
