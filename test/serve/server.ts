/** A server for tests, with the embedded model unless told otherwise, on a port of its own; and requests as raw bytes. */
import { connect } from "node:net";
import { join } from "node:path";
import { Log, type RunningServer, type ServerOptions, start_server } from "../../src/serve/index.js";
import { root } from "../fixtures.js";

export const nano = join(root, "models/nano");

export interface TestServer {
  server: RunningServer;
  url: string;
  /** The log's lines so far. */
  lines: Record<string, unknown>[];
  post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<Response>;
}

export async function start(options: Partial<ServerOptions> = {}): Promise<TestServer> {
  const lines: Record<string, unknown>[] = [];
  const server = await start_server({
    model: nano,
    name: "nano",
    pretrained: { dtype: "q8", threads: 1 },
    port: 0,
    version: "test",
    log: new Log((line) => void lines.push(JSON.parse(line))),
    ...options,
  });
  await server.ready;
  const post: TestServer["post"] = (path, body, headers = {}) =>
    fetch(server.url + path, {
      method: "POST",
      headers: { "content-type": "application/json", ...headers },
      body: typeof body === "string" || body instanceof Uint8Array ? (body as string) : JSON.stringify(body),
    });
  return { server, url: server.url, lines, post };
}

/** Sends bytes as they are and returns all that comes back until the server closes. */
export function raw(url: string, bytes: string | Buffer, { wait = 10_000 } = {}): Promise<string> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    let answer = "";
    const timer = setTimeout(() => socket.destroy(new Error(`no answer in ${wait} ms: ${answer}`)), wait);
    socket.on("data", (data) => {
      answer += data.toString();
    });
    // A server that refuses a body closes while it is still being sent.
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EPIPE" && error.code !== "ECONNRESET") reject(error);
    });
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.write(bytes);
  });
}
