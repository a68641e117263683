/** Data files as pyarrow, pandas and Python read them; test/fixtures/data holds their readings (tools/make_data_fixtures.py). */
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { read_options } from "../../src/data/options.js";
import { columns_of } from "../../src/data/questions.js";
import { data_entries, read_records } from "../../src/data/records.js";
import { digits_value, is_blank, rstrip, splitlines, strip } from "../../src/text/python.js";
import { rejects, root } from "../fixtures.js";

interface Values {
  codecs: unknown[];
  types: unknown[];
  csv: Record<string, { text: string; rows: unknown[] }>;
  cells: { text: string; options: string[][] };
  text: {
    spaces: string;
    strip: [string, string, string][];
    splitlines: [string, string[]][];
    int: [string, number][];
  };
}

describe("data files", () => {
  const fixtures = join(root, "test/fixtures/data");
  let expected: Values;
  let dir: string;
  before(async () => {
    expected = JSON.parse(await readFile(join(fixtures, "values.json"), "utf8")) as Values;
    dir = await mkdtemp(join(tmpdir(), "bimedix-records-"));
  });
  after(() => rm(dir, { recursive: true }));
  const values = async (name: string, bytes: string | Uint8Array) => {
    await writeFile(join(dir, name), bytes);
    return (await read_records(join(dir, name))).map(({ value }) => value);
  };

  for (const codec of ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
    test(`Parquet packed with ${codec}`, async () => {
      const records = await read_records(join(fixtures, `${codec}.parquet`));
      assert.deepEqual(
        records.map(({ value }) => value),
        expected.codecs,
      );
    });

  test("every type of column that pandas and datasets write into Parquet", async () => {
    const records = await read_records(join(fixtures, "types.parquet"));
    assert.deepEqual(
      records.map(({ value }) => value),
      expected.types,
    );
  });

  test("a damaged Parquet file is named", async () => {
    const bytes = await readFile(join(fixtures, "zstd.parquet"));
    await rejects(values("cut.parquet", bytes.subarray(0, 600)), "bad_data", /cut\.parquet: not readable as Parquet/);
  });

  test("CSV as pandas reads it", async () => {
    for (const [name, { text, rows }] of Object.entries(expected.csv))
      assert.deepEqual(await values("a.csv", text), rows, name);
  });

  test("lists that pandas wrote into a cell, as Python prints them", async () => {
    const rows = await values("cells.csv", expected.cells.text);
    const options = rows.map((row) => read_options(columns_of(row)).texts);
    assert.deepEqual(options, expected.cells.options);
  });

  test("tabs by name, semicolons and tabs where the first line has no comma, a byte order mark, UTF-16", async () => {
    const row = [{ question: "q, r", A: "x" }];
    assert.deepEqual(await values("a.tsv", "question\tA\nq, r\tx\n"), row);
    assert.deepEqual(await values("a.csv", "question\tA\nq, r\tx\n"), row);
    assert.deepEqual(await values("a.csv", "question;A\nq, r;x\n"), row);
    assert.deepEqual(await values("a.csv", 'sep=|\r\nquestion|A\r\n"q, r"|x\r\n'), row);
    assert.deepEqual(await values("a.csv", '\ufeffquestion,A\n"q, r",x\n'), row);
    assert.deepEqual(await values("a.csv", Buffer.from("\ufeffquestion\tA\r\nq, r\tx\r\n", "utf16le")), row);
    const swapped = Buffer.from('\ufeff{"question":"q, r","A":"x"}\n', "utf16le").swap16();
    assert.deepEqual(await values("a.jsonl", swapped), row);
  });

  test("what is wrong with CSV is named by line", async () => {
    await rejects(
      values("a.csv", "question,A\nq\n"),
      "bad_data",
      /a\.csv line 2: 1 columns; expected 2 \(question, A\)/,
    );
    await rejects(values("a.csv", "question,A,A\nq,x,y\n"), "bad_data", /line 1: two columns named A/);
    await rejects(
      values("a.csv", 'question,A\n"two\nlines",x\nq,"x\ny'),
      "bad_data",
      /line 4: a quote that is not closed/,
    );
    await rejects(values("a.csv", 'question,A\n"two\nlines",x\nq\n'), "bad_data", /line 4: 1 columns/);
    // pandas writes its index under no name.
    assert.deepEqual(await values("a.csv", ",question,\n0,q,\n"), [{ "": "", question: "q" }]);
  });

  test("JSON lines, lists, a list under data, one record; NaN as Python writes it", async () => {
    const two = [{ a: 1 }, { a: null }];
    assert.deepEqual(await values("a.jsonl", '\ufeff{"a": 1}\r\n\r\n \n{"a": NaN}'), two);
    assert.deepEqual(await values("a.jsonl", '{"a": 1}\r{"a": -Infinity}\r'), two);
    assert.deepEqual(await values("a.ndjson", '{"a": 1}\n{"a": null}\n'), two);
    assert.deepEqual(await values("a.jsonl", '[{"a": 1},\n {"a": null}]\n'), two);
    assert.deepEqual(await values("a.json", ' [{"a": 1}, {"a": NaN}]'), two);
    assert.deepEqual(await values("a.json", '{"a": 1}\n{"a": null}\n'), two);
    assert.deepEqual(await values("a.json", '{"version": 1, "data": [{"a": 1}, {"a": null}]}'), two);
    assert.deepEqual(await values("a.json", '{\n "a": [\n  {"b": "NaN"}\n ]\n}\n'), [{ a: [{ b: "NaN" }] }]);
  });

  test("packed files, and those that are not", async () => {
    const lines = '{"a": 1}\n{"a": 2}\n';
    assert.deepEqual(await values("a.jsonl.gz", gzipSync(lines)), [{ a: 1 }, { a: 2 }]);
    assert.deepEqual(await values("a.csv.gz", gzipSync("a\n1\n")), [{ a: "1" }]);
    await rejects(values("a.jsonl.gz", lines), "bad_data", /a\.jsonl\.gz: not whole gzip data/);
    await rejects(values("a.jsonl.gz", gzipSync(lines).subarray(0, 20)), "bad_data", /not whole gzip data/);
    await rejects(values("a.txt", ""), "bad_data", /unknown kind of file; expected \.jsonl, \.json, \.csv/);
    await rejects(values("a.xlsx", ""), "bad_data", /a\.xlsx: a spreadsheet; .* save it as "CSV UTF-8"\.$/);
    await rejects(values("a.csv", "PK\x03\x04\0\0"), "bad_data", /a\.csv: a workbook .* save it as "CSV UTF-8"\.$/);
    assert.deepEqual(await values("a.csv", "a,b,\r\n1,2,\r\n,,\r\n , ,\r\n"), [{ a: "1", b: "2", "": "" }]);
    await rejects(values("a.jsonl", ""), "bad_data", /no records/);
    await rejects(read_records(join(dir, "none.jsonl")), "file_not_found", /none\.jsonl/);
  });

  test("a damaged line is an entry among the others", async () => {
    const file = join(dir, "damaged.jsonl");
    await writeFile(file, Buffer.from('{"a": 1}\n{"a": \n\xe3\xc7\n{"a": 2}', "latin1"));
    const entries: string[] = [];
    for await (const entry of data_entries(file))
      entries.push("problem" in entry ? `${entry.line} ${entry.problem.given}` : JSON.stringify(entry.value));
    assert.deepEqual(entries, [
      '{"a":1}',
      "2 a line that is not JSON, perhaps cut short",
      "3 bytes that are not UTF-8",
      '{"a":2}',
    ]);
  });

  test("a line longer than a chunk, and a character on the border of two", async () => {
    const long = { a: "ب".repeat(700_000) };
    assert.deepEqual(await values("long.jsonl", `${JSON.stringify(long)}\n{"a": 1}\n`), [long, { a: 1 }]);
    const utf16 = Buffer.from(`\ufeff{"b":1}\n${JSON.stringify(long)}\n`, "utf16le");
    assert.deepEqual(await values("long.jsonl", utf16), [{ b: 1 }, long]);
  });
});

test("text as Python treats it", async () => {
  const { text } = JSON.parse(await readFile(join(root, "test/fixtures/data/values.json"), "utf8")) as Values;
  const all = Array.from({ length: 0x10000 }, (_, point) => String.fromCharCode(point));
  assert.equal(all.filter((one) => is_blank(one)).join(""), text.spaces);
  for (const [given, both, right] of text.strip) assert.deepEqual([strip(given), rstrip(given)], [both, right]);
  for (const [given, lines] of text.splitlines) assert.deepEqual(splitlines(given), lines, JSON.stringify(given));
  for (const [given, value] of text.int) assert.equal(digits_value(given), value, given);
  assert.equal(digits_value("1.0"), null);
  assert.equal(digits_value("²"), null);
});

describe("data that are too much", () => {
  let dir: string;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "bimedix-much-"));
  });
  after(() => rm(dir, { recursive: true }));
  const read = async (name: string, bytes: string | Uint8Array) => {
    await writeFile(join(dir, name), bytes);
    return read_records(join(dir, name));
  };

  test("a line without end is refused before it fills the memory", async () => {
    const line = Buffer.alloc(2 ** 27 + 2 ** 21, "a");
    await rejects(read("line.jsonl", line), "bad_data", /line 1: over 128 MB in one line/);
    await rejects(read("line.jsonl.gz", gzipSync(line, { level: 1 })), "bad_data", /line 1: over 128 MB/);
  });

  const skip = process.env.BIMEDIX_FULL ? false : "slow; npm run test:full";
  test("a bomb of gzip is refused before it is unpacked", { skip }, async () => {
    const part = gzipSync(Buffer.alloc(2 ** 26, "\n"));
    const bomb = Buffer.concat(Array.from({ length: 9 }, () => part));
    await rejects(read("bomb.csv.gz", bomb), "bad_data", /over 512 MB/);
  });

  test("a table of 200,000 columns is read in a moment, and one that is named twice is told", async () => {
    const names = Array.from({ length: 200_000 }, (_, i) => `c${i}`);
    const [record] = await read("wide.csv", `${names}\n${names}\n`);
    assert.equal(Object.keys(record!.value as object).length, 200_000);
    await rejects(read("twice.csv", `${names},c7\n`), "bad_data", /two columns named c7/);
  });

  test("a Parquet file whose second column has no name leaves no rejection behind", async () => {
    const bytes = await readFile(join(root, "test/fixtures/data/none.parquet"));
    const loose: unknown[] = [];
    const on_loose = (error: unknown): void => void loose.push(error);
    process.on("unhandledRejection", on_loose);
    for (let at = 0; at < bytes.length; at += 7) {
      const damaged = Buffer.from(bytes);
      damaged[at]! ^= 0x11;
      await read("x.parquet", damaged).catch((error) => assert.equal(error.code, "bad_data"));
    }
    await new Promise((done) => setImmediate(done));
    process.off("unhandledRejection", on_loose);
    assert.deepEqual(loose, []);
  });
});
