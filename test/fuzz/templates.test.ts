/** Damaged chat templates, and conversations that are hostile to whole ones. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ChatMessage, render_with_spans } from "../../src/text/chat.js";
import { root } from "../fixtures.js";
import { fuzz, type Target } from "./harness.js";
import { below, mutate_bytes, pick, type Random } from "./mutate.js";

interface Fixture {
  chat: ChatMessage[];
  rendered: Record<string, { template: string; text?: string }>;
}

const fixture: Fixture = JSON.parse(await readFile(join(root, "test/fixtures/chat_templates.json"), "utf8"));
const templates = Object.values(fixture.rendered).filter(({ text }) => text !== undefined);
const options = { special_tokens: { bos_token: "<s>", eos_token: "</s>" }, add_generation_prompt: true };

/** What makes a little into much, and what is nested or counted. */
const PARTS = [
  "{{ 'a' * 999999999 }}", "{{ '%999999999d' % 1 }}", "{{ 'x'|center(999999999) }}", "{{ s|replace('', s) }}", "{{ s.ljust(10**9) }}",
  "{% for i in range(100000) %}", "{% for m in messages %}", "{% endfor %}", "{% set ns.s = ns.s ~ ns.s %}", "{% if s %}", "{% endif %}",
  "{% set ns = namespace(s='aa', l=[1]) %}", "{% set ns.l = ns.l + ns.l %}", "{% set ns.l = [ns.l, ns.l] %}", "{{ ns.l|tojson(indent=9) }}",
  "{% set s = messages|string %}", "{{ s|indent(100000) }}", "{% set ns.s = ns.s|replace('a', 'aaaaaaaaaa') }}", "{{ ns.s|join(s) }}",
  "{{ 9 ** 9 ** 9 }}", "{{ 2 ** 9999 }}", "{% macro f(n) %}{{ f(n + 1) }}{{ f(n) }}{% endmacro %}", "{{ f(0) }}", "{{ s|sort|dictsort }}",
  "{{ ns.l|sort|unique|list }}", "{{ s|wordwrap(1) }}", "{{ s|urlize }}", "{{ s|striptags }}", "{{ s.split('a')|length }}", "(((((", "[[[[", "{{{",
]; // biome-ignore format: a list

function hostile(random: Random): string {
  return Array.from({ length: 2 + below(random, 12) }, () => pick(random, PARTS)).join("");
}

const TEXTS = ["a", " ", "{{ 1 }}", "{% raw %}", "\n", "\u0301", "</s>", "<", "[INST]", "\ud800", "\u0000", "<think>"];

const SAID = "a template decides what a model is told, and comes with the model: what it prints is its own affair";

const targets: Target[] = [
  {
    name: "chat templates",
    harmless: [[/^other text$/, SAID]],
    make: async () => (random) => {
      const { template, text } = pick(random, templates);
      const broken = mutate_bytes(Buffer.from(template), random);
      const made = random() < 0.3 ? hostile(random) : Buffer.from(broken.value).toString("utf8");
      return {
        detail: JSON.stringify(made.slice(0, 300)),
        work: () => {
          const rendered = render_with_spans(made, fixture.chat, { ...options, variables: { flag: true } });
          return rendered.text === text ? "same" : "other text";
        },
      };
    },
  },
  {
    name: "conversations under whole templates",
    harmless: [[/^rendered$/, "whatever a person writes is text"]],
    make: async () => (random) => {
      const { template } = pick(random, templates);
      const chat = fixture.chat.map((message) => {
        const content = pick(random, TEXTS).repeat(below(random, 3000));
        return random() < 0.5 ? message : { ...message, content };
      });
      return {
        detail: JSON.stringify(chat.map(({ content }) => String(content).slice(0, 8))),
        work: () => {
          const { text } = render_with_spans(template, chat, { ...options, variables: { flag: true } });
          return text === "" ? "nothing" : "rendered";
        },
      };
    },
  },
];

for (const target of targets) fuzz(target);
