/** Jinja's lexer with `trim_blocks` and `lstrip_blocks`, as transformers sets them. */
import { charge, STEP, TemplateError } from "./budget.js";
import { SPACE, Text } from "./text.js";

export interface Token {
  type: "data" | "begin" | "end" | "print" | "name" | "string" | "integer" | "float" | "operator" | "eof";
  value: string;
  line: number;
}

const s = `[${SPACE}]*`;
const root = new RegExp(
  `(?<raw>\\{%(?<raw_sign>[-+]?)${s}raw${s}(?:-%\\}${s}|%\\}))|(?<open>\\{[%{#])(?<sign>[-+]?)`,
  "g",
);
const comment_end = new RegExp(`\\+#\\}|-#\\}${s}|#\\}\\n?`, "g");
const raw_end = new RegExp(`\\{%(?<sign>[-+]?)${s}endraw${s}(?:\\+%\\}|-%\\}${s}|%\\}\\n?)`, "g");
const block_end = new RegExp(`\\+%\\}|-%\\}${s}|%\\}\\n?`, "y");
const print_end = new RegExp(`-\\}\\}${s}|\\}\\}`, "y");
const inside: readonly [Token["type"] | "space", RegExp][] = [
  ["space", new RegExp(`[${SPACE}]+`, "y")],
  ["float", /(?<!\.)(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy],
  ["integer", /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy],
  ["name", /[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*/uy],
  ["string", /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy],
  ["operator", /\/\/|\*\*|==|!=|>=|<=|[-+*/%~[\](){}<>=.:|,;]/y],
];
const closing: Record<string, string> = { "{": "}", "(": ")", "[": "]" };

/** @throws TemplateError for what Jinja's lexer refuses */
export function tokenize(template: string): Token[] {
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let counted = 0;
  const push = (type: Token["type"], value: string, position: number): void => {
    charge(STEP);
    for (; counted < position; counted++) if (source[counted] === "\n") line++;
    tokens.push({ type, value, line });
  };
  const find = (pattern: RegExp, from: number): RegExpExecArray | null => {
    pattern.lastIndex = from;
    return pattern.exec(source);
  };
  /** The text before a tag. */
  const data = (end: number, sign: string, lstrip: boolean): void => {
    let text = source.slice(at, end);
    if (sign === "-") text = new Text(text).strip(null, 2).value;
    else if (sign !== "+" && lstrip) {
      const start = text.lastIndexOf("\n") + 1;
      const starts_line = at === 0 || source[at - 1] === "\n";
      if ((start > 0 || starts_line) && text.length > start && new Text(text.slice(start)).strip(null, 1).value === "")
        text = text.slice(0, start);
    }
    if (text !== "") push("data", text, at);
  };
  while (at < source.length) {
    const tag = find(root, at);
    if (!tag) {
      push("data", source.slice(at), at);
      break;
    }
    const { raw, raw_sign, open, sign } = tag.groups!;
    data(tag.index, raw === undefined ? sign! : raw_sign!, open !== "{{");
    at = tag.index + tag[0].length;
    if (raw !== undefined) {
      const end = find(raw_end, at) ?? fail("Missing end of raw directive", line);
      data(end.index, end.groups!.sign!, true);
      at = end.index + end[0].length;
    } else if (open === "{#") {
      const end = find(comment_end, at) ?? fail("Missing end of comment tag", line);
      at = end.index + end[0].length;
    } else {
      const block = open === "{%";
      push(block ? "begin" : "print", open!, at);
      at = expression(source, at, block ? block_end : print_end, push);
    }
  }
  push("eof", "end of template", source.length);
  return tokens;
}

/** The tokens of one tag. Returns where it ends. */
function expression(
  source: string,
  start: number,
  end: RegExp,
  push: (type: Token["type"], value: string, position: number) => void,
): number {
  const open: string[] = [];
  let at = start;
  next: while (at < source.length) {
    end.lastIndex = at;
    const ended = open.length === 0 ? end.exec(source) : null;
    if (ended) {
      push("end", ended[0], at);
      return at + ended[0].length;
    }
    for (const [type, pattern] of inside) {
      pattern.lastIndex = at;
      const value = pattern.exec(source)?.[0];
      if (value === undefined) continue;
      if (type === "operator") {
        if (closing[value]) open.push(closing[value]);
        else if (")]}".includes(value) && open.pop() !== value) fail(`unexpected '${value}'`, line_at(source, at));
      }
      if (type === "string")
        push(
          type,
          unescape_string(value.slice(1, -1), () => line_at(source, at)),
          at,
        );
      else if (type !== "space")
        push(type, type === "integer" || type === "float" ? value.replaceAll("_", "") : value, at);
      at += value.length;
      continue next;
    }
    fail(`unexpected char ${JSON.stringify(source[at])}`, line_at(source, at));
  }
  push("eof", "end of template", at);
  return at;
}

const line_at = (source: string, at: number) => source.slice(0, at).split("\n").length;

const escapes: Record<string, string> = {
  "\n": "", "\\": "\\", "'": "'", '"': '"', a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v",
}; // biome-ignore format: a table

/** Python's escapes; an unknown one stays as it is. */
function unescape_string(text: string, line: () => number): string {
  if (!text.includes("\\")) return text;
  return text.replace(/\\(?:x(.{0,2})|u(.{0,4})|U(.{0,8})|([0-7]{1,3})|(.))/gs, (all, x, u, long, octal, one) => {
    if (octal !== undefined) return String.fromCharCode(Number.parseInt(octal, 8));
    if (one !== undefined)
      return one === "N" ? fail("a character by its name (\\N) is not supported", line()) : (escapes[one] ?? all);
    const hex: string = x ?? u ?? long;
    const length = x !== undefined ? 2 : u !== undefined ? 4 : 8;
    const code = Number.parseInt(hex, 16);
    if (hex.length !== length || /[^\da-f]/i.test(hex) || code > 0x10ffff)
      fail(`truncated or wrong escape ${all}`, line());
    return String.fromCodePoint(code);
  });
}

export const fail = (problem: string, line: number): never => {
  throw new TemplateError(`${problem} in line ${line}`);
};
