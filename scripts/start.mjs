// npm start: sets up what is missing and hands over to the command line.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root, setup } from "./setup.mjs";

// Bun remembers which packages were missing when it started, so after an installation the command line gets a new process there.
if (setup() && process.versions.bun)
  process.exit(spawnSync(process.execPath, process.argv.slice(1), { stdio: "inherit" }).status ?? 1);
await import(pathToFileURL(join(root, "dist/src/cli/main.js")).href);
