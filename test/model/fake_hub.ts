/** A local server that answers as the hub does, and badly when it is told to. */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const SHA = "a".repeat(40);
export const sha256 = (bytes: Buffer) => createHash("sha256").update(bytes).digest("hex");
export const git_hash = (bytes: Buffer) =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

export interface Answer {
  status: number;
  headers?: Record<string, string>;
  body?: string | Buffer;
}

export interface Asked {
  path: string;
  authorization: string | undefined;
  range: string | undefined;
  host: string | undefined;
}

export class FakeHub {
  files: Record<string, Buffer> = {};
  commit = SHA;
  /** Instead of the hub's answer. */
  fault: ((asked: Asked, response: ServerResponse) => Answer | "hang" | undefined) | null = null;
  /** The next download of weights ends after so many bytes. */
  cut_at: number | null = null;
  /** The next download of weights has other bytes. */
  spoil = false;
  ignore_ranges = false;
  /** Milliseconds between 30,000 bytes of weights. */
  slow = 0;
  log: Asked[] = [];
  readonly server = createServer((request, response) => this.answer(request, response));
  url = "";

  async start(): Promise<void> {
    this.server.listen(0, "127.0.0.1");
    await new Promise((resolve) => this.server.once("listening", resolve));
    this.url = `http://127.0.0.1:${this.port}`;
  }

  get port(): number {
    return (this.server.address() as AddressInfo).port;
  }

  stop(): void {
    this.server.close();
    this.server.closeAllConnections();
  }

  /** A fresh start for the next test. */
  reset(files: Record<string, Buffer>): void {
    Object.assign(this, { files: { ...files }, commit: SHA, fault: null, cut_at: null, spoil: false });
    Object.assign(this, { ignore_ranges: false, slow: 0, log: [] });
  }

  /** Ranges that were asked of a file, "" for the whole. */
  asked_of(file: string): string[] {
    return this.log.filter(({ path }) => path.endsWith(`/${file}`)).map(({ range }) => range ?? "");
  }

  private answer(request: IncomingMessage, response: ServerResponse): unknown {
    const { authorization, range, host } = request.headers;
    const url = new URL(request.url!, "http://hub");
    const asked = { path: decodeURIComponent(url.pathname), authorization, range, host };
    this.log.push(asked);
    const send = ({ status, headers = { "content-type": "application/json" }, body = "{}" }: Answer) => {
      response.writeHead(status, headers);
      response.end(body);
    };
    const fault = this.fault?.(asked, response);
    if (fault === "hang") return;
    if (fault) return send(fault);
    const tree = /^\/api\/(?:model|dataset)s\/[^/]+\/[^/]+\/tree\/\w+(?:\/(.*))?$/.exec(asked.path);
    if (tree) return send({ status: 200, body: JSON.stringify(this.list(tree[1] ?? "")) });
    const about = {
      id: "org/name",
      sha: this.commit,
      siblings: Object.keys(this.files).map((rfilename) => ({ rfilename })),
    };
    if (/^\/api\/\w+s\//.test(asked.path)) return send({ status: 200, body: JSON.stringify(about) });
    const path = asked.path.split(`/resolve/${this.commit}/`)[1] ?? "";
    const bytes = this.files[path];
    if (bytes) return this.send_file(bytes, path.endsWith(".safetensors"), range, response);
    send({ status: 404, headers: { "x-error-code": "EntryNotFound" } });
  }

  /** As the hub lists a folder: its files, and the folders in it. */
  private list(folder: string): unknown[] {
    const below = folder ? `${folder}/` : "";
    const paths = Object.keys(this.files).filter((path) => path.startsWith(below));
    const names = new Set(paths.map((path) => below + path.slice(below.length).split("/")[0]!));
    return [...names].map((path) => {
      const bytes = this.files[path];
      if (!bytes) return { type: "directory", path, oid: "0".repeat(40), size: 0 };
      const lfs = path.endsWith(".safetensors")
        ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 100 } }
        : {};
      return { type: "file", path, size: bytes.length, oid: git_hash(bytes), ...lfs };
    });
  }

  private send_file(bytes: Buffer, weights: boolean, range: string | undefined, response: ServerResponse): unknown {
    const from = range && !this.ignore_ranges ? Number(/^bytes=(\d+)-$/.exec(range)![1]) : 0;
    if (from >= bytes.length && bytes.length > 0) return response.writeHead(416).end();
    const partial = { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` };
    response.writeHead(from ? 206 : 200, { "content-length": bytes.length - from, ...(from ? partial : {}) });
    if (!weights) return response.end(bytes.subarray(from));
    const { cut_at, spoil } = this;
    Object.assign(this, { cut_at: null, spoil: false });
    if (spoil) return response.end(Buffer.alloc(bytes.length - from));
    if (cut_at !== null)
      return response.write(bytes.subarray(from, cut_at), () => setTimeout(() => response.destroy(), 50));
    if (!this.slow) return response.end(bytes.subarray(from));
    let at = from;
    const timer = setInterval(() => {
      response.write(bytes.subarray(at, (at += 30_000)));
      if (at >= bytes.length) response.end();
    }, this.slow);
    response.on("close", () => clearInterval(timer));
  }
}
