/** Log-probabilities beside the text that they belong to. */
import assert from "node:assert/strict";
import { after, before, describe, type TestContext, test } from "node:test";
import type { GeneratedToken } from "../../src/engine/engine.js";
import { TokenBytes } from "../../src/serve/logprobs.js";
import { start, type TestServer } from "./server.js";

interface Entry {
  token: string;
  logprob: number;
  bytes: number[];
}
interface Choice {
  message: { content: string };
  delta: { content?: string };
  logprobs: { content: (Entry & { top_logprobs: Entry[] })[] };
  finish_reason: string | null;
}

let at: TestServer;
before(async () => {
  at = await start();
});
after(() => at.server.stop(1));

const chat = (extra: object) => ({
  model: "nano",
  messages: [{ role: "user", content: "ما هي أعراض الربو؟" }],
  max_tokens: 24,
  temperature: 0,
  logprobs: true,
  top_logprobs: 3,
  ...extra,
});
const choices_of = async (response: Response): Promise<Choice[]> => {
  const text = await response.text();
  assert.equal(response.status, 200, text);
  if (!text.startsWith("data:")) return (JSON.parse(text) as { choices: Choice[] }).choices;
  const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
  return events.flatMap((event) => (JSON.parse(event.slice(6)) as { choices: Choice[] }).choices);
};
const joined = (entries: readonly Entry[]) => Buffer.concat(entries.map(({ bytes }) => Buffer.from(bytes))).toString();

describe("a chat's log-probabilities", () => {
  /** What the model writes, each token with a logprob of -1 and likelier ones beside it. */
  let ids: number[] = [];
  const writes_ids = (t: TestContext) =>
    t.mock.method(
      at.server.service.find_local().assistant.model.engine,
      "generate",
      async function* (): AsyncGenerator<GeneratedToken> {
        const top = [0.1, 0.2, 0.3].map((n, i) => ({ token_id: 20 + i, logprob: -n }));
        for (const token_id of ids) yield { sequence: 0, token_id, logprob: -1, top };
      },
    );

  test("join to the content, in one piece and as a stream, for all texts and characters of several tokens", async (t) => {
    const { tokenizer } = at.server.service.find_local().assistant;
    writes_ids(t);
    for (const text of [
      "Asthma is a disease.",
      "الربو مرض مزمن",
      "👩‍⚕️ naïve ﷺ 体",
      "  two spaces",
      "\n\nlines\n",
      "x",
    ]) {
      ids = tokenizer.encode(text, { add_special_tokens: false });
      for (const stream of [false, true]) {
        const choices = await choices_of(await at.post("/v1/chat/completions", chat({ stream })));
        const content = choices.map(({ message, delta }) => (message ?? delta).content ?? "").join("");
        const entries = choices.flatMap(({ logprobs }) => logprobs?.content ?? []);
        assert.equal(joined(entries), content, `${text} ${stream}`);
        // Only the space that a tokenizer puts in front may be a token without text.
        assert.ok(entries.length > 0 && entries.slice(1).every(({ bytes }) => bytes.length > 0), text);
        // A character of several tokens has a name for each, and its bytes.
        for (const { token, bytes } of entries)
          assert.ok(/^<0x[0-9A-F]{2}>$/.test(token) || token === Buffer.from(bytes).toString() || bytes.length === 0);
        assert.equal(content.trimStart(), text.trimStart());
      }
    }
  });

  test("join to what is left before a stop text, also where it ends within a token", async (t) => {
    const { tokenizer } = at.server.service.find_local().assistant;
    writes_ids(t);
    ids = tokenizer.encode("Asthma is a disease of the lungs.", { add_special_tokens: false });
    for (const stop of ["disease", "sease", "a dis", "thma", " is", "lungs.", "of th", "Asthma"])
      for (const stream of [false, true]) {
        const choices = await choices_of(await at.post("/v1/chat/completions", chat({ stop, stream })));
        const content = choices.map(({ message, delta }) => (message ?? delta).content ?? "").join("");
        assert.equal(content, "Asthma is a disease of the lungs.".split(stop)[0]);
        assert.equal(joined(choices.flatMap(({ logprobs }) => logprobs?.content ?? [])), content, `${stop} ${stream}`);
        assert.equal(choices.at(-1)!.finish_reason, "stop");
      }
  });

  test("hold the token itself among the likeliest, under the same text; none with 0, as in OpenAI's API", async (t) => {
    const sampled = chat({ temperature: 1.8, seed: 4, top_logprobs: 2, max_tokens: 40 });
    const [{ logprobs }] = (await choices_of(await at.post("/v1/chat/completions", sampled))) as [Choice];
    const counts = new Set<number>();
    for (const { token, logprob, bytes, top_logprobs } of logprobs.content) {
      counts.add(top_logprobs.length);
      const own = top_logprobs.find((one) => one.token === token && String(one.bytes) === String(bytes));
      assert.equal(own?.logprob, logprob);
    }
    assert.deepEqual([...counts].sort(), [2, 3]);
    for (const top_logprobs of [0, undefined]) {
      const [choice] = await choices_of(await at.post("/v1/chat/completions", chat({ top_logprobs })));
      assert.ok(choice!.logprobs.content.every((one) => one.top_logprobs.length === 0 && one.logprob <= 0));
    }
    // A control token within an answer has a name and no bytes.
    writes_ids(t);
    ids = [1, 300, 1];
    const [choice] = await choices_of(await at.post("/v1/chat/completions", chat({})));
    assert.deepEqual(
      choice!.logprobs.content.map(({ token, bytes }) => [token, bytes.length > 0]),
      [
        ["<s>", false],
        [choice!.message.content, true],
        ["<s>", false],
      ],
    );
  });

  test("a space that ends up in no text belongs to no token", () => {
    const bytes = (text: string) => Buffer.from(text);
    const token = (text: string) => ({
      token_id: 1,
      logprob: -1,
      top: [],
      offset: 0,
      bytes: bytes(text) as Uint8Array,
    });
    const tokens = new TokenBytes();
    tokens.push(token(" "), "");
    tokens.push(token("A"), "A");
    assert.deepEqual(
      tokens.end().map((one) => Buffer.from(one.bytes).toString()),
      ["", "A"],
    );
  });
});

test("a completion's text_offset counts code points; its likeliest hold the token itself, of one text the likeliest", async (t) => {
  const { tokenizer, model } = at.server.service.find_local().assistant;
  const prompt = "👩‍⚕️ الربو";
  const ids = tokenizer.encode("👩 x", { add_special_tokens: false });
  t.mock.method(model.engine, "generate", async function* (): AsyncGenerator<GeneratedToken> {
    // The letter A, and the byte that is its name in the vocabulary, have one text.
    const [letter, byte] = [tokenizer.convert_tokens_to_ids("A")!, tokenizer.convert_tokens_to_ids("<0x41>")!];
    for (const token_id of ids)
      yield {
        sequence: 0,
        token_id,
        logprob: -3,
        top: [letter, byte].map((id, i) => ({ token_id: id!, logprob: -1 - i })),
      };
  });
  const body = { model: "nano", prompt, max_tokens: 9, logprobs: 2, echo: true, temperature: 0 };
  const answer = (await (await at.post("/v1/completions", body)).json()) as {
    choices: {
      text: string;
      logprobs: { tokens: string[]; text_offset: number[]; top_logprobs: (Record<string, number> | null)[] };
    }[];
  };
  const [{ text, logprobs }] = answer.choices as [(typeof answer.choices)[0]];
  const points = [...text];
  assert.equal(text, `${prompt} 👩 x`);
  assert.equal(logprobs.text_offset.at(-1), points.length - 2);
  assert.ok(logprobs.text_offset.every((offset, i) => i === 0 || offset >= logprobs.text_offset[i - 1]!));
  assert.equal(points.slice(logprobs.text_offset.at(-1)).join(""), " x");
  const own = logprobs.top_logprobs.at(-1)!;
  assert.deepEqual(own, { A: -1, [logprobs.tokens.at(-1)!]: -3 });
});

test("echo alone gives the whole prompt, also where its last character has several tokens", async () => {
  const prompt = "gout 😀😀";
  for (const logprobs of [undefined, 0]) {
    const body = { model: "nano", prompt, max_tokens: 0, echo: true, logprobs };
    const answer = (await (await at.post("/v1/completions", body)).json()) as { choices: Echoed[] };
    const [{ text, logprobs: logged }] = answer.choices as [(typeof answer.choices)[0]];
    assert.equal(text, prompt);
    // Each token begins where its character does.
    if (logged) assert.deepEqual(logged.text_offset.slice(-8), [5, 5, 5, 5, 6, 6, 6, 6]);
  }
});

interface Echoed {
  text: string;
  logprobs: { text_offset: number[] } | null;
}
