/** The service's log: JSON lines, one an event, without a word of what people write. */
export type Level = "info" | "error";

/** A log that cannot be written, on a full disk or into a pipe that nobody reads, is lost: it ends no server. */
const lose = () => {};
function to_stderr(line: string): void {
  if (!process.stderr.listeners("error").includes(lose)) process.stderr.on("error", lose);
  process.stderr.write(line);
}

export class Log {
  constructor(private readonly print: (line: string) => void = to_stderr) {}

  write(level: Level, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.print(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
  }
}
