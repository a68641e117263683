/**
 * Work that holds the event loop for milliseconds, one piece at a turn of the loop: however much of it has come at once, what is short
 * (`/health`, the next token of a stream) is answered in between.
 */
let last: Promise<void> = Promise.resolve();

/** Resolves when it is one's turn. What is done until the next `await` is the piece. */
export function turn(): Promise<void> {
  last = last.then(() => new Promise((resume) => setImmediate(resume)));
  return last;
}
