/*
What a newcomer does first, on the runtime that runs this file: the README's first command, its snippet for applications, a chat over HTTP
and a short training. Run: node scripts/first_contact.mjs (or bun, or deno run -A); npm run test:runtimes runs it on all.
*/
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root, setup } from "./setup.mjs";

setup();
const readme = readFileSync(join(root, "README.md"), "utf8");
const main = join(root, "dist/src/cli/main.js");
const work = mkdtempSync(join(tmpdir(), "bimedix-first-contact-"));

/** Runs a script with this runtime until it ends. */
async function run(script, args, env = {}) {
  const child = spawn(process.execPath, [script, ...args], { cwd: root, env: { ...process.env, ...env } });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"]) child[name].on("data", (data) => (text[name] += data));
  child.stdin.end();
  const status = await new Promise((resolve) => child.on("close", resolve));
  assert.equal(status, 0, `${script} ${args.join(" ")} ended with ${status}\n${text.stdout}${text.stderr}`);
  assert.doesNotMatch(text.stderr, /^\s+at /m, "a stack on stderr");
  return text;
}

const checks = {
  async "the README's first command"() {
    const [, question] = /^npm start -- "(.+)"$/m.exec(readme);
    const { stdout } = await run(join(root, "scripts/start.mjs"), [question]);
    assert.ok(stdout.trim().length > 20, `answered ${JSON.stringify(stdout)}`);
  },
  async "the README's snippet"() {
    const [, snippet] = /```ts\n([\s\S]+?)```/.exec(readme);
    // Inside the package its own name means itself, as it does where it is installed.
    const file = join(root, "dist/readme_snippet.mjs");
    writeFileSync(file, snippet);
    const { stdout } = await run(file, []);
    const [, question] = /tokenizer\("(.+)"\)/.exec(snippet);
    assert.ok(stdout.startsWith(question) && stdout.trim().length > question.length, stdout);
  },
  async "a chat over HTTP"() {
    const server = spawn(process.execPath, [main, "serve", "--port", "0"], { stdio: ["ignore", "pipe", "pipe"] });
    const ended = new Promise((resolve) => server.on("close", resolve));
    try {
      const url = await new Promise((resolve, reject) => {
        let text = "";
        for (const stream of [server.stdout, server.stderr])
          stream.on("data", (data) => {
            text += data;
            const [found] = /http:\/\/[^/\s]+\/v1/.exec(text) ?? [];
            if (found) resolve(found);
          });
        ended.then(() => reject(new Error(`the server ended\n${text}`)));
      });
      const body = {
        model: "bimedix-nano",
        messages: [{ role: "user", content: "مرحبا" }],
        max_tokens: 8,
        stream: true,
      };
      const headers = { "content-type": "application/json" };
      const response = await fetch(`${url}/chat/completions`, { method: "POST", headers, body: JSON.stringify(body) });
      const events = await response.text();
      assert.equal(response.status, 200, events);
      assert.match(events, /"content":"[^"]+"[\s\S]+data: \[DONE\]/);
    } finally {
      // Under Deno a child that was ended by its own kill() counts as ended by the signal, also where it handled that and ended in good order.
      if (server.exitCode === null) process.kill(server.pid, "SIGTERM");
    }
    assert.equal(await ended, 0, "the server's exit code after SIGTERM");
  },
  async "the README's training, two steps of it"() {
    const [, recipe] = /^npm start -- train (recipes\/\S+)/m.exec(readme);
    const output = join(work, "run");
    await run(main, ["train", recipe, "num_epochs=~", "max_steps=2", `output_dir=${output}`]);
    assert.ok(readdirSync(output).includes("adapter_model.safetensors"), readdirSync(output).join(" "));
  },
};

const { bun, deno, node } = process.versions;
const runtime = bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${node}`;
let failed = 0;
for (const [name, check] of Object.entries(checks)) {
  const start = Date.now();
  try {
    await check();
    console.log(`ok ${runtime}: ${name} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed++;
    console.log(`not ok ${runtime}: ${name}\n${error.message}`);
  }
}
rmSync(work, { recursive: true });
console.log(`${Object.keys(checks).length - failed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
