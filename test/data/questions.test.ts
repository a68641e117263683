/** The one reading of questions with options: what stands for the options, and what an answer means. */
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { answer_rule, read_question, settled } from "../../src/data/questions.js";
import { DataProblem } from "../../src/data/records.js";
import { load_task, mcqa_task } from "../../src/eval/datasets.js";
import { load_tokenizer } from "../../src/text/tokenizer.js";
import { read_dataset } from "../../src/train/data.js";
import { rejects, root } from "../fixtures.js";

/** The answers of the rows of one file, and what is warned about. */
function answers(file: string, rows: readonly object[]) {
  const rule = answer_rule(file);
  const drafts = rows.map((row) => read_question(row));
  for (const [i, { answer }] of drafts.entries()) rule.see(answer, `line ${i + 1}`);
  return { answers: drafts.map((draft) => settled(draft, rule).answer), warnings: rule.warnings };
}
const answer_of = (row: object) => answers("a.jsonl", [{ question: "q?", ...row }]).answers[0];
const options_of = (row: object) => read_question({ question: "q?", answer: 0, ...row }).options;
const problem = (row: object, expected: RegExp) =>
  assert.throws(
    () => answer_of(row),
    (error) => error instanceof DataProblem && expected.test(error.message),
    JSON.stringify(row),
  );

const options = ["w", "x", "y", "z"];
const arabic = ["ألف ليلة", "قلب", "رئة", "كبد"];

describe("an answer", () => {
  const meant: [string, object, number][] = [
    ["a number counts from 0", { options, answer: 2 }, 2],
    ["also as a text", { options, answer: "2" }, 2],
    ["and as a float, as pandas writes whole numbers beside missing ones", { options, answer: "2.0" }, 2],
    ["in Arabic digits", { options, answer: "٢" }, 2],
    ["a letter", { options, answer: "C" }, 2],
    ["of either case", { options, answer: "c" }, 2],
    ["with a point", { options, answer: "C." }, 2],
    ["in brackets", { options, answer: " (C) " }, 2],
    ["with a bracket and its text", { options, answer: "C) y" }, 2],
    ["bold, as models write", { options, answer: "**C**" }, 2],
    ["an Arabic letter", { options: arabic, answer: "ج" }, 2],
    ["in brackets", { options: arabic, answer: "(ج)" }, 2],
    ["with its text", { options: arabic, answer: "ج. رئة" }, 2],
    ["without its hamza", { options: arabic, answer: "ا" }, 0],
    ["spelled out", { options: arabic, answer: "باء" }, 1],
    ["with a tatweel", { options: ["1", "2", "3", "4", "5"], answer: "هـ" }, 4],
    ["between marks of direction", { options: arabic, answer: "\u200fج\u200f" }, 2],
    ["a digit between them", { options: arabic, answer: "\u202b٢\u202c" }, 2],
    ["a text with a mark, of an option without", { options: arabic, answer: "\u200fرئة" }, 2],
    ["and the other way round", { options: ["\u200fقلب", "\u200fرئة\u200f"], answer: "رئة" }, 1],
    ["under a heading with a mark", { options: arabic, "\u200fanswer": "ج" }, 2],
    ["the text of an option", { options, answer: "y" }, 2],
    ["without regard to case and space", { options: ["Aspirin", "Vitamin C"], answer: " vitamin c" }, 1],
    ["a list of one", { options, gold: [2] }, 2],
    ["a position before a text: numbers", { options: ["2", "3", "1", "4"], answer: 1 }, 1],
    ["blood groups", { options: ["AB", "O", "A", "B"], answer: "B" }, 1],
    ["vitamins", { options: ["D", "C", "B", "A"], answer: "B" }, 1],
    ["a number beyond the options is a text", { options: ["7", "8", "9"], answer: 9 }, 2],
    ["a text that begins like a letter", { options: ["A fever", "B cells"], answer: "B cells" }, 1],
    ["letters as the data set has them", { options: { B: "x", A: "y" }, answer: "A" }, 1],
    ["numbers as the data set has them", { options: { "1": "x", "2": "y" }, answer: 2 }, 1],
    ["True as Python has it", { options: [true, false], answer: "False" }, 1],
  ];
  for (const [what, row, expected] of meant)
    test(`${what}: ${JSON.stringify(row)}`, () => assert.equal(answer_of(row), expected));

  test("that is none is refused with the reason", () => {
    problem({ options, answer: 4 }, /answer 4, which is outside the options; expected 0 to 3 or A to D/);
    problem({ options, answer: -1 }, /answer -1, which is outside/);
    problem({ options, answer: "E" }, /answer "E", which is outside/);
    problem({ options, answer: "C) x" }, /answer "C\) x", which is outside/);
    problem({ options, answer: 1.5 }, /answer 1\.5/);
    problem({ options, answer: null }, /an empty answer/);
    problem({ options, answer: [1, 2] }, /one right option/);
    problem({ options }, /no column answer \(there are: question, options\)/);
  });
});

describe("the answers of a file", () => {
  test("are texts where every one is a text and some can be no position", () => {
    const numbers = { question: "q?", options: ["2", "3", "1", "4"] };
    const found = answers("a.csv", [
      { ...numbers, answer: "3" },
      { question: "r?", options: ["Aspirin", "Ibuprofen"], answer: "Ibuprofen" },
    ]);
    assert.deepEqual(found.answers, [1, 1]);
    assert.match(found.warnings.join(), /read as texts.*line 1/);
    // Among positions only the same answer is a place.
    assert.deepEqual(
      answers("a.csv", [
        { ...numbers, answer: "3" },
        { ...numbers, answer: "0" },
      ]).answers,
      [3, 0],
    );
  });

  test("that the two readings understand differently are warned about by line", () => {
    const rows = [
      { question: "q?", options: ["2", "3", "1", "4"], answer: 1 },
      { question: "r?", options: ["2", "3"], answer: 1 },
    ];
    assert.match(answers("a.jsonl", rows).warnings.join(), /positions \(numbers count from 0\): line 1$/);
    assert.deepEqual(answers("a.jsonl", [{ question: "q?", options: ["A", "B"], answer: "B" }]).warnings, []);
    const from_one = Array.from({ length: 20 }, (_, i) => ({ question: `q${i}?`, options, answer: 1 + (i % 3) }));
    assert.match(answers("a.jsonl", from_one).warnings.join(), /none of 20 answers is 0/);
  });
});

describe("columns of public data sets mean what those sets say", () => {
  const cells = { opa: "w", opb: "x", opc: "y", opd: "z" };
  const cop = (file: string, ...values: unknown[]) =>
    answers(
      file,
      values.map((value) => ({ question: "q?", ...cells, cop: value })),
    );
  test("MedMCQA counts from 1 in its own files and from 0 on the hub, and its values show which", () => {
    assert.deepEqual(cop("a.jsonl", 1, 4), { answers: [0, 3], warnings: [] });
    assert.deepEqual(cop("a.jsonl", 0, 3), { answers: [0, 3], warnings: [] });
    assert.deepEqual(cop("a.parquet", 1, 3).answers, [1, 3]);
    assert.deepEqual(cop("a.jsonl", 1, 3).answers, [0, 2]);
    assert.match(cop("a.jsonl", 1, 3).warnings.join(), /cop is taken to count from 1/);
    // The hub's test split has no answers.
    assert.throws(() => cop("a.parquet", 0, -1), /cop -1; expected 0 to 3/);
  });

  const rows: [string, object, number, string[]?][] = [
    ["MedQA", { question: "q?", answer: "x", options: { A: "w", B: "x" }, answer_idx: "B" }, 1],
    [
      "MedQA by bigbio",
      {
        question: "q?",
        options: [
          { key: "A", value: "w" },
          { key: "B", value: "x" },
        ],
        answer_idx: "B",
      },
      1,
      ["w", "x"],
    ],
    ["MMLU", { question: "q?", subject: "anatomy", choices: options, answer: 3 }, 3],
    ["MMLU-Pro", { question: "q?", options, answer: "D", answer_index: 3 }, 3],
    [
      "MedQA for SWAG",
      { sent1: "q?", sent2: "", ending0: "w", ending1: "x", ending2: "y", ending3: "z", label: 2 },
      2,
      options,
    ],
    ["ARC", { question: "q?", choices: { text: ["w", "x"], label: ["1", "2"] }, answerKey: "2" }, 1, ["w", "x"]],
    ["OpenBookQA", { question_stem: "q?", choices: { text: ["w", "x"], label: ["A", "B"] }, answerKey: "B" }, 1],
    ["AQuA", { question: "q?", options: ["A)21", "B)21.5", "C)22"], correct: "C" }, 2, ["21", "21.5", "22"]],
    [
      "HeadQA",
      {
        qtext: "q?",
        ra: 2,
        answers: [
          { aid: 1, atext: "w" },
          { aid: 2, atext: "x" },
        ],
      },
      1,
      ["w", "x"],
    ],
    [
      "AfriMed-QA",
      { question: "q?", answer_options: '{"option1": "w", "option2": "x"}', correct_answer: "option2" },
      1,
    ],
    ["COPA, counted from 0", { question: "q?", choice1: "w", choice2: "x", label: 1 }, 1, ["w", "x"]],
    ["AGIEval", { query: "q?", choices: ["(A)w", "(B)x"], gold: [1] }, 1, ["w", "x"]],
    [
      "ArabicMMLU",
      { Question: "ما هو؟", Context: null, "Option 1": "w", "Option 2": "x", "Option 3": null, "Answer Key": "B" },
      1,
      ["w", "x"],
    ],
    ["a spreadsheet", { "Question ": "q?", "Option A": "w", "Option B": "x", "Correct Answer": "b" }, 1],
  ];
  for (const [name, row, expected, texts] of rows)
    test(name, () => {
      const found = answers("a.jsonl", [row]);
      assert.deepEqual(found, { answers: [expected], warnings: [] });
      if (texts) assert.deepEqual(read_question(row).options, texts);
    });

  test("two columns that name different options are refused", () => {
    problem(
      { options, answer: "x", answer_idx: "C" },
      /answer_idx "C" and answer "x"; expected the same option in both/,
    );
    problem({ options, answer: 0, answer_index: 3 }, /answer_index 3 and answer 0/);
  });
});

describe("options", () => {
  const forms: [string, object, string[]][] = [
    ["numbers", { options: [2, 3.5] }, ["2.0", "3.5"]],
    ["whole numbers", { options: [2, 3] }, ["2", "3"]],
    ["an object", { options: { A: "x", B: "y" } }, ["x", "y"]],
    [
      "an object with nothing in its last places, as datasets unites rows",
      { options: { A: "x", B: "y", C: null } },
      ["x", "y"],
    ],
    ["JSON in a cell", { options: '["x, z", "y"]' }, ["x, z", "y"]],
    ["a dictionary as Python prints it", { options: "{'A': 'x', 'B': \"it's\"}" }, ["x", "it's"]],
    ["a tuple as Python prints it", { options: "('x', 'y')" }, ["x", "y"]],
    ["lines with letters", { options: "A. x\nB. y\n\nC. z" }, ["x", "y", "z"]],
    ["lines with Arabic letters", { options: "أ) قلب\r\nب) رئة" }, ["قلب", "رئة"]],
    ["with | between", { options: "x | y|z " }, ["x", "y", "z"]],
    ["columns of letters", { A: "x", B: "y" }, ["x", "y"]],
    ["columns of Arabic letters", { أ: "x", ب: "y" }, ["x", "y"]],
    ["named columns, the last ones empty", { option_a: "x", option_b: "y", option_c: "", option_d: null }, ["x", "y"]],
    ["letters behind marks of direction", { options: ["\u200fأ) قلب", "\u200fب) رئة"] }, ["قلب", "رئة"]],
    ["numbered columns", { option1: "x", option2: "y" }, ["x", "y"]],
    [
      "texts that begin with other letters stay",
      { options: ["B. cereus", "A. baumannii"] },
      ["B. cereus", "A. baumannii"],
    ],
  ];
  for (const [what, row, texts] of forms) test(what, () => assert.deepEqual(options_of(row), texts));

  test("that are none are refused with the reason", () => {
    problem({ options: ["x"], answer: 0 }, /1 options; expected 2 to 10/);
    problem({ options: Array(11).fill("x"), answer: 0 }, /11 options/);
    problem({ options: ["x", ""], answer: 0 }, /an empty options\[1\]/);
    problem({ options: ["x", null], answer: 0 }, /an empty options\[1\]/);
    problem({ options: ["x", ["y"]], answer: 0 }, /options\[1\] of type list/);
    problem({ options: "['x' 'y']", answer: 0 }, /neither JSON nor a list of Python/);
    problem({ options: "x, y, z", answer: 0 }, /a single text/);
    problem({ options: 7, answer: 0 }, /options of type number/);
    problem({ A: "x", B: "", C: "z", answer: 0 }, /an empty option B/);
    problem({ answer: 0 }, /0 options/);
  });
});

describe("evaluation and training", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-questions-"));
  });
  after(() => rm(dir, { recursive: true }));

  const rows = [
    { options: ["2", "3", "1", "4"], answer: 1 },
    { options: ["AB", "O", "A", "B"], answer: "B" },
    { options: ["D", "C", "B", "A"], answer: "B" },
    { options: { A: "x", B: "y" }, answer_idx: "B", context: "A text.", id: null },
    { options: [1, 2], answer: "٠", context: "", id: null },
    { options: "x|y", answer: "(b)", context: null },
  ];
  test("read the same answers from the same file, and warn alike", async () => {
    const file = join(dir, "both.jsonl");
    const text = rows.map((row, i) => `${JSON.stringify({ question: `Which, ${i}?`, ...row })}\n`).join("");
    await writeFile(file, text);
    const task = await mcqa_task(file);
    const { docs, warnings } = await load_task(task, { num_fewshot: 0 });
    const tokenizer = await load_tokenizer(join(root, "models/nano"));
    const options = { sequence_len: 512, train_on_inputs: false, on_damaged_line: "stop" as const };
    const { examples, report } = await read_dataset({ path: file, type: "mcqa" }, tokenizer, options);
    const learnt = examples.map(({ input_ids, learnt }) =>
      tokenizer.decode([...input_ids].filter((_, i) => learnt[i])),
    );
    const asked = docs.map((doc) => task.doc_to_choice(doc)[task.doc_to_target(doc) as number]!);
    assert.deepEqual(asked, ["B", "B", "B", "B", "A", "B"]);
    assert.deepEqual(
      learnt,
      asked.map((letter) => `The correct answer is ${letter}.</s>`),
    );
    assert.match(warnings.join(), /both\.jsonl: .*positions.*: line 1, line 2, line 3$/);
    assert.deepEqual(
      report.warnings.map((one) => `${file}: ${one}`),
      warnings,
    );
    // A text that a question is about is shown to the model in both.
    assert.match(task.doc_to_text(docs[3]!), /^Context: A text\.\nWhich, 3\?\nA\. x\n/);
    assert.match(tokenizer.decode([...examples[3]!.input_ids]), /Context: A text\.\nQuestion: Which, 3\?/);
  });

  test("say which questions stand in a file twice, and refuse ids that do", async () => {
    const file = join(dir, "twice.jsonl");
    const line = (more: object) => `${JSON.stringify({ question: "q?", options: ["x", "y"], answer: 0, ...more })}\n`;
    await writeFile(file, `${line({})}${line({ question: "r?" })}${line({ options: ["y", "x"] })}`);
    const { warnings } = await load_task(await mcqa_task(file), { num_fewshot: 0 });
    assert.match(warnings.join(), /stand there twice: line 3 repeats line 1/);
    await writeFile(file, `${line({ id: 7 })}${line({ question: "r?", id: 7 })}`);
    await rejects(
      mcqa_task(file).then((task) => load_task(task, { num_fewshot: 0 })),
      "bad_data",
      /line 2: id 7, which/,
    );
  });

  test("the language of a row decides its letters, and a row may name it", async () => {
    const file = join(dir, "mixed.jsonl");
    const line = (question: string, more = {}) =>
      `${JSON.stringify({ question, options: ["x", "y"], answer: 1, ...more })}\n`;
    await writeFile(file, line("Which?") + line("ما هو؟") + line("5 + 5 = ?", { language: "ar" }));
    const task = await mcqa_task(file);
    const { docs } = await load_task(task, { num_fewshot: 0 });
    assert.deepEqual(docs.map(task.doc_to_choice), [
      ["A", "B"],
      ["أ", "ب"],
      ["أ", "ب"],
    ]);
  });
});
