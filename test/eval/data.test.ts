/** Data files in every layout, and what is said about bad ones: file, line, and nothing scored. */
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { is_given, load_task, mcqa_task } from "../../src/eval/datasets.js";
import { PythonRandom } from "../../src/eval/python.js";
import { tasks } from "../../src/eval/tasks.js";
import { rejects, root } from "../fixtures.js";

describe("data", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-data-"));
    for (const folder of ["mmlu_med_en/test", "mmlu_med_en/dev", "medmcqa", "medqa_4options", "pubmedqa"])
      await mkdir(join(dir, folder), { recursive: true });
  });
  after(() => rm(dir, { recursive: true }));

  const anatomy = tasks.get("mmlu_anatomy")!;
  const header = "question,choice0,choice1,choice2,choice3,answer";
  const load = async (file: string, text: string | Buffer, name: string, num_fewshot = 0) => {
    await writeFile(join(dir, file), text);
    return load_task(tasks.get(name)!, { data: dir, num_fewshot });
  };
  const mmlu = (text: string | Buffer) => load("mmlu_med_en/test/anatomy_test.csv", text, "mmlu_anatomy");
  const own = async (name: string, text: string) => {
    await writeFile(join(dir, name), text);
    const task = await mcqa_task(join(dir, name));
    return { task, ...(await load_task(task, { num_fewshot: 0 })) };
  };

  test("MMLU with a header and numbers, and without one and with letters, are the same documents", async () => {
    const rows = [`"Which, ""one""?",a,b,c,d,`, "two\nlines,e,f,g,h,"];
    const with_header = await mmlu(`${header}\r\n${rows[0]}2\r\n"${rows[1]!.replace(",", '",')}0\n`);
    const without = await mmlu(`${rows[0]}C\n"${rows[1]!.replace(",", '",')}A\n`);
    assert.deepEqual(with_header.docs, without.docs);
    assert.deepEqual(with_header.docs[0], {
      question: 'Which, "one"?',
      subject: "anatomy",
      choices: ["a", "b", "c", "d"],
      answer: 2,
    });
    assert.equal(with_header.files[0]!.file, "mmlu_med_en/test/anatomy_test.csv");
    assert.match(with_header.files[0]!.sha256, /^[0-9a-f]{64}$/);
  });

  const bad: [string, string | Buffer, RegExp][] = [
    [
      "a missing column",
      "question,choice0,choice1,choice2,answer\nq,a,b,c,0\n",
      /anatomy_test\.csv line 2: no column \w+/,
    ],
    ["a row that is cut short", `${header}\nq,a,b,c,d,0\nq2,a,b\n`, /line 3: 3 columns.*expected 6/],
    ["an open quote", `${header}\n"q,a,b,c,d,0\n`, /anatomy_test\.csv line \d: .*[Qq]uote/],
    ["an answer outside the options", `${header}\nq,a,b,c,d,4\n`, /line 2: answer "4".*expected 0 to 3 or A to D/],
    ["a letter outside the options", "q,a,b,c,d,E\n", /line 1: answer "E"/],
    ["an empty option", `${header}\nq,a,,c,d,0\n`, /line 2: an empty choice1/],
    ["an empty question", `${header}\n ,a,b,c,d,0\n`, /line 2: an empty question/],
    ["no records", `${header}\n`, /no records|0 questions/],
    ["an empty file", "", /no records/],
    [
      "Windows-1256",
      Buffer.from(`${header}\nq,a,b,c,d,0\n\xe3\xc7,a,b,c,d,0\n`, "latin1"),
      /line 3: bytes that are not UTF-8/,
    ],
    [
      "UTF-16 without its mark",
      Buffer.from(
        `${header}
س`,
        "utf16le",
      ),
      /line 1: bytes that are not UTF-8/,
    ],
  ];
  for (const [what, text, message] of bad)
    test(`${what} is named by file and line`, () => rejects(mmlu(text), "bad_data", message));

  test("MedMCQA: letters from 1, ids of their own, lines that are cut", async () => {
    const row = { id: "x", question: "q", opa: "a", opb: "b", opc: "c", opd: "d", cop: 4 };
    const lines = (...rows: object[]) => rows.map((one) => `${JSON.stringify(one)}\n`).join("");
    const file = "medmcqa/dev.json";
    const { docs } = await load(file, lines(row, { ...row, id: "y", cop: 1 }), "medmcqa");
    assert.deepEqual(
      docs.map(({ cop }) => cop),
      [3, 0],
    );
    await rejects(load(file, lines(row, row), "medmcqa"), "bad_data", /line 2: id x, which .*line 1 has too/);
    await rejects(load(file, lines({ ...row, cop: 0 }), "medmcqa"), "bad_data", /line 1: cop 0; expected 1 to 4/);
    await rejects(load(file, lines(row).slice(0, -9), "medmcqa"), "bad_data", /dev\.json/);
    await rejects(load(file, `${lines(row)}${lines(row).slice(0, 40)}`, "medmcqa"), "bad_data", /line 2: .*cut short/);
    const { opc: _, ...without } = row;
    await rejects(load(file, lines(without), "medmcqa"), "bad_data", /line 1: no column opc \(there are: id, question/);
    await rejects(load(file, lines(row), "medmcqa", 5), "file_not_found", /5 shots for medmcqa.*train\.json/);
  });

  test("the Arabic twins of MedMCQA, MedQA and PubMedQA take the same records once a folder holds them", async () => {
    for (const folder of ["medmcqa_ar", "medqa_4options_ar", "pubmedqa_ar"]) await mkdir(join(dir, folder));
    const [a, b, c, d] = ["أ", "ب", "ج", "د"];
    const files: [string, string, string][] = [
      ["medmcqa_ar", "medmcqa_ar/dev.json", JSON.stringify({ question: "س؟", opa: a, opb: b, opc: c, opd: d, cop: 2 })],
      [
        "medqa_4options_ar",
        "medqa_4options_ar/phrases_no_exclude_test.jsonl",
        JSON.stringify({ question: "س؟", options: { A: a, B: b, C: c, D: d }, answer_idx: "B" }),
      ],
      [
        "pubmedqa_ar",
        "pubmedqa_ar/ori_pqal.json",
        JSON.stringify({ "7": { QUESTION: "س؟", CONTEXTS: ["نص"], final_decision: "no" } }),
      ],
    ];
    await writeFile(join(dir, "pubmedqa_ar/test_ground_truth.json"), '{"7": "no"}');
    for (const [name, file, text] of files) {
      assert.ok(!is_given(tasks.get(name)!, dir));
      const { docs } = await load(file, text, name);
      assert.ok(is_given(tasks.get(name)!, dir));
      const task = tasks.get(name)!;
      const target = task.doc_to_target(docs[0]!);
      assert.ok(target === 1 || target === "no");
      const english = tasks.get(name.replace(/_ar$/, ""))!;
      assert.equal(task.doc_to_text(docs[0]!), english.doc_to_text(docs[0]!));
      assert.match(task.doc_to_text(docs[0]!), /Question: س؟\n/);
    }
  });

  test("PubMedQA: the test is what the ground truth lists, in its order", async () => {
    const item = (question: string) => ({ QUESTION: question, CONTEXTS: ["c"], final_decision: "yes" });
    await writeFile(join(dir, "pubmedqa/test_ground_truth.json"), '{"30": "yes", "4": "no"}');
    const text = JSON.stringify({ x: 0 }).replace(
      '"x":0',
      ["4", "30", "5"].map((id) => `"${id}":${JSON.stringify(item(id))}`).join(),
    );
    const { docs, shots } = await load("pubmedqa/ori_pqal.json", text, "pubmedqa", 1);
    assert.deepEqual(
      [docs, shots].map((list) => list.map(({ QUESTION }) => QUESTION)),
      [["30", "4"], ["5"]],
    );
    const wrong = text.replace('"final_decision":"yes"', '"final_decision":"perhaps"');
    await rejects(load("pubmedqa/ori_pqal.json", wrong, "pubmedqa"), "bad_data", /record 4: answer "perhaps"/);
  });

  test("a person's own questions in JSONL and CSV, with answers in every form", async () => {
    const jsonl = await own(
      "mine.jsonl",
      '{"question":"ما هو؟","options":["نعم","لا"],"answer":"لا"}\n\n{"question":"كم؟","options":["١","٢","٣"],"answer":"ج"}\n',
    );
    assert.equal(jsonl.task.name, "mine");
    assert.equal(jsonl.task.language, "ar");
    assert.deepEqual(
      jsonl.docs.map(({ answer }) => answer),
      [1, 2],
    );
    assert.deepEqual(jsonl.task.doc_to_choice(jsonl.docs[0]!), ["أ", "ب"]);
    assert.equal(jsonl.task.doc_to_text(jsonl.docs[0]!), "ما هو؟\nأ. نعم\nب. لا\nالإجابة:");
    const csv = await own("mine.csv", "id,question,A,B,answer\n1,q,x,y,B\n2,r,x,y,0\n");
    assert.deepEqual(
      csv.docs.map(({ answer }) => answer),
      [1, 0],
    );
    assert.equal((await own("my own-questions.csv", "question,A,B,answer\nq,x,y,A\n")).task.name, "my_own_questions");
    await rejects(
      own("mmlu_anatomy.csv", "question,A,B,answer\nq,x,y,A\n"),
      "bad_option",
      /name is that of a benchmark/,
    );
    await rejects(own("bad.csv", "id,question,A,B,answer\n1,q,x,y,B\n1,r,x,y,0\n"), "bad_data", /line 3: id 1/);
    await rejects(own("bad.csv", "question,A,answer\nq,x,A\n"), "bad_data", /line 2: 1 options/);
    await rejects(
      own("bad.jsonl", '{"question":"q","options":["x",""],"answer":0}\n'),
      "bad_data",
      /empty options\[1\]/,
    );
    await rejects(own("bad.jsonl", '{"question":"q","options":["x","y"],"answer":0\n'), "bad_data", /bad\.jsonl/);
    await rejects(own("bad.jsonl", '{"question":"q","options":["x","y"]}\n'), "bad_data", /no column answer/);
  });

  test("files that are not there", async () => {
    await rejects(
      load_task(anatomy, { data: join(dir, "nowhere"), num_fewshot: 0 }),
      "file_not_found",
      /anatomy_test\.csv/,
    );
    await rejects(mcqa_task(join(dir, "nowhere.jsonl")), "file_not_found", /nowhere/);
    await rejects(
      load_task(tasks.get("medqa_4options_ar")!, { num_fewshot: 0 }),
      "file_not_found",
      /no public data set/,
    );
  });

  test("shots are the first of dev, and must be enough", async () => {
    const rows = (count: number) => Array.from({ length: count }, (_, i) => `q${i},a,b,c,d,A\n`).join("");
    await writeFile(join(dir, "mmlu_med_en/test/anatomy_test.csv"), rows(2));
    const { shots } = await load("mmlu_med_en/dev/anatomy_dev.csv", rows(5), "mmlu_anatomy", 5);
    assert.equal(shots.length, 5);
    await rejects(load("mmlu_med_en/dev/anatomy_dev.csv", rows(3), "mmlu_anatomy", 5), "bad_data", /3 examples/);
  });

  test("a Parquet file as the hub has it", async () => {
    const file = join(root, "test/fixtures/eval/medmcqa.parquet");
    const cache = join(dir, "hub");
    const snapshot = join(cache, "datasets--openlifescienceai--medmcqa");
    await mkdir(join(snapshot, "refs/refs/convert"), { recursive: true });
    await writeFile(join(snapshot, "refs/refs/convert/parquet"), "abc");
    await mkdir(join(snapshot, "snapshots/abc/default/validation"), { recursive: true });
    await writeFile(join(snapshot, "snapshots/abc/default/validation/0000.parquet"), await readFile(file));
    const before_test = { ...process.env };
    Object.assign(process.env, { HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "1" });
    try {
      const { docs, files } = await load_task(tasks.get("medmcqa")!, { num_fewshot: 0 });
      assert.equal(docs.length, 3);
      assert.deepEqual(
        docs.map(({ cop }) => cop),
        [3, 0, 2],
      );
      assert.equal(docs[1]!.opb, "ثانية");
      assert.equal(files[0]!.file, "openlifescienceai/medmcqa/default/validation");
      await rejects(load_task(tasks.get("medqa_4options")!, { num_fewshot: 0 }), "offline", /data set GBaker/);
    } finally {
      process.env = before_test;
    }
  });

  test("Python's random.sample", () => {
    // random.Random(1234): sample(range(100), 5) twice, then sample(range(10), 3)
    const random = new PythonRandom(1234);
    const range = (n: number) => [...Array(n).keys()];
    assert.deepEqual(random.sample(range(100), 5), PYTHON[0]);
    assert.deepEqual(random.sample(range(100), 5), PYTHON[1]);
    assert.deepEqual(random.sample(range(10), 3), PYTHON[2]);
    assert.deepEqual(random.sample(range(50), 7), PYTHON[3]);
  });
});

const PYTHON = [
  [99, 56, 14, 0, 11],
  [74, 4, 85, 88, 10],
  [1, 5, 3],
  [1, 49, 48, 22, 41, 39, 30],
];
