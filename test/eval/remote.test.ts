/** A server as the engine: the scores are the local ones, and a server that does not score prompts is refused at once. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { RemoteEngine } from "../../src/engine/remote.js";
import { local_model, remote_model } from "../../src/eval/model.js";
import type { EvalModel } from "../../src/eval/run.js";
import { rejects, root } from "../fixtures.js";

type Answer = (body: Record<string, never>, response: ServerResponse, tokens: number[][]) => unknown;

describe("a remote engine", () => {
  const dir = join(root, "models/nano");
  let server: Server;
  let url: string;
  let local: EvalModel & { dispose: () => Promise<void> };
  let answer: Answer;
  let headers: IncomingMessage["headers"] = {};
  let calls = 0;

  /** What vLLM answers: the prompt's log-probabilities from the model, and one token more. */
  const completions: Answer = async (_, __, prompts) => {
    const choices = prompts.map(async (tokens, index) => {
      const requests = tokens.slice(1).map((token, i) => ({ context: tokens.slice(0, i + 1), continuation: [token] }));
      const scores = await local.engine.score(requests);
      const token_logprobs = [null, ...scores.map(({ logprob }) => logprob), -1];
      const top_logprobs = [
        null,
        ...scores.map(({ logprob, is_greedy }) => ({ x: is_greedy ? logprob : logprob + 1 })),
        {},
      ];
      return { index, logprobs: { token_logprobs, top_logprobs } };
    });
    return { choices: (await Promise.all(choices)).reverse() };
  };

  before(async () => {
    local = await local_model(dir, { dtype: "fp32" });
    answer = completions;
    server = createServer(async (request, response) => {
      headers = request.headers;
      calls++;
      if (request.url === "/v1/models")
        return response.end(JSON.stringify({ data: [{ id: "nano", max_model_len: 900 }, { id: "other" }] }));
      let text = "";
      for await (const chunk of request) text += chunk;
      const body = JSON.parse(text);
      const result = await answer(body, response, body.prompt);
      if (!response.writableEnded) response.end(JSON.stringify(result));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1#nano`;
  });
  after(async () => {
    server.close();
    await local.dispose();
  });

  const connect = () => RemoteEngine.connect(url, [1, 50, 60, 70], { api_key: "key", batch: 2 });
  const requests = [
    { context: [1, 50, 60], continuation: [70, 80] },
    { context: [1, 50, 60], continuation: [71] },
    { context: [1, 90], continuation: [3, 4, 5] },
  ];

  test("scores are the model's own, in the order of the requests", async () => {
    const engine = await connect();
    const [scores, expected] = [await engine.score(requests), await local.engine.score(requests)];
    for (const [i, { logprob, is_greedy }] of scores.entries()) {
      assert.ok(Math.abs(logprob - expected[i]!.logprob) < 1e-4);
      assert.equal(is_greedy, expected[i]!.is_greedy);
    }
    assert.equal(headers.authorization, "Bearer key");
  });

  test("long prompts are sent in fewer at a time", async () => {
    const engine = await RemoteEngine.connect(url, [1, 50, 60, 70], { batch: 16, concurrency: 1 });
    const sizes: number[] = [];
    answer = async (_, __, prompts) => {
      sizes.push(prompts.length);
      const one = ({ length }: number[]) => ({ token_logprobs: [null, ...Array(length).fill(-1)], top_logprobs: null });
      return { choices: prompts.map((tokens, index) => ({ index, logprobs: one(tokens) })) };
    };
    const long = (length: number) => ({ context: Array<number>(length - 1).fill(5), continuation: [6] });
    const scores = await engine.score([...Array(20).fill(long(10_000)), long(70_000), ...Array(17).fill(long(9))]);
    answer = completions;
    assert.deepEqual(sizes, [6, 6, 6, 2, 1, 16, 1]);
    assert.deepEqual(new Set(scores.map(({ logprob }) => logprob)), new Set([-1]));
  });

  test("an evaluation sees the server's name and length", async () => {
    const model = await remote_model(url, { tokenizer: dir });
    assert.equal(model.name, "nano");
    assert.equal(model.max_length, 899);
    assert.equal(model.info.engine, "openai-completions");
  });

  test("a server's model whose tokenizer is not found asks for --tokenizer", async () => {
    process.env.HF_HUB_OFFLINE = "1";
    await rejects(remote_model(url), "offline", /"nano".*--tokenizer/);
    delete process.env.HF_HUB_OFFLINE;
  });

  const wrong: [string, Answer, RegExp][] = [
    [
      "ignores echo",
      (_, __, prompts) => ({ choices: prompts.map(() => ({ logprobs: { token_logprobs: [-1] } })) }),
      /echo/,
    ],
    ["gives no logprobs", (_, __, prompts) => ({ choices: prompts.map(() => ({ logprobs: null })) }), /of 0 tokens/],
    ["gives one choice for all", () => ({ choices: [] }), /0 choices for 1 prompts/],
    [
      "gives null within the prompt",
      (_, __, prompts) => ({
        choices: prompts.map((ids) => ({ logprobs: { token_logprobs: [...ids, 0].map(() => null) } })),
      }),
      /missing or not numbers/,
    ],
    ["does not answer in JSON", (_, response) => response.end("<html>"), /does not answer in JSON/],
    [
      "wants a key",
      (_, response) => {
        response.statusCode = 401;
        response.end("no");
      },
      /401.*OPENAI_API_KEY/,
    ],
  ];
  for (const [what, bad, message] of wrong) {
    test(`a server that ${what} is refused before the first question`, async () => {
      answer = bad;
      await rejects(connect(), "server_refused", message).finally(() => {
        answer = completions;
      });
    });
  }

  test("a failure of the moment is tried again", async () => {
    let failures = 2;
    answer = (...given) => {
      if (failures-- <= 0) return completions(...given);
      given[1].statusCode = 503;
      return given[1].end("busy");
    };
    const before_calls = calls;
    await connect();
    assert.equal(calls - before_calls, 4);
    answer = completions;
  });

  test("several models need a name, and a stop is a stop", async () => {
    const [base] = url.split("#");
    await rejects(RemoteEngine.model_id(base!), "server_refused", /serves 2 models; expected one of: nano, other/);
    await rejects(RemoteEngine.model_id(`${base}#third`), "server_refused", /does not serve third/);
    const engine = await connect();
    await rejects(engine.score(requests, { signal: AbortSignal.abort() }), "aborted", /stopped/);
  });
});
