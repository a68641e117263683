/** The hub through a proxy: forwarded and tunnelled, with a name and password, and with a certificate of the hospital's own. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile } from "node:fs/promises";
import { createServer, request as http_request, type Server } from "node:http";
import { createServer as create_tls_server } from "node:https";
import { type AddressInfo, connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { completion_event } from "../../src/engine/answers.js";
import { request } from "../../src/engine/http.js";
import { find_model } from "../../src/engine/remote_model.js";
import { resolve_tokenizer } from "../../src/model/hub.js";
import { http_fetch, network_failure } from "../../src/net.js";
import { rejects, root } from "../fixtures.js";
import { FakeHub } from "./fake_hub.js";

const tls = (name: string) => join(root, "test/fixtures/tls", name);
const port_of = (server: { address(): unknown }) => (server.address() as AddressInfo).port;
const files = { "config.json": Buffer.from("{}"), "tokenizer.json": Buffer.from("{ }") };

describe("proxies", () => {
  const hub = new FakeHub();
  /** What the proxy was asked for, with the name and password that came along. */
  let asked: string[];
  let demands: string | null;
  /** Instead of a tunnel. */
  let tunnel: string;
  let proxy: Server;
  let secure: Server;
  const sockets = new Set<Socket>();

  before(async () => {
    await hub.start();
    secure = create_tls_server({ key: await readFile(tls("key.pem")), cert: await readFile(tls("cert.pem")) });
    secure.on("request", (request, response) => hub.server.emit("request", request, response));
    proxy = createServer((request, response) => {
      const { pathname, host } = new URL(request.url!);
      asked.push(`${request.method} ${host} ${request.headers["proxy-authorization"] ?? ""}`.trim());
      if (demands && request.headers["proxy-authorization"] !== demands) return response.writeHead(407).end();
      if (host === "llm.test") return response.end(JSON.stringify({ data: [{ id: "nano" }] }));
      const forwarded = http_request(
        { port: hub.port, host: "127.0.0.1", path: pathname, headers: request.headers },
        (answer) => {
          response.writeHead(answer.statusCode!, answer.headers);
          answer.pipe(response);
        },
      );
      request.pipe(forwarded);
    });
    proxy.on("connect", (request, socket: Socket) => {
      asked.push(`CONNECT ${request.url} ${request.headers["proxy-authorization"] ?? ""}`.trim());
      if (tunnel) return tunnel === "closes" ? socket.destroy() : socket.end(tunnel);
      if (demands && request.headers["proxy-authorization"] !== demands) return socket.end("HTTP/1.1 407 no\r\n\r\n");
      const target = connect(port_of(secure), "127.0.0.1", () => {
        socket.write("HTTP/1.1 200 yes\r\n\r\n");
        target.pipe(socket).pipe(target);
      });
      for (const one of [target, socket]) sockets.add(one.on("error", () => {}));
    });
    for (const server of [proxy, secure]) await once(server.listen(0, "127.0.0.1"), "listening");
  });
  after(() => {
    hub.stop();
    for (const socket of sockets) socket.destroy();
    for (const server of [proxy, secure]) {
      server.close();
      server.closeAllConnections();
    }
  });
  beforeEach(async () => {
    for (const name of Object.keys(process.env))
      if (/^(HF|HUGGING|TRANSFORMERS|.*_PROXY)/i.test(name)) delete process.env[name];
    process.env.HF_HUB_CACHE = await mkdtemp(join(tmpdir(), "bimedix-hub-"));
    process.env.HF_ENDPOINT = "http://hub.test";
    hub.reset(files);
    asked = [];
    demands = null;
    tunnel = "";
  });

  test("a plain request is forwarded, with the name and password of the proxy's URL", async () => {
    process.env.HTTP_PROXY = `http://w%40rd:p%3Ass@127.0.0.1:${port_of(proxy)}`;
    demands = `Basic ${Buffer.from("w@rd:p:ss").toString("base64")}`;
    await resolve_tokenizer("org/name");
    assert.deepEqual(new Set(asked), new Set([`GET hub.test ${demands}`]));
    assert.deepEqual(new Set(hub.log.map(({ host }) => host)), new Set(["hub.test"]));
    assert.deepEqual(
      hub.log.map(({ path }) => path.split("/").at(-1)),
      ["main", hub.commit, ...Object.keys(files)],
    );
    process.env.HTTP_PROXY = `127.0.0.1:${port_of(proxy)}`;
    await rejects(resolve_tokenizer("org/other"), "offline", /proxy 127.0.0.1:\d+ asks for a name and password/);
  });

  test("what NO_PROXY names does not go through it, and what it does not name goes, local or not", async () => {
    process.env.HTTP_PROXY = `http://127.0.0.1:${port_of(proxy)}`;
    process.env.HF_ENDPOINT = hub.url;
    await resolve_tokenizer("org/name");
    assert.equal(asked[0], `GET 127.0.0.1:${hub.port}`);
    asked = [];
    process.env.NO_PROXY = "localhost,127.0.0.1";
    await resolve_tokenizer("org/name");
    assert.deepEqual(asked, []);
  });

  test("a model on another server is reached through it too", async () => {
    process.env.all_proxy = `http://127.0.0.1:${port_of(proxy)}`;
    assert.equal((await find_model("http://llm.test/v1", {})).id, "nano");
    assert.deepEqual(asked, ["GET llm.test"]);
    const sent = await request("http://llm.test/v1", "/completions", { prompt: "سؤال" }, completion_event, {});
    assert.deepEqual([sent, asked[1]], [{ data: [{ id: "nano" }] }, "POST llm.test"]);
    demands = "nobody has it";
    await rejects(find_model("http://llm.test/v1", {}), "server_refused", /proxy .* asks for a name and password/);
  });

  /** In a process of its own, since certificates are read at its start. */
  async function download(env: Record<string, string>): Promise<string> {
    const url = pathToFileURL(join(root, "dist/src/model/hub.js")).href;
    const code = `import { resolve_tokenizer } from ${JSON.stringify(url)};
      await resolve_tokenizer("org/name").then(() => console.log("done"), (error) => console.log(error.message));`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", code], { env: { ...process.env, ...env } });
    let text = "";
    child.stdout.on("data", (data) => (text += data));
    child.stderr.on("data", (data) => (text += data));
    await once(child, "close");
    return text;
  }

  test("a proxy that makes no tunnel is asked once, and named", async () => {
    process.env.https_proxy = `http://127.0.0.1:${port_of(proxy)}`;
    for (const answer of ["closes", "HTTP/1.1 407 no\r\n\r\n", "HTTP/1.1 502 no\r\n\r\n"]) {
      asked = [];
      tunnel = answer;
      await assert.rejects(http_fetch("https://hub.test/"), (error) => {
        const { why, lasts } = network_failure(error, "https://hub.test/");
        assert.match(why, new RegExp(`proxy 127.0.0.1:${port_of(proxy)}`));
        assert.equal(lasts, answer.includes("407"));
        return true;
      });
      assert.deepEqual(asked, ["CONNECT hub.test:443"]);
    }
  });

  test("https is tunnelled; a certificate that is not known is named with its remedy, and known it works", async () => {
    process.env.HF_ENDPOINT = "https://hub.test";
    process.env.HTTPS_PROXY = `http://ward:secret@127.0.0.1:${port_of(proxy)}`;
    demands = `Basic ${Buffer.from("ward:secret").toString("base64")}`;
    // One after the other: the first would find what the second leaves in the cache.
    const unknown = await download({});
    const known = await download({ NODE_EXTRA_CA_CERTS: tls("authority.pem") });
    assert.match(unknown, /UNABLE_TO_VERIFY_LEAF_SIGNATURE.*NODE_EXTRA_CA_CERTS/);
    assert.equal(known, "done\n");
    assert.deepEqual(new Set(asked), new Set([`CONNECT hub.test:443 ${demands}`]));
    assert.ok(hub.log.some(({ path }) => path.endsWith("/tokenizer.json")));
  });
});
