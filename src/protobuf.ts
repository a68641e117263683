/**
 * The protobuf wire format, as much of it as ONNX and SentencePiece files need: varints, floats and
 * length-delimited fields. A library would bring a schema compiler for two message families; this is the
 * whole format. https://protobuf.dev/programming-guides/encoding
 */
const utf8 = new TextEncoder();

/** A message under construction: the encoded fields in the order in which they were added. */
export class Message {
  private readonly parts: Uint8Array[] = [];
  private size = 0;

  get byte_length(): number {
    return this.size;
  }

  /** Integers, enums and booleans. Negative numbers take ten bytes, as protobuf prescribes. */
  int(field: number, value: number | bigint): this {
    return this.add(varint((field << 3) | 0)).add(varint(value));
  }

  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.add(varint((field << 3) | 5)).add(bytes);
  }

  double(field: number, value: number): this {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setFloat64(0, value, true);
    return this.add(varint((field << 3) | 1)).add(bytes);
  }

  /** Strings, bytes and nested messages. `value` is kept by reference until `finish`. */
  bytes(field: number, value: string | Uint8Array | Message): this {
    const parts = value instanceof Message ? value.parts : [typeof value === "string" ? utf8.encode(value) : value];
    const size = parts.reduce((sum, part) => sum + part.length, 0);
    this.add(varint((field << 3) | 2)).add(varint(size));
    for (const part of parts) this.add(part);
    return this;
  }

  ints(field: number, values: Iterable<number | bigint>): this {
    for (const value of values) this.int(field, value);
    return this;
  }

  finish(): Uint8Array {
    const out = new Uint8Array(this.size);
    let at = 0;
    for (const part of this.parts) {
      out.set(part, at);
      at += part.length;
    }
    return out;
  }

  private add(part: Uint8Array): this {
    this.parts.push(part);
    this.size += part.length;
    return this;
  }
}

function varint(value: number | bigint): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value));
  const out: number[] = [];
  do {
    const byte = Number(rest & 0x7fn);
    rest >>= 7n;
    out.push(rest > 0n ? byte | 0x80 : byte);
  } while (rest > 0n);
  return Uint8Array.from(out);
}

/** One decoded field: `value` is a number for varints, fixed32 and fixed64 bits, else the bytes (a view, not a copy). */
export type Field = { field: number; value: number | Uint8Array };

/**
 * The fields of a message in file order.
 * @throws RangeError when the bytes end inside a field or use a wire type that is not known.
 */
export function* fields(bytes: Uint8Array): Generator<Field> {
  let at = 0;
  const read_varint = (): number => {
    let value = 0;
    for (let scale = 1, i = 0; i < 10; i++, scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) break;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new RangeError(`protobuf: a number does not end at byte ${at}`);
  };
  const take = (length: number): Uint8Array => {
    if (length > bytes.length - at)
      throw new RangeError(`protobuf: a field of ${length} bytes at byte ${at} ends late`);
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const tag = read_varint();
    const field = Math.floor(tag / 8);
    switch (tag % 8) {
      case 0:
        yield { field, value: read_varint() };
        break;
      case 1:
        yield { field, value: take(8) };
        break;
      case 2:
        yield { field, value: take(read_varint()) };
        break;
      case 5:
        yield { field, value: take(4) };
        break;
      default:
        throw new RangeError(`protobuf: unknown wire type ${tag % 8} at byte ${at}`);
    }
  }
}

const text = new TextDecoder("utf-8", { ignoreBOM: true });

/** A length-delimited field as text, for callers that know its type from the schema. */
export function as_text(value: Field["value"]): string {
  return typeof value === "number" ? String(value) : text.decode(value);
}

/** A fixed32 field as a float. */
export function as_float(value: Field["value"]): number {
  if (typeof value === "number" || value.length !== 4) throw new RangeError("protobuf: expected a 32-bit float");
  return new DataView(value.buffer, value.byteOffset, 4).getFloat32(0, true);
}
