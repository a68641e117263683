// npm start: sets up what is missing and hands over to the command line.

import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { root, setup } from "./setup.mjs";

setup();
await import(pathToFileURL(join(root, "dist/src/cli/main.js")).href);
