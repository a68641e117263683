/** What a person should hear of although the work goes on: one line each on the standard error, once a thread. */
const said = new Set<string>();

/** Emits a process warning named `BimedixWarning`; programs hear it with `process.on("warning")`. */
export function warn(text: string): void {
  if (said.has(text)) return;
  said.add(text);
  process.emitWarning(text, "BimedixWarning");
}
