// Installs and builds what is missing or older than its sources; a second call does nothing and costs a few milliseconds.
import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const BUILT = join(root, "dist/.built");
const INSTALLED = join(root, "node_modules/.bimedix-installed");

/** Runs a command with its output on stderr, so that stdout stays the program's own; ends this process when it fails. */
export function run(command, args, options = {}) {
  const { status } = attempt(command, args, options);
  if (status !== 0) process.exit(status ?? 1);
}

function attempt(command, args, options = {}) {
  // On Windows npm is a script, which only a shell finds; node's own path may hold spaces, which a shell would split.
  const shell = process.platform === "win32" && command === "npm";
  return spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2], shell, ...options });
}

// What installs the packages, in the order in which it is tried. None runs install scripts (see .npmrc): everything that is needed comes
// inside the packages. Bun and Deno are for machines without npm. Bun reads package-lock.json; so does Deno, but only to begin deno.lock, which is
// removed: with --no-lock it takes the newest version that package.json allows, which may not compile.
const INSTALLERS = [
  ["npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]],
  ["bun", ["install", "--ignore-scripts", "--no-save", "--silent"]],
  ["deno", ["install", "--node-modules-dir=auto", "--quiet"]],
];

function install() {
  for (const [command, args] of INSTALLERS) {
    const own = process.versions[command] === undefined ? command : process.execPath;
    const { error, status } = attempt(own, args);
    if (error?.code === "ENOENT") continue;
    rmSync(join(root, "deno.lock"), { force: true });
    if (status !== 0) process.exit(status ?? 1);
    return;
  }
  console.error("bimedix: found none of npm, bun and deno to install the packages with; put one on the PATH.");
  process.exit(1);
}

const time_of = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

function newest(folder) {
  return readdirSync(folder, { withFileTypes: true }).reduce((time, entry) => {
    const path = join(folder, entry.name);
    return Math.max(time, entry.isDirectory() ? newest(path) : time_of(path));
  }, time_of(folder));
}

/** A checkout that somebody else has set up is used as it is; what has to be written into it fails in one line. */
function need_to_write() {
  try {
    accessSync(root, constants.W_OK);
  } catch {
    const run = "run npm start there once as its owner";
    console.error(
      `bimedix: ${root} may not be written; expected to install and build there; ${run}, or clone it anew.`,
    );
    process.exit(1);
  }
}

/** @returns whether anything was installed */
export function setup() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 10)) {
    console.error(
      `bimedix: Node.js ${process.versions.node}; expected 20.10 or newer; install it from https://nodejs.org.`,
    );
    process.exit(1);
  }
  const installed = Math.max(time_of(INSTALLED), time_of(join(root, "node_modules/.package-lock.json")));
  const missing = installed < time_of(join(root, "package-lock.json"));
  if (missing) {
    need_to_write();
    console.error("bimedix: installing (once; ONNX Runtime is about 290 MB) …");
    install();
    writeFileSync(INSTALLED, "");
  }
  const folders = ["src", "test", "web"].map((name) => newest(join(root, name)));
  const sources = Math.max(...folders, time_of(join(root, "tsconfig.json")));
  if (time_of(BUILT) < sources) {
    need_to_write();
    console.error("bimedix: building …");
    for (const project of ["tsconfig.json", "web/tsconfig.json"])
      run(process.execPath, [join(root, "node_modules/typescript/lib/tsc.js"), "-p", project]);
    writeFileSync(BUILT, "");
  }
  return missing;
}
