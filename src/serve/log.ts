/**
 * The service's log: JSON lines, one an event, without a word of what people write.
 *
 * Who reads it may stand still, such as a pager or a collector in trouble. Lines then wait, up to a bound, and what comes after is dropped
 * and counted. Node's own stream for this would keep everything, and stands still with its reader once any process that shares the pipe
 * has set it to block, which the start of a child process does.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from "node:fs";

export type Level = "info" | "error";

const STDERR = 2;

/** Bytes that may wait. */
const MOST = 2 ** 20;

/** Milliseconds after which a reader that stood still is tried again. */
const AGAIN = 100;

/** Writes what of some bytes finds room without waiting; how many, or null where nobody will ever read. */
type TryWrite = (bytes: Uint8Array) => number | null;

/** Lines on their way to a reader who may be slow. */
export class Lines {
  private waiting: Uint8Array[] = [];
  private size = 0;
  private lost = 0;
  private timer: NodeJS.Timeout | null = null;

  /** @param lost_line says how many lines were dropped, once the reader is back */
  constructor(
    private readonly write: TryWrite,
    private readonly lost_line: (count: number) => string,
  ) {}

  push(line: string): void {
    const bytes = Buffer.from(line);
    if (this.size + bytes.length > MOST) {
      this.lost++;
      return;
    }
    this.waiting.push(bytes);
    this.size += bytes.length;
    if (!this.timer) this.flush();
  }

  private flush(): void {
    this.timer = null;
    while (this.waiting.length > 0) {
      const bytes = this.waiting[0]!;
      const written = this.write(bytes);
      this.size -= written ?? bytes.length;
      if (written === null || written === bytes.length) this.waiting.shift();
      else {
        this.waiting[0] = bytes.subarray(written);
        this.timer = setTimeout(() => this.flush(), AGAIN).unref();
        return;
      }
      if (this.lost > 0 && this.size < MOST / 2) {
        const line = Buffer.from(this.lost_line(this.lost));
        this.lost = 0;
        this.waiting.push(line);
        this.size += line.length;
      }
    }
  }
}

/**
 * The standard error without waiting. A pipe or terminal is opened once more: whether writes wait is a setting of what is opened, and
 * that of the standard error is shared with every process that inherited it.
 */
function stderr_writer(): TryWrite {
  const stat = fstatSync(STDERR);
  if (stat.isFIFO() || stat.isCharacterDevice()) {
    try {
      const own = openSync(`/proc/self/fd/${STDERR}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
      process.once("exit", () => closeSync(own));
      return (bytes) => try_write(own, bytes);
    } catch {
      // Not on Linux, or another user's: Node's stream, up to a bound.
    }
  }
  const stream = process.stderr as typeof process.stderr & { _handle?: { setBlocking?(on: boolean): void } };
  stream.on("error", () => {});
  return (bytes) => {
    if (stream.writableLength > 0) return 0;
    // A child process may have set it to block since the last line.
    if (!stat.isFile()) stream._handle?.setBlocking?.(false);
    stream.write(bytes);
    return bytes.length;
  };
}

function try_write(fd: number, bytes: Uint8Array): number | null {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    // On a full disk, or where nobody reads any more, a line is lost.
    return (error as NodeJS.ErrnoException).code === "EAGAIN" ? 0 : null;
  }
}

let stderr: Lines | undefined;
function to_stderr(line: string): void {
  stderr ??= new Lines(stderr_writer(), (count) => entry("error", "lines lost", { count }));
  stderr.push(line);
}

const entry = (level: Level, message: string, fields: Readonly<Record<string, unknown>>) =>
  `${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`;

export class Log {
  constructor(private readonly print: (line: string) => void = to_stderr) {}

  write(level: Level, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.print(entry(level, message, fields));
  }
}
