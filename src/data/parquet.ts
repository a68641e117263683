/** Parquet in every codec that pyarrow writes, with values as JSON has them. Bytes that are no text stay bytes, which no column takes. */
import { parentPort, Worker, workerData } from "node:worker_threads";
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

/** What a file may take; a damaged length may ask for any number of values. */
const LIMITS = { seconds: 10, seconds_a_megabyte: 5, megabytes: 4096 };
const READER = "bimedix-parquet";

type Rows = { rows: unknown[] } | { problem: string };

/**
 * The rows of a file. They are read in a thread, since the library takes every number in a file as it stands: one damaged byte makes a
 * billion values, or a rejection that nobody waits for, and nothing in this thread could end either.
 *
 * @throws BimedixError bad_data
 */
export async function parquet_rows(file: string, bytes: Uint8Array): Promise<DataRecord[]> {
  const read = await in_thread(bytes);
  if ("problem" in read) return bad_data(file, `not readable as Parquet (${read.problem})`, "a whole Parquet file");
  return read.rows.map((value, i) => ({ where: `${file} row ${i + 1}`, line: i + 1, value }));
}

interface Reader {
  worker: Worker;
  lives: boolean;
  answer(rows: Rows): void;
}

/** It reads the next file too: to start a thread takes longer than to read a small file. */
let idle: Reader | null = null;

function start(): Reader {
  const resourceLimits = { maxOldGenerationSizeMb: LIMITS.megabytes };
  const worker = new Worker(new URL(import.meta.url), { workerData: READER, execArgv: [], resourceLimits });
  const reader: Reader = { worker, lives: true, answer: () => {} };
  const ended = (): void => {
    reader.lives = false;
    reader.answer({ problem: "damaged: its values are too many, or not what they should be" });
  };
  worker.on("message", (rows: Rows) => reader.answer(rows));
  worker.on("error", ended);
  worker.on("exit", ended);
  return reader;
}

async function in_thread(bytes: Uint8Array): Promise<Rows> {
  const reader = idle ?? start();
  idle = null;
  reader.worker.ref();
  const seconds = LIMITS.seconds + (LIMITS.seconds_a_megabyte * bytes.length) / 2 ** 20;
  let timer: NodeJS.Timeout | undefined;
  const rows = await new Promise<Rows>((done) => {
    reader.answer = done;
    timer = setTimeout(
      () => done({ problem: `damaged: it takes over ${Math.round(seconds)} seconds` }),
      1000 * seconds,
    );
    reader.worker.postMessage(bytes);
  });
  clearTimeout(timer);
  reader.answer = () => {};
  if (idle || !reader.lives) await reader.worker.terminate();
  else {
    reader.worker.unref();
    idle = reader;
  }
  return rows;
}

async function read_rows(bytes: Uint8Array): Promise<Rows> {
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer;
  try {
    // Here and not above: it takes 10 GB of address space, which a limit (ulimit -v) may not leave to those who read no Parquet.
    const [{ parquetMetadata, parquetReadObjects }, { compressors }] = await Promise.all([
      import("hyparquet"),
      import("hyparquet-compressors"),
    ]);
    const metadata = parquetMetadata(file);
    const decimals = metadata.schema.some(({ converted_type }) => converted_type === "DECIMAL");
    const rows = await parquetReadObjects({ file, metadata, compressors, parsers });
    return { rows: rows.map((row) => plain(row, decimals)) };
  } catch (error) {
    // What the library says itself is for people; what JavaScript says of its code is not.
    const own = error instanceof Error && error.constructor === Error;
    return { problem: own ? error.message.slice(0, 80) : "damaged" };
  }
}

if (workerData === READER)
  parentPort!.on("message", async (bytes: Uint8Array) => {
    const rows = await read_rows(bytes);
    // A rejection that nobody waits for is told in a later turn, and ends the thread before it has answered.
    setImmediate(() => setImmediate(() => parentPort!.postMessage(rows)));
  });

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
