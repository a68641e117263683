/**
 * Every request of this program to the outside goes through `http_fetch`, which takes the proxy that the environment names.
 * Node's own fetch reads none of these variables; Bun's and Deno's do, each in its way, so the choice is made here, as httpx makes it
 * (https://www.python-httpx.org/environment_variables/), and undici, which Node's fetch is made of, does the transport.
 */
import { BlockList, isIP } from "node:net";
import type { Dispatcher } from "undici";
import { BimedixError } from "./errors.js";

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The proxy for a URL, or null: HTTP_PROXY or HTTPS_PROXY by its scheme, else ALL_PROXY; in lower case they win, even when empty.
 * Local addresses are like any other: what must not go through the proxy stands in NO_PROXY.
 * @throws BimedixError bad_option when the variable is not the URL of an HTTP proxy
 */
export function proxy_for(url: string | URL, env: Environment = process.env): URL | null {
  const { protocol, hostname, port } = new URL(url);
  const scheme = protocol.slice(0, -1);
  const [name, text] = [variable(scheme, env), variable("all", env)].find(([, value]) => value !== "") ?? [];
  if (!name || !text) return null;
  const [, hosts] = variable("no", env);
  const target = { host: hostname.replace(/^\[|\]$/g, ""), port: port || (scheme === "https" ? "443" : "80"), scheme };
  if (hosts.split(",").some((entry) => exempts(entry.trim().toLowerCase(), target))) return null;
  const proxy = parse_url(text);
  if (proxy && /^https?:$/.test(proxy.protocol)) return proxy;
  throw new BimedixError("bad_option", {
    given: `${name} is ${proxy ? `a ${proxy.protocol.slice(0, -1)} proxy` : "not a URL"}`,
    expected: "http://HOST:PORT or https://HOST:PORT",
    todo: "set it to an HTTP proxy, or unset it",
  });
}

function parse_url(text: string): URL | null {
  try {
    return new URL(text.includes("://") ? text : `http://${text}`);
  } catch {
    return null;
  }
}

function variable(scheme: string, env: Environment): [name: string, value: string] {
  const lower = `${scheme}_proxy`;
  const upper = lower.toUpperCase();
  const own = env[lower];
  if (own !== undefined) return [lower, own.trim()];
  // A CGI server puts the client's header `Proxy:` into HTTP_PROXY (CVE-2016-1000110).
  if (scheme === "http" && env.REQUEST_METHOD !== undefined) return [upper, ""];
  return [upper, env[upper]?.trim() ?? ""];
}

/** Whether an entry of NO_PROXY names the target: `*`, a host and those below it, `.domain`, an address, a subnet, each with a port or not. */
function exempts(entry: string, target: { host: string; port: string; scheme: string }): boolean {
  if (entry === "*") return true;
  const [, scheme, rest = ""] = /^(?:([a-z]+):\/\/)?(.*?)\/*$/.exec(entry)!;
  if (rest === "" || (scheme && scheme !== "all" && scheme !== target.scheme)) return false;
  const subnet = /^([\d.]+)\/(\d+)$/.exec(rest);
  if (subnet && isIP(target.host) === 4) return in_subnet(target.host, subnet[1]!, Number(subnet[2]));
  const [, bracketed, plain, port] = /^(?:\[(.*)\]|(.*?))(?::(\d+))?$/.exec(isIP(rest) === 6 ? `[${rest}]` : rest)!;
  if (port && port !== target.port) return false;
  const host = bracketed ?? plain!;
  if (scheme || isIP(host) || host === "localhost") return host === target.host;
  const domain = host.replace(/^\*?\./, "");
  return target.host.endsWith(`.${domain}`) || (domain === host && target.host === host);
}

function in_subnet(host: string, network: string, bits: number): boolean {
  try {
    const list = new BlockList();
    list.addSubnet(network, bits, "ipv4");
    return list.check(host);
  } catch {
    return false;
  }
}

/** Callers end a request by its signal; and a connection that is kept may be closed by the other side just when a question is sent. */
const PATIENT = { headersTimeout: 0, bodyTimeout: 0, pipelining: 0 };
const dispatchers = new Map<string, Dispatcher>();

/** `fetch`, through the environment's proxy. */
export async function http_fetch(url: string | URL, init: RequestInit = {}): Promise<Response> {
  const proxy = proxy_for(url);
  if (!Object.keys(process.env).some((name) => /^(https?|all)_proxy$/i.test(name))) return fetch(url, init);
  const undici = await import("undici");
  const key = proxy?.href ?? "";
  let dispatcher = dispatchers.get(key);
  if (!dispatcher) {
    // A plain request is forwarded and not tunnelled, as browsers, curl and httpx do it: many proxies tunnel to port 443 alone.
    const options = proxy && { ...address(proxy), proxyTunnel: false, clientFactory: tunnels(undici.Pool), ...PATIENT };
    dispatcher = options ? new undici.ProxyAgent(options) : new undici.Agent(PATIENT);
    dispatchers.set(key, dispatcher);
  }
  // Under Bun, undici is Bun's own fetch, which takes `proxy` and `timeout` and no dispatcher.
  const options = { ...init, dispatcher, ...(proxy ? { proxy: proxy.href, timeout: false } : {}) };
  return (undici.fetch as unknown as typeof fetch)(url, options as RequestInit);
}

/** undici tries again without end where a proxy closes the connection instead of answering; an error of another class ends that. */
function tunnels(Pool: typeof import("undici").Pool) {
  return (origin: URL, options: object): Dispatcher => {
    const pool = new Pool(origin, options);
    const connect = pool.connect.bind(pool) as (options: Dispatcher.ConnectOptions) => Promise<Dispatcher.ConnectData>;
    const once = (options: Dispatcher.ConnectOptions) =>
      connect(options).catch((error: unknown) => {
        throw new Error("no tunnel", { cause: error });
      });
    return Object.assign(pool, { connect: once }) as Dispatcher;
  };
}

function address(proxy: URL): { uri: string; token?: string } {
  const { username, password, origin } = proxy;
  if (!username && !password) return { uri: origin };
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
  return { uri: origin, token: `Basic ${Buffer.from(credentials).toString("base64")}` };
}

/**
 * Why a request found nobody, in words that a person can act on; the URL's own host says who was asked. What `lasts` is a matter of
 * set-up, and is the same at the next try.
 */
export function network_failure(error: unknown, url: string | URL): { why: string; lasts: boolean } {
  let deepest = error as Error & { code?: string };
  while (deepest.cause instanceof Error) deepest = deepest.cause as typeof deepest;
  const proxy = proxy_for(url);
  const through = proxy ? ` through the proxy ${proxy.host}` : "";
  const { code = "", message } = deepest;
  if (/CERT|SELF_SIGNED|UNABLE_TO_(GET|VERIFY)|certificate/i.test(`${code} ${message}`)) {
    const remedy = "a certificate that is not known here; name its authority's file in NODE_EXTRA_CA_CERTS";
    return { why: `${code || message}${through}: ${remedy}`, lasts: true };
  }
  if (/407|Proxy Authentication/i.test(message)) {
    const why = `the proxy ${proxy?.host ?? ""} asks for a name and password: http://NAME:PASSWORD@HOST:PORT`;
    return { why, lasts: true };
  }
  return { why: `${message || code || "no network"}${through}`, lasts: false };
}
