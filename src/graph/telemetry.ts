/**
 * Turns off the telemetry of ONNX Runtime. Since 1.29 its published builds send the names, hashes and counts of what runs to
 * their maker (https://github.com/microsoft/onnxruntime/pull/27379), and parse the command line, which may hold a patient's
 * words, for it: a long one even overflows their stack. A private assistant sends nothing. On Windows the runtime hands its events to the
 * system instead (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md), where the user's own setting decides.
 *
 * It must be imported before onnxruntime-node. The native code reads the process's own environment, which only the main
 * thread can set.
 */
import { isMainThread } from "node:worker_threads";

const NAME = "ORT_DISABLE_TELEMETRY";
if (isMainThread) process.env[NAME] = "1";
else if (process.env[NAME] !== "1") {
  process.emitWarning(
    `bimedix is first imported in a worker thread, where it cannot turn off ONNX Runtime's telemetry: set ${NAME}=1 for the process.`,
  );
}
