/** A folder whose files a target damages, one at a time. */

import { rmSync, writeFileSync } from "node:fs";
import { copyFile, mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";

export class Folder {
  private constructor(readonly path: string) {}

  /** A new one, with copies of `files` of another folder; it goes when the tests of the file have ended. */
  static async make(from = "", files: readonly string[] = []): Promise<Folder> {
    const folder = new Folder(await mkdtemp(join(tmpdir(), "bimedix-fuzz-")));
    after(() => rmSync(folder.path, { recursive: true, force: true }));
    for (const file of files) await copyFile(join(from, file), join(folder.path, file));
    return folder;
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** Bytes and texts as they are, another value as JSON. */
  write(name: string, content: unknown): string {
    const plain = typeof content === "string" || content instanceof Uint8Array;
    writeFileSync(this.file(name), plain ? content : JSON.stringify(content));
    return this.file(name);
  }
}
