/**
 * How the command line ends: 0 done, 1 it failed, 2 the command line was not understood, and 128 with the number of what ended it, as
 * shells count: 129 the terminal closed, 130 Ctrl-C, 141 nobody reads the output, 143 SIGTERM.
 */
import { constants } from "node:os";
import { BimedixError } from "../errors.js";
import { drop_locks } from "../lock.js";
import { fold } from "./terminal.js";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
type Signal = (typeof signals)[number];

const status_of = (signal: Signal | "SIGPIPE") => 128 + (constants.signals[signal] ?? 13);

/** Calls back at each of the signals that ask a program to end, until the returned function is called. */
export function on_signals(handle: (signal: Signal) => void): () => void {
  const listeners = signals.map((signal) => [signal, () => handle(signal)] as const);
  for (const [signal, listener] of listeners) process.on(signal, listener);
  return () => {
    for (const [signal, listener] of listeners) process.off(signal, listener);
  };
}

/** Ends this process by the signal itself, at once: whoever waits for it sees what ended it. */
export function end_by(signal: Signal): void {
  drop_locks();
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}

/** Work that a signal asks to stop. The first aborts it and becomes the exit status, the second ends the process. */
export async function stoppable<T>(work: (signal: AbortSignal) => Promise<T>, on_stop = () => {}): Promise<T> {
  const stop = new AbortController();
  const off = on_signals((signal) => {
    if (stop.signal.aborted) return end_by(signal);
    process.exitCode = status_of(signal);
    on_stop();
    stop.abort();
  });
  try {
    return await work(stop.signal);
  } finally {
    off();
  }
}

const left = new AbortController();
/** Aborted when nobody reads the answer any more. */
export const reader_left = left.signal;

/**
 * What happens when an output is closed or full. Progress that nobody sees stops nothing. An answer that nobody reads is ended, unless
 * the verb leaves something else behind.
 */
export function watch_outputs(leaves_something: () => boolean): void {
  process.stderr.on("error", () => {});
  process.stdout.on("error", ({ code }: NodeJS.ErrnoException) => {
    if (leaves_something() || left.signal.aborted) return;
    const gone = code === "EPIPE" || code === "EIO" || code === "ECONNRESET";
    process.exitCode = gone ? status_of("SIGPIPE") : 1;
    if (!gone) process.stderr.write(`bimedix: the output cannot be written (${code})\n`);
    left.abort();
  });
}

/** Whether the runtime's package or its native half is not there, as after an installation that its install script ended. */
const is_runtime_missing = (error: unknown): error is Error =>
  error instanceof Error &&
  /onnxruntime/.test(error.message) &&
  /^(ERR_)?(MODULE_NOT_FOUND|DLOPEN_FAILED)$/.test(String((error as { code?: unknown }).code));

/** Says what ended the program and sets its status. A person's mistake is one line; a mistake of this program keeps its stack. */
export function report(error: unknown, reword: (message: string) => string): void {
  if (error instanceof BimedixError) {
    // What a signal or a reader who left has ended has its status already.
    if (error.code === "aborted" && process.exitCode !== undefined) return;
    process.stderr.write(`${fold(`bimedix: ${reword(error.message)}`, process.stderr)}\n`);
    process.exitCode = error.code === "bad_option" ? 2 : 1;
  } else if (is_runtime_missing(error)) {
    const [first] = error.message.split("\n");
    process.stderr.write(
      `bimedix: ONNX Runtime cannot be loaded (${first}); expected onnxruntime-node with its binary for ${process.platform} on ${process.arch} (on Linux with glibc); install again with npm install --ignore-scripts.\n`,
    );
    process.exitCode = 1;
  } else if (error instanceof Error && "syscall" in error) {
    process.stderr.write(`bimedix: ${error.message}\n`);
    process.exitCode = 1;
  } else throw error;
}
