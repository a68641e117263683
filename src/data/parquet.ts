/** Parquet in every codec that pyarrow writes, with values as JSON has them. Bytes that are no text stay bytes, which no column takes. */
import { parquetMetadata, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { bad_data, type DataRecord } from "./record.js";

const utf8 = new TextDecoder("utf-8", { fatal: true });

const parsers = {
  stringFromBytes: (bytes: Uint8Array | undefined) => {
    try {
      return bytes && utf8.decode(bytes);
    } catch {
      return bytes;
    }
  },
};

/** @throws BimedixError bad_data */
export async function parquet_rows(file: string, bytes: Uint8Array): Promise<DataRecord[]> {
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
  let failed = false;
  // The library begins to read a column, may then find no name for the next, and leaves the first one's failure to nobody: so bytes
  // come a turn later, and none after it has failed.
  const slice = (start: number, end?: number): Promise<ArrayBuffer> =>
    new Promise((done) => setImmediate(() => failed || done(buffer.slice(start, end))));
  try {
    const metadata = parquetMetadata(buffer);
    const decimals = metadata.schema.some(({ converted_type }) => converted_type === "DECIMAL");
    const source = { byteLength: buffer.byteLength, slice };
    const rows = await parquetReadObjects({ file: source, metadata, compressors, parsers });
    return rows.map((row, i) => ({ where: `${file} row ${i + 1}`, line: i + 1, value: plain(row, decimals) }));
  } catch (error) {
    failed = true;
    return bad_data(file, `not readable as Parquet (${(error as Error).message.slice(0, 80)})`, "Parquet");
  }
}

/**
 * Integers of 64 bits as numbers where JSON has them, dates as texts, NaN (a missing number in pandas) as null. A decimal comes as an
 * integer times a power of ten, which is a few units of the last place beside it.
 */
function plain(value: unknown, decimals: boolean): unknown {
  if (value === undefined || Number.isNaN(value)) return null;
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
  if (typeof value === "number") return decimals ? Number(value.toPrecision(15)) : value;
  if (value instanceof Date) return value.toISOString();
  if (Array.isArray(value)) return value.map((one) => plain(one, decimals));
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return value;
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, plain(one, decimals)]));
}
