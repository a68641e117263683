// npm test: lint, the direction of imports, types and tests; what CI runs. With --full also the slow tests.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { check_imports } from "./imports.mjs";
import { root, run, setup } from "./setup.mjs";

setup();
run(process.execPath, [join(root, "node_modules/@biomejs/biome/bin/biome"), "check", "--error-on-warnings", "."]);
check_imports();
const tests = readdirSync(join(root, "test"), { recursive: true })
  .filter((file) => file.endsWith(".test.ts"))
  .map((file) => join("dist/test", file.replace(/ts$/, "js")));
const env = { ...process.env, ...(process.argv.includes("--full") ? { BIMEDIX_FULL: "1" } : {}) };
// Two at a time: each loads ONNX Runtime, which has threads of its own.
const { status } = spawnSync(process.execPath, ["--test", "--test-concurrency=2", ...tests], {
  cwd: root,
  stdio: "inherit",
  env,
});
process.exit(status ?? 1);
