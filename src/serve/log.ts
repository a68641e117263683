/** The service's log: JSON lines, one an event, without a word of what people write. */
export type Level = "info" | "error";

export class Log {
  constructor(private readonly print: (line: string) => void = (line) => void process.stderr.write(line)) {}

  write(level: Level, message: string, fields: Readonly<Record<string, unknown>> = {}): void {
    this.print(`${JSON.stringify({ time: new Date().toISOString(), level, message, ...fields })}\n`);
  }
}
