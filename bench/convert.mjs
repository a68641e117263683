// A conversion into the cache. Run: node bench/convert.mjs CHECKPOINT DTYPE  (one JSON line on stdout)
import { rmSync } from "node:fs";
import { dirname } from "node:path";
import { open_store } from "../dist/src/model/store.js";
import { peak_mb, seconds_since } from "./measure.mjs";

const [dir, dtype] = process.argv.slice(2);
const { folder } = await open_store(dir, { dtype });
rmSync(dirname(folder), { recursive: true });
const start = performance.now();
await open_store(dir, { dtype });
console.log(JSON.stringify({ seconds: seconds_since(start), peak_mb: peak_mb() }));
