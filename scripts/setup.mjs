// Installs and builds what is missing or older than its sources; a second call does nothing and costs a few milliseconds.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
const BUILT = join(root, "dist/.built");

/** Runs a command with its output on stderr, so that stdout stays the program's own; ends this process when it fails. */
export function run(command, args, options = {}) {
  // On Windows npm is a script, which only a shell finds; node's own path may hold spaces, which a shell would split.
  const shell = process.platform === "win32" && command === "npm";
  const { status } = spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2], shell, ...options });
  if (status !== 0) process.exit(status ?? 1);
}

const time_of = (path) => (existsSync(path) ? statSync(path).mtimeMs : 0);

function newest(folder) {
  return readdirSync(folder, { withFileTypes: true }).reduce((time, entry) => {
    const path = join(folder, entry.name);
    return Math.max(time, entry.isDirectory() ? newest(path) : time_of(path));
  }, time_of(folder));
}

export function setup() {
  const [major = 0] = process.versions.node.split(".").map(Number);
  if (major < 20) {
    console.error(
      `bimedix: Node.js ${process.versions.node}; expected 20 or newer; install it from https://nodejs.org.`,
    );
    process.exit(1);
  }
  // Scripts stay off (see .npmrc): everything that is needed comes inside the packages.
  if (time_of(join(root, "node_modules/.package-lock.json")) < time_of(join(root, "package-lock.json"))) {
    console.error("bimedix: installing (once; ONNX Runtime is about 290 MB) …");
    run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
  }
  const folders = ["src", "test", "web"].map((name) => newest(join(root, name)));
  const sources = Math.max(...folders, time_of(join(root, "tsconfig.json")));
  if (time_of(BUILT) < sources) {
    console.error("bimedix: building …");
    for (const project of ["tsconfig.json", "web/tsconfig.json"])
      run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", project]);
    writeFileSync(BUILT, "");
  }
}
