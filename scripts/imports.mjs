// Imports point one way, down this list, and never in a circle. Run: node scripts/imports.mjs
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { root } from "./setup.mjs";

/** A room may import from itself and from the rooms named here. Files in src/ itself, other than index.ts, are open to all. */
const rooms = {
  graph: [],
  text: [],
  data: ["text"],
  model: ["graph"],
  engine: ["text", "model", "graph"],
  assistant: ["engine", "text", "model"],
  eval: ["engine", "data", "text", "model"],
  train: ["data", "text", "model", "graph"],
  serve: ["assistant", "engine", "text"],
  cli: ["serve", "train", "eval", "assistant", "engine", "data", "text", "model"],
};

export function check_imports() {
  const source = join(root, "src");
  const files = readdirSync(source, { recursive: true }).filter((file) => file.endsWith(".ts"));
  const imports = new Map();
  const wrong = [];
  for (const file of files) {
    const text = readFileSync(join(source, file), "utf8");
    const found = [...text.matchAll(/(?:from|import\()\s*"(\.[^"]+)\.js"/g)].map(([, path]) =>
      relative(source, join(source, dirname(file), `${path}.ts`)),
    );
    imports.set(file, found);
    const [room, inside] = file.split(sep).length > 1 ? [file.split(sep)[0], true] : ["", false];
    if (!inside) continue;
    for (const target of found) {
      const to = target.includes(sep) ? target.split(sep)[0] : "";
      if (to && to !== room && !rooms[room]?.includes(to)) wrong.push(`src/${file} imports src/${target}`);
    }
  }
  const done = new Set();
  const visit = (file, path) => {
    if (path.includes(file)) return wrong.push(`a circle: ${[...path.slice(path.indexOf(file)), file].join(" → ")}`);
    if (done.has(file)) return;
    for (const target of imports.get(file) ?? []) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  if (wrong.length > 0) {
    console.error(`Imports against the direction of src/:\n  ${wrong.join("\n  ")}`);
    process.exit(1);
  }
}

if (process.argv[1]?.endsWith("imports.mjs")) check_imports();
