/**
 * Templates and `apply_chat_template` against transformers 5.17 (tools/make_chat_fixtures.py), where characters came from, and
 * what a template may not take.
 */
import assert from "node:assert/strict";
import { copyFile, mkdir, mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, test } from "node:test";
import { BimedixError } from "../../src/errors.js";
import type { ApplyOptions } from "../../src/text/apply_chat_template.js";
import {
  type ChatMessage,
  plain_messages,
  render_chat,
  render_with_answers,
  render_with_spans,
} from "../../src/text/chat.js";
import { fallback_template } from "../../src/text/prompts.js";
import { load_tokenizer } from "../../src/text/tokenizer.js";
import { root } from "../fixtures.js";

type Failed = { error: string };
interface Fixture {
  chat: ChatMessage[];
  tools: object[];
  rendered: Record<string, { template: string; text?: string; generation?: [number, number][]; error?: string }>;
  calls: { messages: ChatMessage[]; options: ApplyOptions; result: unknown }[];
  folders: {
    name: string;
    files: Record<string, unknown>;
    default: string | Failed;
    tools: string | Failed;
    rag: string | Failed;
  }[];
}

const nano = join(root, "models/nano");
const fixture = JSON.parse(await readFile(join(root, "test/fixtures/chat_templates.json"), "utf8")) as Fixture;
const special_tokens = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>" };
const options = { special_tokens, add_generation_prompt: true };
const user = (content: string): ChatMessage => ({ role: "user", content });
const assistant = (content: string): ChatMessage => ({ role: "assistant", content });
const refuses = (code: string, pattern: RegExp) => (error: unknown) =>
  error instanceof BimedixError && error.code === code && pattern.test(error.message);

describe("a template says what it says in transformers", () => {
  for (const [name, { template, text, generation, error }] of Object.entries(fixture.rendered)) {
    test(name, () => {
      const run = () =>
        render_with_spans(template, fixture.chat, {
          ...options,
          tools: name === "tojson" ? fixture.tools : null,
          variables: { flag: true },
          now: () => new Date(2026, 2, 5, 9, 7, 3),
        });
      if (error !== undefined) return assert.throws(run, refuses("bad_template", /./));
      const rendered = run();
      assert.equal(rendered.text, text);
      const characters = (offset: number) => Array.from(rendered.text.slice(0, offset)).length;
      const spans = rendered.generation.map(({ start, end }) => [characters(start), characters(end)]);
      assert.deepEqual(spans, generation ?? []);
    });
  }
});

/** The tokenizer of models/nano with other files beside it; `config` goes into tokenizer_config.json. */
async function folder({ config, ...files }: { config: object; [file: string]: unknown }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "bimedix-"));
  await copyFile(join(nano, "tokenizer.json"), join(dir, "tokenizer.json"));
  const own = JSON.parse(await readFile(join(nano, "tokenizer_config.json"), "utf8")) as object;
  await writeFile(join(dir, "tokenizer_config.json"), JSON.stringify({ ...own, ...config }));
  for (const [file, content] of Object.entries(files)) {
    await mkdir(dirname(join(dir, file)), { recursive: true });
    await writeFile(join(dir, file), String(content));
  }
  return dir;
}

test("apply_chat_template gives the ids, masks, texts and errors of transformers", async () => {
  const tokenizer = await load_tokenizer(await folder({ config: { pad_token: "</s>" } }));
  for (const { messages, options, result } of fixture.calls) {
    const { add_generation_prompt = false, tokenize = true } = options;
    const given = { ...options, add_generation_prompt, ...(tokenize ? { return_dict: true } : {}) } as ApplyOptions;
    const run = () => tokenizer.apply_chat_template(messages, given as { return_dict: true });
    const label = JSON.stringify({ ...options, chat_template: undefined });
    if (Object.hasOwn(result as object, "error")) assert.throws(run, BimedixError, label);
    else if (typeof result === "string" || Array.isArray(result)) assert.deepEqual(run(), result, label);
    else {
      const { token_type_ids: _, ...expected } = result as Record<string, unknown>;
      assert.deepEqual(run(), expected, label);
    }
  }
});

test("a folder's template is the one that transformers takes", async () => {
  for (const { name, files, ...expected } of fixture.folders) {
    const { config: chat_template, ...others } = files;
    const tokenizer = await load_tokenizer(await folder({ config: { chat_template }, ...others }));
    const ask = (more: ApplyOptions): string | null => {
      try {
        return tokenizer.apply_chat_template([user("x")], { ...more, tokenize: false });
      } catch (error) {
        assert(error instanceof BimedixError && error.code === "bad_template");
        return null;
      }
    };
    const texts = [expected.default, expected.tools, expected.rag].map((one) => (typeof one === "string" ? one : null));
    assert.deepEqual([ask({}), ask({ tools: fixture.tools }), ask({ chat_template: "rag" })], texts, name);
  }
});

test("options that are not known are refused by name", async () => {
  const tokenizer = await load_tokenizer(nano);
  for (const name of ["return_tensors", "add_generation_promt", "enable_thinking"])
    assert.throws(
      () => tokenizer.apply_chat_template([user("x")], { [name]: "np" } as ApplyOptions),
      refuses("bad_option", new RegExp(name)),
    );
  const chat_template = "{{ messages[0].content if enable_thinking else 'no' }}";
  const chosen = { chat_template, chat_template_kwargs: { enable_thinking: true }, tokenize: false } as const;
  assert.equal(tokenizer.apply_chat_template([user("x")], chosen), "x");
});

test("a message passes through as it is, and plain messages are for every template", () => {
  const messages: ChatMessage[] = [
    { role: "developer", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] },
    { role: "assistant", content: null, tool_calls: [{ id: "1" }] },
  ]; // biome-ignore format: short
  assert.equal(
    render_chat("{{ messages }}", messages, options),
    "[{'role': 'developer', 'content': [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]}, " +
      "{'role': 'assistant', 'content': None, 'tool_calls': [{'id': '1'}]}]",
  );
  assert.deepEqual(plain_messages(messages.slice(0, 1)), [{ role: "system", content: "a\nb" }]);
});

test("what came from outside is known through every change", () => {
  const template =
    "{% for m in messages %}<{{ m.role }}>{{ (m.content|trim).split('|')[-1]|replace('x', 'yy')|upper }}</s>{% endfor %}{{ tools|tojson }}";
  const tools = [{ name: "</s>" }];
  const { text, outside, messages } = render_with_spans(template, [user(" a|</s>x "), assistant("b")], {
    ...options,
    tools,
  });
  assert.equal(text, '<user></S>YY</s><assistant>B</s>[{"name": "</s>"}]');
  const cut = ({ start, end }: { start: number; end: number }) => text.slice(start, end);
  assert.deepEqual(outside.map(cut), ["</S>", "B", "name", "</s>"]);
  assert.deepEqual(
    messages.map((span) => span && cut(span)),
    ["</S>", "B"],
  );
});

test("answers are found in one rendering, also where the last turn reads otherwise", () => {
  const conversation = [user("Q1"), assistant("A1 "), user("Q2"), assistant("A2")];
  const texts = (template: string) => {
    const wanted = (i: number) => conversation[i]!.role === "assistant";
    const { text, answers } = render_with_answers(
      template, conversation, { ...options, add_generation_prompt: false }, { ends_turn: ["</s>", "<|im_end|>"], wanted },
    ); // biome-ignore format: one line
    return answers.map(({ start, end, message }) => `${message}:${text.slice(start, end)}`);
  };
  assert.deepEqual(texts(fallback_template("mixtral", "mixtral").chat_template), ["1:A1 </s>", "3:A2</s>"]);
  assert.deepEqual(texts(fallback_template("llama-2", "llama").chat_template), ["1: A1 </s>", "3: A2 </s>"]);
  // Only the last question holds the instructions, and earlier thoughts are left out.
  const last =
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ 'Think. ' if loop.index0 >= loop.length - 2 }}{{ m.content }} [/INST]{% else %}{{ '<think>' if loop.last }}{{ m.content|trim }}<|im_end|>\n{% endif %}{% endfor %}";
  assert.deepEqual(texts(last), ["1:A1<|im_end|>", "3:<think>A2<|im_end|>"]);
  const generation =
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}.{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
  assert.deepEqual(texts(generation), ["1:A1 .", "3:A2."]);
});

describe("a template that takes too much is an error", () => {
  const grow = (name: string, start: string, step: string) =>
    `{% set ns = namespace(${name}=${start}) %}{% for i in range(60) %}{% set ns.${name} = ${step} %}{% endfor %}{{ ns.${name}|length }}`;
  const templates: Record<string, string> = {
    "doubles a list": grow("l", "[1, 2]", "ns.l + ns.l"),
    "replaces by more": grow("s", "'aaaa'", "ns.s|replace('a', 'aaaaaaaa')"),
    "joins itself": grow("s", "'ab'", "ns.s.join(ns.s)"),
    "nests in itself": grow("l", "[1]", "[ns.l, ns.l]").replace("|length", ""),
    "hashes itself": grow("t", "(1,)", "(ns.t, ns.t)").replace("ns.t|length", "{ns.t: 1}"),
    "indents without bound": "{{ 'a\nb'|indent(250000000) }}",
    pads: "{{ '%999999999d' % 1 }}",
    "pads otherwise": "{{ '{:>999999999}'.format(1) }}",
    repeats: "{{ 'a' * 999999999999 }}",
    "has large powers": "{{ 9 ** 99999999 }}",
    squares: grow("n", "3", "ns.n * ns.n"),
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "has a long range": "{% for i in range(1000000000) %}{% endfor %}",
    "calls itself": "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "opens parentheses": `{{ ${"(".repeat(50_000)}1${")".repeat(50_000)} }}`,
    "adds without end": `{{ 1${" + 1".repeat(40_000)} }}`,
    "is long": "x".repeat(300_000),
    "formats many fields": "{% set s = '%(' * 900000 %}{{ s % 1 }}",
  };
  for (const [name, template] of Object.entries(templates))
    test(name, () => assert.throws(() => render_chat(template, [user("x")], options), refuses("bad_template", /./)));
});

test("a long conversation takes no more than its share", () => {
  const content = "كلمة word ".repeat(100_000);
  const template = fallback_template("llama-2", "llama").chat_template;
  const messages = Array.from({ length: 41 }, (_, i) =>
    i % 2 === 0 ? user(i === 0 ? content : `q${i}`) : assistant("a"),
  );
  assert(render_chat(template, messages, options).length > content.length);
});

describe("templates that grow, nest or never end", () => {
  const loop = (body: string, start: string) =>
    `{% set ns = namespace(s=${start}) %}{% for i in range(60) %}{% set ns.s = ${body} %}{% endfor %}{{ ns.s|length }}`;
  const hostile: string[] = [
    loop("ns.s|replace('a', 'aaaaaaaaaa')", "'aaaaaaaaaa'"),
    loop("ns.s + ns.s", "[1, 2, 3, 4]"),
    loop("ns.s ~ ns.s", "'a'"),
    loop("[ns.s|join('b'), ns.s|join('c')]", "['a', 'b']"),
    "{{ 'a\nb'|indent(250000000) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ 'a'|center(10**9) }}{{ 'a'.ljust(10**9) }}",
    "{{ range(1000)|list|tojson(indent=10**8) }}",
    "{{ 10 ** (10 ** 10) }}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    `{{ ${"[".repeat(100_000)} }}`,
    "{% if 1 %}".repeat(100_000),
  ];
  for (const template of hostile)
    test(template.slice(0, 60), () =>
      assert.throws(() => render_with_spans(template, [user("hi")], options), refuses("bad_template", /./)),
    );

  test("what a person writes makes no template grow without end", () => {
    const template = "{% set s = messages[0].content %}{% for i in range(99) %}{{ s|replace('a', s) }}{% endfor %}";
    assert.throws(
      () => render_with_spans(template, [user("a".repeat(20_000))], options),
      refuses("bad_template", /too many steps|makes a text/),
    );
  });
});
