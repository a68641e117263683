// A conversion. Run: node bench/convert.mjs CHECKPOINT DTYPE OUTPUT  (one JSON line on stdout)
import { rmSync } from "node:fs";
import { join } from "node:path";
import { convert, open_checkpoint } from "../dist/src/index.js";
import { peak_mb, seconds_since } from "./measure.mjs";

const [dir, dtype, output] = process.argv.slice(2);
rmSync(join(output, "onnx"), { recursive: true, force: true });
const start = performance.now();
await convert(await open_checkpoint(dir), { dtype, output });
console.log(JSON.stringify({ seconds: seconds_since(start), peak_mb: peak_mb() }));
