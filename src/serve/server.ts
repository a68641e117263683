/** `bimedix serve`: an HTTP server around a service, from its start to its end. */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { getRequestListener } from "@hono/node-server";
import { BimedixError } from "../errors.js";
import { ApiError } from "./api_error.js";
import { type AppOptions, create_app } from "./app.js";
import { bound_connections, in_order } from "./connections.js";
import { Log } from "./log.js";
import { Metrics } from "./metrics.js";
import { read_page } from "./page.js";
import { Hosts, is_loopback, Keys, keep_host, security_headers } from "./security.js";
import { Service, type ServiceOptions } from "./service.js";

export interface ServerOptions extends Omit<ServiceOptions, "log"> {
  /** Default 127.0.0.1. Any other address asks for API keys. */
  host?: string;
  /** Default 8000; 0 takes a free one. */
  port?: number;
  /** Left out, nobody is asked for one; an empty list is refused. */
  api_keys?: readonly string[];
  /** Further names under which the service may be addressed; `*` allows all. */
  allow_hosts?: readonly string[];
  /** Bytes of a body. Default 2 MiB. */
  body_limit?: number;
  /** Seconds in which a request has to arrive whole; its headers have at most 10 of them. Default 30. */
  request_timeout?: number;
  /** Seconds in which a client takes nothing of its answer before its connection is ended. Default 60. */
  send_timeout?: number;
  /** Write prompts and answers into the log. Default false. */
  log_prompts?: boolean;
  log?: Log;
  version: string;
}

/** A server that listens; the model may still be loading. */
export class RunningServer {
  constructor(
    readonly service: Service,
    private readonly http: Server,
    readonly url: string,
    /** Resolves when the model is loaded. */
    readonly ready: Promise<void>,
  ) {}

  private ending: Promise<void> | undefined;

  /** Ends it: requests that are here have `grace` seconds. However often it is called, it is done once. */
  stop(grace: number): Promise<void> {
    this.ending ??= this.end(grace);
    return this.ending;
  }

  private async end(grace: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.http.close(() => resolve()));
    this.http.closeIdleConnections();
    await this.service.stop(grace);
    // The last events are on their way.
    await new Promise((resume) => setTimeout(resume, 50));
    this.http.closeAllConnections();
    await closed;
  }
}

/** An address to listen on: an IPv6 one may stand in the brackets that it has in a URL. */
const address_of = (host: string) => host.replace(/^\[(.*)\]$/, "$1");

/** @throws BimedixError bad_option */
function check_options({ host = "127.0.0.1", port = 8000, api_keys }: ServerOptions): void {
  if (!(Number.isInteger(port) && port >= 0 && port <= 65535))
    throw new BimedixError("bad_option", {
      given: `port ${port}`,
      expected: "a whole number from 0 to 65535",
      todo: "choose another; 0 takes a free one",
    });
  if (api_keys === undefined && !is_loopback(host))
    throw new BimedixError("bad_option", {
      given: `host ${host} without an API key`,
      expected: "a key as soon as others can reach the server",
      todo: "give --api-key-file, or leave --host out",
    });
}

/** What is no request that has a URL, such as `OPTIONS *`. */
const bad_request = () => {
  const { status, body } = new ApiError(400, "bad_request", "This is not a request for a path of this server.");
  return Response.json(body, { status, headers: security_headers });
};

/** Answers what is not a request, or not a whole one. */
function refuse(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === "ECONNRESET") return void socket.destroy();
  const [status, reason, code, message] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? [431, "Request Header Fields Too Large", "headers_too_large", "The headers are larger than 16 KiB."]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? [408, "Request Timeout", "request_timeout", "The request did not come to its end in time."]
        : [400, "Bad Request", "bad_request", "This is not an HTTP request."];
  const body = JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code } });
  const head = `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}`;
  socket.end(`${head}\r\nconnection: close\r\n\r\n${body}`);
}

/** @throws BimedixError bad_option when the port is taken, or when it would be open to others without a key */
export async function start_server(options: ServerOptions): Promise<RunningServer> {
  check_options(options);
  const { port = 8000, api_keys, allow_hosts = [], request_timeout = 30, log = new Log() } = options;
  const host = address_of(options.host ?? "127.0.0.1");
  const metrics = new Metrics();
  const service = new Service({ ...options, log });
  const app_options: AppOptions = {
    service,
    metrics,
    log,
    keys: api_keys === undefined ? null : new Keys(api_keys),
    hosts: new Hosts([host, ...allow_hosts]),
    body_limit: options.body_limit ?? 2 ** 21,
    log_prompts: options.log_prompts ?? false,
    send_timeout: 1000 * (options.send_timeout ?? 60),
    version: options.version,
    page: await read_page(),
  };
  const listener = getRequestListener(create_app(app_options).fetch, { errorHandler: bad_request });
  const handle = in_order((incoming, outgoing) => {
    keep_host(incoming);
    void listener(incoming, outgoing);
  });
  const http = await new Promise<Server>((resolve, reject) => {
    const server = createServer(
      {
        maxHeaderSize: 2 ** 14,
        headersTimeout: 1000 * Math.min(10, request_timeout),
        requestTimeout: 1000 * request_timeout,
        // Longer than clients and proxies keep an idle connection (nginx: 60 s), so that they and not this end close it: a request that
        // crosses the closing is lost.
        keepAliveTimeout: 75_000,
        connectionsCheckingInterval: 1000,
        // Node's own answer to a request without a host has no body.
        requireHostHeader: false,
      },
      handle,
    );
    bound_connections(server);
    server.on("clientError", refuse);
    // What a request expects beside 100-continue is no reason to refuse it, without a body as Node would.
    server.on("checkExpectation", handle);
    server.listen(port, host, () => resolve(server));
    server.on("error", (error: NodeJS.ErrnoException) => {
      // Later ones are of connections that could not be taken, for want of file descriptors: they end no server.
      if (server.listening) return log.write("error", "connection refused", { error: error.message });
      const taken = error.code === "EADDRINUSE";
      reject(
        new BimedixError(
          "bad_option",
          {
            given: `${host}:${port}, ${taken ? "where another program listens" : `which cannot be listened on (${error.code})`}`,
            expected: "a free port of this machine",
            todo: "choose another --port",
          },
          error,
        ),
      );
    });
  });
  const { port: actual } = http.address() as AddressInfo;
  const ready = service.load();
  ready.catch(() => {});
  const name = host.includes(":") ? `[${host.replace("%", "%25")}]` : host;
  return new RunningServer(service, http, `http://${name}:${actual}`, ready);
}
