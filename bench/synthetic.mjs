// Writes a random checkpoint in bfloat16 shards, streaming. Run: node bench/synthetic.mjs A bench/.cache/A
// One block of normal values is written again and again from random places: generating every value anew takes minutes.
import { closeSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { expected_tensors } from "../dist/src/model/checkpoint.js";
import { parse_config } from "../dist/src/model/config.js";
import { shapes } from "./shapes.mjs";

const SHARD = 4e9;
const BLOCK = 2 ** 22;

export function write_checkpoint(shape, dir) {
  const part = `${dir}.part`;
  rmSync(part, { recursive: true, force: true });
  mkdirSync(part, { recursive: true });
  writeFileSync(join(part, "config.json"), JSON.stringify(shape, null, 1));
  const values = new Uint16Array(2 * BLOCK);
  const bits = new Uint32Array(1);
  const float = new Float32Array(bits.buffer);
  for (let i = 0; i < values.length; i++) {
    float[0] = 0.02 * Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
    values[i] = bits[0] >>> 16;
  }
  const ones = new Uint16Array(BLOCK).fill(0x3f80);
  const shards = [[]];
  let size = 0;
  for (const { name, shape: dims } of expected_tensors(parse_config(shape, "shape"))) {
    const bytes = 2 * dims.reduce((a, b) => a * b);
    if (size + bytes > SHARD && size > 0) [size] = [0, shards.push([])];
    size += bytes;
    shards.at(-1).push({ name, dims, bytes });
  }
  const weight_map = {};
  for (const [n, tensors] of shards.entries()) {
    const file = `model-${String(n + 1).padStart(5, "0")}-of-${String(shards.length).padStart(5, "0")}.safetensors`;
    let at = 0;
    const header = Object.fromEntries(
      tensors.map(({ name, dims, bytes }) => [name, { dtype: "BF16", shape: dims, data_offsets: [at, (at += bytes)] }]),
    );
    let text = JSON.stringify(header);
    text += " ".repeat(-text.length & 7);
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(text.length));
    const fd = openSync(join(part, file), "w");
    writeSync(fd, Buffer.concat([head, Buffer.from(text)]));
    for (const { name, dims, bytes } of tensors) {
      weight_map[name] = file;
      for (let done = 0; done < bytes; ) {
        const from = dims.length === 1 ? ones : values.subarray(Math.floor(Math.random() * BLOCK));
        const count = Math.min(BLOCK, (bytes - done) / 2);
        done += writeSync(fd, new Uint8Array(from.buffer, from.byteOffset, 2 * count));
      }
    }
    closeSync(fd);
  }
  writeFileSync(join(part, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map }));
  renameSync(part, dir);
}

if (process.argv[1]?.endsWith("synthetic.mjs")) write_checkpoint(shapes[process.argv[2]], process.argv[3]);
