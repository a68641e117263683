/** Where tests find their data: fixtures in the repository, and corpora beside it that are never committed. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { cp, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { BimedixError } from "../src/errors.js";
import { read_floats, read_safetensors_header } from "../src/model/safetensors.js";

/** The project's folder; this file runs as dist/test/fixtures.js. */
export const root = fileURLToPath(new URL("../..", import.meta.url));
export const twins = join(root, "test/fixtures/twins");
export const shared = process.env.BIMEDIX_SHARED ?? resolve(root, "../shared");

/** For `test(name, { skip })`: a reason when `path` under the shared folder is absent, else false. */
export const without_shared = (path: string): string | false =>
  existsSync(join(shared, path)) ? false : `${path} is not in the shared data folder (BIMEDIX_SHARED)`;

// Converted weights of the tests go to a folder of this process, so that no run sees another's.
process.env.BIMEDIX_CACHE = join(tmpdir(), `bimedix-test-${process.pid}`);

/** A copy of a twin that a test may spoil. */
export async function copy_of(name: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  await cp(join(twins, name), dir, { recursive: true });
  return dir;
}

/** Removes a file of a model and returns the model. */
export async function remove(dir: string, file: string): Promise<string> {
  await rm(join(dir, file));
  return dir;
}

/** That `work` fails with a BimedixError of this code, whose message is one line and mentions something. */
export function rejects(work: Promise<unknown>, code: string, mentions: RegExp): Promise<void> {
  return assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof BimedixError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, mentions);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
}

/** The tensors of a small safetensors file, integers included, as plain arrays. */
export async function read_arrays(file: string): Promise<Map<string, { shape: number[]; data: number[] }>> {
  const handle = await open(file);
  try {
    const arrays = new Map<string, { shape: number[]; data: number[] }>();
    for (const [name, tensor] of await read_safetensors_header(file)) {
      const count = tensor.shape.reduce((product, dim) => product * dim, 1);
      if (tensor.dtype === "I32") {
        const bytes = new Int32Array(count);
        await handle.read(new Uint8Array(bytes.buffer), 0, bytes.byteLength, tensor.offset);
        arrays.set(name, { shape: tensor.shape, data: [...bytes] });
      } else arrays.set(name, { shape: tensor.shape, data: [...(await read_floats(handle, tensor, 0, count))] });
    }
    return arrays;
  } finally {
    await handle.close();
  }
}

/** The largest absolute difference of two equally long lists. */
export function max_difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new RangeError(`${a.length} values beside ${b.length}`);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!));
  return worst;
}

/** Listens for the project's warnings; the function that it returns gives their texts and ends the listening. */
export function warnings(): () => Promise<string[]> {
  const texts: string[] = [];
  const on_warning = (warning: Error) => {
    if (warning.name === "BimedixWarning") texts.push(warning.message);
  };
  process.on("warning", on_warning);
  return async () => {
    // Warnings are emitted in a later turn.
    await new Promise((done) => setImmediate(done));
    process.off("warning", on_warning);
    return texts;
  };
}
