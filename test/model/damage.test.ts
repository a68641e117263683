/** Converted weights that were damaged, or made for another configuration; two who convert at once; what was verified is remembered. */
import assert from "node:assert/strict";
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { cache_folder } from "../../src/model/cache.js";
import { open_checkpoint } from "../../src/model/checkpoint.js";
import { convert, dtypes } from "../../src/model/convert.js";
import { open_store } from "../../src/model/store.js";
import { copy_of, rejects, remove, root } from "../fixtures.js";

const MODEL = "mixtral-2-experts";
const GRAPH = "onnx/model_q4.onnx";

/** A folder with a conversion, and without the checkpoint that another could be made from. */
async function shipped(): Promise<string> {
  made ??= (async () => {
    const dir = await copy_of(MODEL);
    await convert(await open_checkpoint(dir), { dtype: "q4" });
    return remove(dir, "model.safetensors");
  })();
  const dir = await temporary();
  await cp(await made, dir, { recursive: true });
  return dir;
}
let made: Promise<string> | undefined;

async function edit(file: string, change: (text: string) => string): Promise<void> {
  const text = await readFile(file, "latin1");
  const changed = change(text);
  assert.notEqual(changed, text);
  await writeFile(file, changed, "latin1");
}

async function flip(file: string, at: number): Promise<void> {
  const bytes = await readFile(file);
  bytes[at]! ^= 1;
  await writeFile(file, bytes);
}

/** As an earlier version wrote it. */
const without_checksum = (dir: string) =>
  edit(join(dir, GRAPH), (text) => text.replace("bimedix.sha256", "bimedix.nothing".slice(0, 14)));

async function with_cache<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const { BIMEDIX_CACHE } = process.env;
  process.env.BIMEDIX_CACHE = folder;
  try {
    return await work();
  } finally {
    process.env.BIMEDIX_CACHE = BIMEDIX_CACHE;
  }
}

const temporary = () => mkdtemp(join(tmpdir(), "bimedix-"));

describe("a conversion in a model's folder", () => {
  test("whose weights have one other bit", async () => {
    const dir = await shipped();
    await flip(join(dir, `${GRAPH}_data`), 5000);
    await rejects(
      open_store(dir, { dtype: "q4" }),
      "bad_checkpoint",
      /weights are not those that were converted.*sha256/,
    );
  });

  test("whose table has one other number", async () => {
    const dir = await shipped();
    const row = /("model\.norm\.weight","float32",\[\d+\],)(\d)/;
    await edit(join(dir, GRAPH), (text) => text.replace(row, (_, before, digit) => before + ((Number(digit) % 9) + 1)));
    await rejects(open_store(dir, { dtype: "q4" }), "bad_checkpoint", /sha256|bimedix convert/);
  });

  test("without a checksum, as earlier versions wrote it, is read and held against config.json", async () => {
    const dir = await shipped();
    await without_checksum(dir);
    assert.ok((await open_store(dir, { dtype: "q4" })).tensors.size > 0);
  });

  test("is read through once, and again when the file is another", async () => {
    const dir = await shipped();
    const open_counting = async () => {
      let bytes = 0;
      await open_store(dir, { dtype: "q4", on_progress: ({ done }) => (bytes = done) });
      return bytes;
    };
    const { length } = await readFile(join(dir, `${GRAPH}_data`));
    await with_cache(await temporary(), async () => {
      assert.equal(await open_counting(), length);
      assert.equal(await open_counting(), 0);
      await writeFile(join(dir, `${GRAPH}_data`), await readFile(join(dir, `${GRAPH}_data`)));
      assert.equal(await open_counting(), length);
    });
    // Where nothing can be remembered it is read through every time.
    await with_cache(join(dir, "config.json"), async () => {
      assert.equal(await open_counting(), length);
      assert.equal(await open_counting(), length);
    });
  });

  const swap = (text: string) => {
    const [one, other] = [...text.matchAll(/experts\.[01]\.w1\.weight\.q4","uint8",\[[\d,]+\],(\d+)/g)].map(
      (m) => m[1]!,
    );
    assert.equal(one!.length, other!.length);
    const [first, second] = [new RegExp(`(0\\.w1\\.weight\\.q4","uint8",\\[[\\d,]+\\],)${one}`), new RegExp(`(1\\.w1\\.weight\\.q4","uint8",\\[[\\d,]+\\],)${other}`)]; // biome-ignore format: a pair
    return text.replace(first, `$1${other}`).replace(second, `$1${one}`);
  };
  const config = (change: (json: Record<string, unknown>) => void) => async (dir: string) => {
    const file = join(dir, "config.json");
    const json = JSON.parse(await readFile(file, "utf8")) as Record<string, unknown>;
    change(json);
    await writeFile(file, JSON.stringify(json));
  };
  const lies: [string, (dir: string) => Promise<void>, RegExp][] = [
    ["num_key_value_heads was lost", config((json) => Object.assign(json, { num_key_value_heads: null })), /k_proj/],
    ["there are half as many experts", config((json) => Object.assign(json, { num_local_experts: 1, num_experts_per_tok: 1 })), /gate/], // biome-ignore format: a row
    ["there are twice as many experts", config((json) => Object.assign(json, { num_local_experts: 4 })), /gate/],
    ["head_dim is another", config((json) => Object.assign(json, { head_dim: 4 })), /q_proj/],
    ["there are fewer layers", config((json) => Object.assign(json, { num_hidden_layers: 1 })), /layers\.1\.|norm/],
    ["there are more layers", config((json) => Object.assign(json, { num_hidden_layers: 3 })), /layers\.2\.|norm/],
    [
      "there are very many layers",
      config((json) => Object.assign(json, { num_hidden_layers: 1000 })),
      /layers\.2\.|norm/,
    ],
    ["the vocabulary is smaller", config((json) => Object.assign(json, { vocab_size: 50 })), /embed_tokens/],
    ["two offsets are swapped", (dir) => edit(join(dir, GRAPH), swap), /experts\.[01]\.w1|before byte/],
    ["two tensors overlap", (dir) => edit(join(dir, GRAPH), (text) => text.replace(/("model\.norm\.weight","float32",\[\d+\],\d+)(\d)(\d)\]/, (_, a, b, c) => `${a}${(Number(b) + 9) % 10}${c}]`)), /model\.norm|before byte/], // biome-ignore format: a row
  ];
  for (const [name, lie, mentions] of lies)
    test(`where ${name}`, async () => {
      const dir = await shipped();
      // The configuration and the table have to be enough.
      await without_checksum(dir);
      await lie(dir);
      const began = performance.now();
      await rejects(open_store(dir, { dtype: "q4" }), "bad_checkpoint", mentions);
      assert.ok(performance.now() - began < 5000);
    });

  test("of every precision has the very layout that is expected of it", async () => {
    for (const dtype of [...dtypes, "bnb4_double", "int8"] as const) {
      const dir = await copy_of(MODEL);
      await convert(await open_checkpoint(dir), { dtype });
      await remove(dir, "model.safetensors");
      assert.ok((await open_store(dir, { dtype })).folder.endsWith("onnx"), dtype);
    }
  });

  test("of the embedded demonstration has a checksum", async () => {
    const graph = await readFile(join(root, "models/nano/onnx/model_quantized.onnx"), "latin1");
    assert.match(graph, /bimedix\.sha256.{1,4}[0-9a-f]{64}/s);
  });
});

describe("the cache", () => {
  const cached = async (dir: string, folder: string) =>
    with_cache(folder, async () => {
      const store = await open_store(dir, { dtype: "q4" });
      return readFile(join(store.folder, "model_q4.onnx_data"));
    });

  test("holds converted weights alone, and makes what is damaged again", async () => {
    const [dir, folder] = [await copy_of(MODEL), await temporary()];
    const whole = await cached(dir, folder);
    const [name] = (await readdir(folder)).filter((name) => name !== "verified");
    assert.deepEqual(await readdir(join(folder, name!)), ["onnx"]);
    const graph = join(folder, name!, GRAPH);
    const damages = [
      () => flip(`${graph}_data`, 777),
      () => writeFile(`${graph}_data`, whole.subarray(0, 900)),
      () => rm(`${graph}_data`),
      () => writeFile(graph, "no graph"),
      () => edit(graph, (text) => text.replace(/("model\.norm\.weight","float32",\[\d+\],)\d/, "$19")),
    ];
    for (const damage of damages) {
      await damage();
      assert.deepEqual(await cached(dir, folder), whole);
    }
  });

  test("is filled by one of several who want the same at once", async () => {
    const [dir, folder] = [await copy_of(MODEL), await temporary()];
    await with_cache(folder, async () => {
      // Who finds it done hears of no conversion, but whom it waits for.
      const heard = [0, 0, 0];
      const listen = (i: number) => (progress: { waiting?: string }) => {
        if (progress.waiting === undefined) heard[i]!++;
      };
      await Promise.all(heard.map((_, i) => open_store(dir, { dtype: "q8", on_progress: listen(i) })));
      assert.equal(heard.filter((count) => count > 0).length, 1);
    });
    const names = await readdir(folder, { recursive: true });
    assert.ok(!names.some((name) => name.includes(".part") || name.includes(".lock")), names.join());
  });

  test("knows two models of one path, size and mtime apart", async () => {
    const [dir, folder] = [await copy_of(MODEL), await temporary()];
    const file = join(dir, "model.safetensors");
    const { atime, mtime } = await stat(file);
    const one = await cached(dir, folder);
    const bytes = await readFile(file);
    bytes.fill(0, bytes.length - 4000);
    await writeFile(file, bytes);
    await utimes(file, atime, mtime);
    assert.notDeepEqual(await cached(dir, folder), one);
  });

  test("is in its usual place where the variable is empty", () =>
    with_cache("", async () => assert.match(cache_folder(), /[\\/]bimedix$/)));

  test("that cannot be written says so", {
    skip: process.getuid?.() === 0 ? "root may write everywhere" : false,
  }, async () => {
    const [dir, folder] = [await copy_of(MODEL), await temporary()];
    await chmod(folder, 0o500);
    await rejects(cached(dir, folder), "file_unreadable", /may not be read or written/);
  });
});

test("float32 shards on several disks are not named in one folder", async () => {
  const dir = await copy_of("mixtral-8-experts-sharded");
  const elsewhere = await temporary();
  const shard = "model-00001-of-00002.safetensors";
  await writeFile(join(elsewhere, shard), await readFile(join(dir, shard)));
  await rm(join(dir, shard));
  await symlink(join(elsewhere, shard), join(dir, shard));
  // A file of the same name beside the other shards must not be taken for it.
  await mkdir(join(dir, "onnx"));
  const { tensors, folder } = await open_store(dir, { dtype: "fp32" });
  const locations = new Set([...tensors.values()].map(({ bytes }) => ("location" in bytes ? bytes.location : "")));
  assert.deepEqual([...locations], ["model.onnx_data"]);
  assert.ok(folder.startsWith(process.env.BIMEDIX_CACHE!));
});
