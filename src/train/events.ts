/**
 * TensorBoard's event files: scalars, by tag and step. The format is TFRecord (length, masked CRC-32C, data, masked CRC-32C) around
 * Event messages. https://www.tensorflow.org/tutorials/load_data/tfrecord, tensorflow/core/util/event.proto
 */
import { appendFile } from "node:fs/promises";
import { file_error } from "../files.js";
import { Message } from "../protobuf.js";

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
  return c;
});

function masked_crc(bytes: Uint8Array): number {
  let c = 0xffffffff;
  for (const byte of bytes) c = table[(c ^ byte) & 255]! ^ (c >>> 8);
  c = ~c >>> 0;
  return (((c >>> 15) | (c << 17)) + 0xa282ead8) >>> 0;
}

function record(event: Message): Uint8Array {
  const data = event.finish();
  const out = new Uint8Array(data.length + 16);
  const view = new DataView(out.buffer);
  view.setBigUint64(0, BigInt(data.length), true);
  view.setUint32(8, masked_crc(out.subarray(0, 8)), true);
  out.set(data, 12);
  view.setUint32(12 + data.length, masked_crc(data), true);
  return out;
}

/** A file to which scalars are added. Each call is on the disk when it returns. */
export class EventFile {
  private begun = false;

  constructor(readonly file: string) {}

  async add(step: number, scalars: Readonly<Record<string, number>>): Promise<void> {
    const event = () => new Message().double(1, Date.now() / 1000);
    const parts: Uint8Array[] = [];
    if (!this.begun) parts.push(record(event().bytes(3, "brain.Event:2")));
    this.begun = true;
    const summary = new Message();
    for (const [tag, value] of Object.entries(scalars)) summary.bytes(1, new Message().bytes(1, tag).float(2, value));
    parts.push(record(event().int(2, step).bytes(5, summary)));
    await appendFile(this.file, Buffer.concat(parts)).catch((error) =>
      Promise.reject(file_error(error, this.file, "a place for the log")),
    );
  }
}
