/** Variables, ids and proxies as huggingface_hub and httpx read them: the values are theirs (tools/hub_reference.py). */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { BimedixError } from "../../src/errors.js";
import { cache_dir, endpoint, is_offline, timeouts, token } from "../../src/model/hub/environment.js";
import { parse_id } from "../../src/model/hub/ids.js";
import { proxy_for } from "../../src/net.js";
import { root } from "../fixtures.js";

interface Reference {
  home: string;
  environments: {
    env: Record<string, string>;
    cache: string;
    endpoint: string;
    offline: boolean;
    token: string | null;
  }[];
  ids: Record<string, boolean>;
  urls: string[];
  proxies: { env: Record<string, string>; chosen: (string | null)[] }[];
}
const reference = JSON.parse(await readFile(join(root, "test/fixtures/hub.json"), "utf8")) as Reference;
const before = { ...process.env };
const environment = (env: Record<string, string>) => {
  for (const name of Object.keys(process.env)) if (!(name in env)) delete process.env[name];
  Object.assign(process.env, env);
};
beforeEach(() => environment({ HOME: reference.home }));
afterEach(() => environment(before as Record<string, string>));

const one_line_error = (code: string, mentions: RegExp) => (error: unknown) =>
  error instanceof BimedixError && error.code === code && mentions.test(error.message);

test("the environment is read as huggingface_hub reads it", { skip: process.platform === "win32" && "paths" }, () => {
  for (const { env, ...expected } of reference.environments) {
    environment({ HOME: reference.home, ...env });
    // Its cache_dir is made absolute where it is used.
    const cache = expected.cache.startsWith("/") ? expected.cache : join(process.cwd(), expected.cache);
    const found = {
      cache: cache_dir(),
      endpoint: endpoint(),
      offline: is_offline("model"),
      token: token()?.value ?? null,
    };
    assert.deepEqual(found, { ...expected, cache }, JSON.stringify(env));
  }
});

test("data sets have a variable of their own; what is empty counts as unset; what makes no sense is refused by name", () => {
  process.env.HF_HUB_OFFLINE = "1";
  assert.equal(is_offline("dataset"), true);
  process.env.HF_DATASETS_OFFLINE = "0";
  assert.deepEqual([is_offline("dataset"), is_offline("model")], [false, true]);
  Object.assign(process.env, { HF_ENDPOINT: " ", HF_HOME: "", HF_HUB_ETAG_TIMEOUT: "3" });
  assert.equal(endpoint(), "https://huggingface.co");
  assert.equal(cache_dir(), join(reference.home, ".cache/huggingface/hub"));
  assert.deepEqual(timeouts(), { answer: 3000, bytes: 10_000 });
  process.env.HF_ENDPOINT = " https://hub.example/ \n";
  assert.equal(endpoint(), "https://hub.example");
  for (const [name, value, read] of [
    ["HF_ENDPOINT", "hub.example", endpoint],
    ["HF_ENDPOINT", "ftp://hub.example", endpoint],
    ["HF_DOWNLOAD", "", () => assert.fail("unreachable")],
    ["HF_HUB_DOWNLOAD_TIMEOUT", "soon", timeouts],
    ["HF_TOKEN", "hf_ü", token],
  ] as const) {
    if (value === "") continue;
    process.env[name] = value;
    assert.throws(read, one_line_error("bad_option", new RegExp(name)));
    delete process.env[name];
  }
});

test("ids are those that huggingface_hub accepts, and what looks like a path is called one", () => {
  for (const [name, valid] of Object.entries(reference.ids)) {
    // `name@revision` is ours; huggingface_hub has it in hf:// addresses alone.
    if (name === "a@b") continue;
    const read = () => parse_id(name, "model");
    if (valid) assert.deepEqual(read(), { type: "model", name, revision: "main" });
    else assert.throws(read, one_line_error("file_not_found", /./), JSON.stringify(name));
  }
  for (const path of ["./models/nano", "../x", "/x/y", "~/x", "C:\\x", "C:/x", "a\\b", "models/nano/", ".hidden"])
    assert.throws(() => parse_id(path, "model"), one_line_error("file_not_found", /directory .* does not exist/), path);
  assert.throws(() => parse_id("~/x", "model"), one_line_error("file_not_found", /whole path/));
  assert.throws(() => parse_id("a/b/c", "model"), one_line_error("file_not_found", /more than one \//));
  assert.throws(
    () => parse_id("https://huggingface.co/org/name/tree/main", "model"),
    one_line_error("file_not_found", /pass org\/name/),
  );
});

test("a revision stands in the id or in the options, and is one that git may have", () => {
  for (const revision of ["main", "v1.0", "refs/pr/12", "feature/a-b", "refs/convert/parquet", "a".repeat(40)]) {
    assert.deepEqual(parse_id(`org/name@${revision}`, "model"), { type: "model", name: "org/name", revision });
    assert.equal(parse_id("org/name", "model", revision).revision, revision);
  }
  for (const revision of ["", "../x", "a..b", "/x", "a b", "-x", ".x", "a/.b", "x.lock", "a:b", "a?b"])
    assert.throws(() => parse_id(`org/name@${revision}`, "model"), one_line_error("bad_option", /revision/), revision);
  assert.throws(() => parse_id("org/name@a", "model", "b"), one_line_error("bad_option", /one revision/));
});

test("the proxy is the one that httpx chooses", () => {
  for (const { env, chosen } of reference.proxies) {
    const found = reference.urls.map((url) => {
      const proxy = proxy_for(url, env);
      return proxy && `http://${proxy.hostname}:${proxy.port || 80}`;
    });
    // `http://host:80` reads the same with the port and without it.
    assert.deepEqual(
      found,
      chosen.map((proxy) => proxy?.replace(/:None$/, ":80") ?? null),
      JSON.stringify(env),
    );
  }
});

test("NO_PROXY also has subnets and *.domain, as requests and Node have them; a proxy that cannot be used is refused", () => {
  const env = { HTTP_PROXY: "http://p:1", HTTPS_PROXY: "http://p:1" };
  const exempt = (NO_PROXY: string, url: string) => proxy_for(url, { ...env, NO_PROXY }) === null;
  assert.deepEqual(
    ["http://10.1.2.3/", "http://10.2.0.1/", "https://huggingface.co/"].map((url) => exempt("10.1.0.0/16", url)),
    [true, false, false],
  );
  assert.deepEqual(
    [exempt("*.ward.example", "http://a.ward.example"), exempt("*.ward.example", "http://ward.example")],
    [true, false],
  );
  assert.deepEqual(
    [exempt("[::1]:80", "http://[::1]/"), exempt("a.b:443", "https://a.b/"), exempt("999.0.0.0/99", "http://1.1.1.1")],
    [true, true, false],
  );
  const refused = (HTTPS_PROXY: string, mentions: RegExp) =>
    assert.throws(() => proxy_for("https://a/", { HTTPS_PROXY }), one_line_error("bad_option", mentions));
  refused("socks5://127.0.0.1:1080", /HTTPS_PROXY is a socks5 proxy/);
  refused("http://", /HTTPS_PROXY is not a URL/);
});
