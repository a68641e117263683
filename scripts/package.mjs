/*
npm run test:package: the package as others get it. It is packed, installed into an empty folder as the README says, and there the README's
snippet must compile (TypeScript with nodenext and bundler resolution, noUncheckedIndexedAccess, libraries checked too) and run, from
ES modules and by require; with --next also in a Next.js application, built by Turbopack and by webpack, in development and in production.
*/
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";

setup();
const [, snippet] = /```ts\n([\s\S]+?)```/.exec(readFileSync(join(root, "README.md"), "utf8"));
const [, flags] = /^npm install \S+\.tgz((?: --\S+)*)/m.exec(readFileSync(join(root, "README.md"), "utf8"));
const work = mkdtempSync(join(tmpdir(), "bimedix-package-"));
const versions = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")).packages;
const write = (path, text) => writeFileSync(join(work, path), typeof text === "string" ? text : JSON.stringify(text));

function run(command, args, options = {}) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: work, encoding: "utf8", ...options });
  assert.equal(status, 0, `${command} ${args.join(" ")}\n${stdout}${stderr}`);
  return stdout;
}
const npm = (...args) => run("npm", ["--no-audit", "--no-fund", "--loglevel=error", ...args]);

console.log("packing and installing");
run("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", work], { cwd: root });
const packed = readdirSync(work).find((file) => file.endsWith(".tgz"));
write("package.json", { name: "application", private: true, type: "module" });
npm("install", ...flags.trim().split(/\s+/), `./${packed}`);
npm("install", "--ignore-scripts", "--save-dev", `typescript@${versions["node_modules/typescript"].version}`);

const strict = { strict: true, noUncheckedIndexedAccess: true, exactOptionalPropertyTypes: true, skipLibCheck: false };
const tsc = join(work, "node_modules/typescript/lib/tsc.js");
write("snippet.ts", snippet);
const entries = ["eval", "serve", "train"];
write("entries.ts", entries.map((name) => `export * as ${name} from "bimedix/${name}";\n`).join(""));
for (const [module, moduleResolution] of [
  ["nodenext", "nodenext"],
  ["esnext", "bundler"],
]) {
  const compilerOptions = { ...strict, target: "es2022", module, moduleResolution, outDir: moduleResolution };
  write("tsconfig.json", { compilerOptions, files: ["snippet.ts", "entries.ts"] });
  run(process.execPath, [tsc, "-p", "."]);
  const answer = run(process.execPath, [join(moduleResolution, "snippet.js")]);
  assert.ok(answer.trim().length > 80, answer);
  console.log(`ok TypeScript, ${moduleResolution}: ${answer.trim().slice(0, 120)} …`);
}

// A CommonJS module has no await at its top.
const [, names, body] = /^import (\{.+\}) from "bimedix";\n([\s\S]+)$/.exec(snippet);
write("snippet.cjs", `const ${names} = require("bimedix");\n(async () => {\n${body}})();\n`);
assert.ok(run(process.execPath, ["--no-warnings", "snippet.cjs"]).trim().length > 80);
for (const name of entries) run(process.execPath, ["--no-warnings", "-e", `require("bimedix/${name}")`]);
console.log("ok CommonJS");

if (process.argv.includes("--next")) await next();
rmSync(work, { recursive: true });

async function next() {
  console.log("installing Next.js");
  npm("install", "--ignore-scripts", "next@16.4.6", "react@19", "react-dom@19", "@types/react@19");
  // Next.js reads its own kind of package; files are TypeScript.
  const manifest = JSON.parse(readFileSync(join(work, "package.json"), "utf8"));
  write("package.json", { ...manifest, type: undefined });
  for (const file of ["snippet.ts", "entries.ts", "tsconfig.json"]) rmSync(join(work, file));
  mkdirSync(join(work, "app/answer"), { recursive: true });
  write(
    "app/layout.tsx",
    "export default ({ children }) => <html><body>{children}</body></html>;".replace(
      "({ children })",
      "({ children }: { children: React.ReactNode })",
    ),
  );
  write("app/page.tsx", "export default () => null;");
  const handler = body.replace(/console\.log\((.+)\);/, "const answer = $1;");
  write(
    "app/answer/route.ts",
    `import ${names} from "bimedix";\nexport const dynamic = "force-dynamic";\nexport async function GET() {\n${handler}return new Response(answer);\n}\n`,
  );
  const program = join(work, "node_modules/next/dist/bin/next");
  const env = { ...process.env, NEXT_TELEMETRY_DISABLED: "1" };
  let port = 20_000 + (process.pid % 20_000);
  for (const bundler of ["--turbopack", "--webpack"])
    for (const external of [false, true])
      for (const command of ["start", "dev"]) {
        write("next.config.mjs", `export default ${external ? '{ serverExternalPackages: ["bimedix"] }' : "{}"};\n`);
        rmSync(join(work, ".next"), { recursive: true, force: true });
        if (command === "start") run(process.execPath, [program, "build", bundler], { env });
        port++;
        const args = [program, command, "--port", String(port), ...(command === "dev" ? [bundler] : [])];
        const server = spawn(process.execPath, args, { cwd: work, env, stdio: "ignore", detached: true });
        try {
          const answer = await ask(`http://127.0.0.1:${port}/answer`);
          console.log(`ok next ${command} ${bundler}${external ? ", external" : ""}: ${answer.slice(0, 80)} …`);
        } catch (error) {
          console.log(`not ok next ${command} ${bundler}${external ? ", external" : ""}: ${error.message}`);
          process.exitCode = 1;
        } finally {
          process.kill(-server.pid);
        }
      }
}

async function ask(url) {
  for (let attempt = 1; ; attempt++) {
    const response = await fetch(url).catch(() => undefined);
    if (response?.ok) return response.text();
    if (response || attempt === 60) throw new Error(response ? (await response.text()).slice(0, 2000) : "no server");
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
