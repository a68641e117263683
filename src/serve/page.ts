/**
 * The web page, read once into memory: its modules as the compiler wrote them and the two libraries that they import, named by an
 * import map. So there is no bundler, and nothing comes from elsewhere.
 */
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { security_headers } from "./security.js";

export interface PageFile {
  body: Uint8Array<ArrayBuffer>;
  headers: Record<string, string>;
}

const types: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
};

/** What the page's modules import by name, and where the package keeps it. */
const libraries: Record<string, string> = {
  preact: "preact/dist/preact.module.js",
  "preact/hooks": "preact/hooks/dist/hooks.module.js",
  "preact/jsx-runtime": "preact/jsx-runtime/dist/jsxRuntime.module.js",
  marked: "marked/lib/marked.esm.js",
};

/** This file runs as dist/src/serve/page.js. */
const root = fileURLToPath(new URL("../../..", import.meta.url));

/** The files of the page by their paths. */
export async function read_page(): Promise<Map<string, PageFile>> {
  const files = new Map<string, PageFile>();
  const add = (path: string, body: Buffer, more: Record<string, string> = {}) => {
    const type = types[path === "/" ? ".html" : extname(path)]!;
    files.set(path, {
      body: new Uint8Array(body),
      headers: { "content-type": type, "cache-control": "no-cache", ...more },
    });
  };
  const modules = join(root, "dist/web");
  for (const name of await readdir(modules))
    if (name.endsWith(".js")) add(`/web/${name}`, await readFile(join(modules, name)));
  add("/web/style.css", await readFile(join(root, "web/style.css")));
  const imports: Record<string, string> = {};
  for (const [name, file] of Object.entries(libraries)) {
    imports[name] = `/lib/${name.replaceAll("/", "-")}.js`;
    // A package says only by its entry where it lies.
    const [own] = file.split("/");
    const entry = fileURLToPath(import.meta.resolve(own!));
    const folder = entry.slice(0, entry.lastIndexOf(join("node_modules", own!)) + join("node_modules", own!).length);
    add(imports[name], await readFile(join(folder, file.slice(own!.length + 1))));
  }
  const map = JSON.stringify({ imports });
  const html = (await readFile(join(root, "web/index.html"), "utf8")).replace("IMPORTS", () => map);
  const hash = createHash("sha256").update(map).digest("base64");
  const policy = `${security_headers["content-security-policy"]}; script-src 'self' 'sha256-${hash}'`;
  add("/", Buffer.from(html), { "content-security-policy": policy });
  return files;
}
