/** Jinja's grammar with the tags that transformers adds: `generation`, `break`, `continue`. */
import { fail, type Token, tokenize } from "./lexer.js";
import type { Arguments, Binary, Comparison, Node, Signature, Statement, Target } from "./nodes.js";

/** @throws TemplateError for what Jinja refuses, and for tags that load other templates */
export const parse = (template: string): Statement[] => new Parser(tokenize(template)).template();

const DEPTH = 200;
const comparisons = new Set(["==", "!=", "<", "<=", ">", ">="]);

class Parser {
  private at = 0;
  private depth = 0;
  private loops = 0;
  private reads = new Set<string>();

  constructor(private readonly tokens: readonly Token[]) {}

  template(): Statement[] {
    return this.statements([]);
  }

  private get token(): Token {
    return this.tokens[this.at]!;
  }

  private fail(problem: string): never {
    return fail(problem, this.token.line) as never;
  }

  /** Whether the next token is this operator or word. */
  private is(value: string, type: Token["type"] = "operator", ahead = 0): boolean {
    const token = this.tokens[this.at + ahead];
    return token?.type === type && token.value === value;
  }

  private word(value: string, ahead = 0): boolean {
    return this.is(value, "name", ahead);
  }

  private skip(value: string, type: Token["type"] = "operator"): boolean {
    const found = this.is(value, type);
    if (found) this.at++;
    return found;
  }

  private expect(value: string, type: Token["type"] = "operator"): void {
    if (!this.skip(value, type)) this.fail(`expected '${value}', got '${this.token.value}'`);
  }

  private expect_end(): void {
    if (this.token.type !== "end") this.fail(`expected the end of the tag, got '${this.token.value}'`);
    this.at++;
  }

  private name(): string {
    if (this.token.type !== "name") this.fail(`expected a name, got '${this.token.value}'`);
    return this.tokens[this.at++]!.value;
  }

  private deeper<T>(parse: () => T): T {
    if (++this.depth > DEPTH) this.fail("nests too deeply");
    const result = parse();
    this.depth--;
    return result;
  }

  /** Up to a tag that begins with one of `ends`, which is left to the caller. */
  private statements(ends: readonly string[]): Statement[] {
    return this.deeper(() => {
      const body: Statement[] = [];
      for (;;) {
        const { type, value } = this.token;
        if (type === "eof") {
          if (ends.length > 0) this.fail(`unexpected end of template, expected ${ends.join(" or ")}`);
          return body;
        }
        this.at++;
        if (type === "data") body.push({ type: "text", value });
        else if (type === "print") {
          body.push({ type: "print", value: this.tuple() });
          this.expect_end();
        } else {
          if (this.token.type === "name" && ends.includes(this.token.value)) return body;
          body.push(...this.statement());
          this.expect_end();
        }
      }
    });
  }

  /** The statements of a tag up to one of `ends`, which is taken. Returns them and that end. */
  private body(...ends: string[]): [Statement[], string] {
    this.skip(":");
    this.expect_end();
    const body = this.statements(ends);
    return [body, this.name()];
  }

  private in_loop<T>(loops: number, parse: () => T): T {
    const before = this.loops;
    this.loops = loops;
    const result = parse();
    this.loops = before;
    return result;
  }

  private statement(): Statement[] {
    const tag = this.name();
    switch (tag) {
      case "for":
        return [this.for_loop()];
      case "if":
        return [this.if_else()];
      case "set":
        return [this.assignment()];
      case "with":
        return [this.with_block()];
      case "macro": {
        const name = this.name();
        return [{ type: "macro", macro: this.signature(name, "endmacro") }];
      }
      case "call":
        return [this.call_block()];
      case "filter": {
        const filter = this.filters(null, true);
        const [body] = this.in_loop(0, () => this.body("endfilter"));
        return [{ type: "filter_block", filter: filter!, body }];
      }
      case "generation": {
        const [body] = this.in_loop(0, () => this.body("endgeneration"));
        return [{ type: "generation", body }];
      }
      case "block": {
        this.name();
        while (this.skip("scoped", "name") || this.skip("required", "name"));
        const [body] = this.in_loop(0, () => this.body("endblock"));
        if (this.token.type === "name") this.at++;
        return [{ type: "scope", body }];
      }
      case "autoescape": {
        const value = this.expression();
        if (value.type !== "constant" || value.value !== false) this.fail("only autoescape false is supported");
        return [{ type: "scope", body: this.body("endautoescape")[0] }];
      }
      case "print": {
        const prints: Statement[] = [];
        while (this.token.type !== "end") {
          if (prints.length > 0) this.expect(",");
          prints.push({ type: "print", value: this.expression() });
        }
        return prints;
      }
      case "break":
      case "continue":
        if (this.loops === 0) this.fail(`'${tag}' outside a loop`);
        return [{ type: tag }];
      default:
        return this.fail(`unknown tag '${tag}'`);
    }
  }

  private for_loop(): Statement {
    const target = this.target(false, "in");
    this.expect("in", "name");
    const list = this.tuple(false, "recursive");
    const filter = this.skip("if", "name") ? this.expression() : null;
    const recursive = this.skip("recursive", "name");
    const [body, end] = this.in_loop(this.loops + 1, () => this.body("endfor", "else"));
    const otherwise = end === "else" ? this.body("endfor")[0] : [];
    return { type: "for", target, list, filter, recursive, body, otherwise };
  }

  private if_else(): Statement {
    const branches: { test: Node | null; body: Statement[] }[] = [];
    for (let end = "elif"; end !== "endif"; ) {
      const test: Node | null = end === "elif" ? this.tuple(false) : null;
      const [body, next] = test ? this.body("elif", "else", "endif") : this.body("endif");
      branches.push({ test, body });
      end = next;
    }
    return { type: "if", branches };
  }

  private assignment(): Statement {
    const target = this.target(true);
    if (this.skip("=")) return { type: "set", target, value: this.tuple() };
    const filter = this.filters(null);
    const [body] = this.in_loop(0, () => this.body("endset"));
    return { type: "set_block", target, filter, body };
  }

  private with_block(): Statement {
    const targets: Target[] = [];
    const values: Node[] = [];
    while (this.token.type !== "end") {
      if (targets.length > 0) this.expect(",");
      targets.push(this.target(false));
      this.expect("=");
      values.push(this.expression());
    }
    return { type: "with", targets, values, body: this.body("endwith")[0] };
  }

  private call_block(): Statement {
    const parameters = this.is("(") ? this.parameters() : undefined;
    const call = this.expression();
    if (call.type !== "call") this.fail("expected a call");
    return { type: "call_block", call, caller: this.signature("caller", "endcall", parameters ?? [[], []]) };
  }

  private signature(name: string, end: string, parsed?: [string[], Node[]]): Signature {
    const outer = this.reads;
    this.reads = new Set();
    const [parameters, defaults] = parsed ?? this.parameters();
    const [body] = this.in_loop(0, () => this.body(end));
    const reads = this.reads;
    this.reads = outer;
    for (const read of reads) outer.add(read);
    return { name, parameters, defaults, reads, body };
  }

  private parameters(): [string[], Node[]] {
    const parameters: string[] = [];
    const defaults: Node[] = [];
    this.expect("(");
    while (!this.is(")")) {
      if (parameters.length > 0) this.expect(",");
      parameters.push(this.name());
      if (this.skip("=")) defaults.push(this.expression());
      else if (defaults.length > 0) this.fail("a parameter without a default after one with a default");
    }
    this.expect(")");
    return [parameters, defaults];
  }

  /** What is assigned to: a name, names, or with `set` an attribute of a namespace. */
  private target(namespaces: boolean, until?: string): Target {
    const items: Target[] = [];
    let is_tuple = false;
    do {
      if ((until && this.word(until)) || this.token.type === "end" || this.is(")")) break;
      if (this.skip("(")) {
        items.push(this.target(namespaces));
        this.expect(")");
      } else {
        const name = this.name();
        if (/^([Tt]rue|[Ff]alse|[Nn]one)$/.test(name)) this.fail(`'${name}' cannot be assigned to`);
        items.push(
          namespaces && this.skip(".")
            ? { type: "attribute_of", name, attribute: this.name() }
            : { type: "name", name },
        );
      }
      is_tuple ||= this.is(",");
    } while (this.skip(","));
    if (items.length === 0) this.fail(`expected a name, got '${this.token.value}'`);
    return is_tuple ? { type: "tuple", items } : items[0]!;
  }

  /** Expressions with commas between are a tuple. */
  private tuple(conditions = true, until?: string, in_parentheses = false): Node {
    const items: Node[] = [];
    let is_tuple = false;
    for (;;) {
      if (items.length > 0) this.expect(",");
      if (this.token.type === "end" || this.is(")") || (until && this.word(until))) break;
      items.push(conditions ? this.expression() : this.deeper(() => this.or()));
      if (!this.is(",")) break;
      is_tuple = true;
    }
    if (is_tuple || (items.length === 0 && in_parentheses)) return { type: "tuple", items };
    return items[0] ?? this.fail(`expected an expression, got '${this.token.value}'`);
  }

  private expression(): Node {
    return this.deeper(() => {
      let node = this.or();
      while (this.skip("if", "name")) {
        const test = this.or();
        node = { type: "condition", test, yes: node, no: this.skip("else", "name") ? this.expression() : null };
      }
      return node;
    });
  }

  private or(): Node {
    let left = this.and();
    while (this.skip("or", "name")) left = { type: "or", left, right: this.and() };
    return left;
  }

  private and(): Node {
    let left = this.not();
    while (this.skip("and", "name")) left = { type: "and", left, right: this.not() };
    return left;
  }

  private not(): Node {
    if (this.skip("not", "name")) return this.deeper(() => ({ type: "not", operand: this.not() }));
    return this.comparison();
  }

  private comparison(): Node {
    const first = this.sum();
    const rest: [Comparison, Node][] = [];
    for (;;) {
      const { type, value } = this.token;
      if (type === "operator" && comparisons.has(value)) this.at++;
      else if (this.word("in")) this.at++;
      else if (this.word("not") && this.word("in", 1)) this.at += 2;
      else break;
      rest.push([value === "not" ? "not in" : (value as Comparison), this.sum()]);
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  private binary(operators: readonly Binary[], operand: () => Node): Node {
    let left = operand();
    while (this.token.type === "operator" && operators.includes(this.token.value as Binary)) {
      const operator = this.token.value as Binary;
      this.at++;
      left = { type: "binary", operator, left, right: operand() };
    }
    return left;
  }

  private sum(): Node {
    return this.binary(["+", "-"], () => this.concat());
  }

  private concat(): Node {
    const parts = [this.product()];
    while (this.skip("~")) parts.push(this.product());
    return parts.length === 1 ? parts[0]! : { type: "concat", parts };
  }

  private product(): Node {
    return this.binary(["*", "/", "//", "%"], () => this.binary(["**"], () => this.unary()));
  }

  private unary(filters = true): Node {
    const sign = this.skip("-") ? "negative" : this.skip("+") ? "positive" : null;
    const node: Node = sign ? { type: sign, operand: this.deeper(() => this.unary(false)) } : this.primary();
    const full = this.postfix(node);
    return filters ? this.filters_and_tests(full) : full;
  }

  private primary(): Node {
    const { type, value } = this.token;
    if (type === "name") {
      this.at++;
      if (value === "true" || value === "True") return { type: "constant", value: true };
      if (value === "false" || value === "False") return { type: "constant", value: false };
      if (value === "none" || value === "None") return { type: "constant", value: null };
      this.reads.add(value);
      return { type: "name", name: value };
    }
    if (type === "string") {
      let text = "";
      while (this.token.type === "string") text += this.tokens[this.at++]!.value;
      return { type: "constant", value: text };
    }
    if (type === "integer" || type === "float") {
      this.at++;
      return { type: "constant", value: type === "integer" ? BigInt(value) : Number(value) };
    }
    if (this.skip("(")) {
      const node = this.deeper(() => this.tuple(true, undefined, true));
      this.expect(")");
      return node;
    }
    if (this.skip("[")) return { type: "list", items: this.listed("]", () => this.expression()) };
    if (this.skip("{")) return { type: "dict", pairs: this.listed("}", () => this.pair()) };
    return this.fail(`unexpected '${value}'`);
  }

  private pair(): [Node, Node] {
    const key = this.expression();
    this.expect(":");
    return [key, this.expression()];
  }

  private listed<T>(end: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.is(end)) {
      if (items.length > 0) this.expect(",");
      if (this.is(end)) break;
      items.push(item());
    }
    this.expect(end);
    return items;
  }

  private postfix(node: Node): Node {
    for (;;) {
      if (this.skip(".")) {
        const { type, value } = this.token;
        if (type !== "name" && type !== "integer") this.fail("expected a name or a number");
        this.at++;
        node =
          type === "name"
            ? { type: "attribute", object: node, name: value }
            : { type: "item", object: node, key: { type: "constant", value: BigInt(value) } };
      } else if (this.skip("[")) {
        const keys: Node[] = [];
        while (!this.is("]")) {
          if (keys.length > 0) this.expect(",");
          keys.push(this.subscript());
        }
        this.expect("]");
        node = { type: "item", object: node, key: keys.length === 1 ? keys[0]! : { type: "tuple", items: keys } };
      } else if (this.is("(")) node = { type: "call", callee: node, args: this.args() };
      else return node;
    }
  }

  private subscript(): Node {
    const stands = () => !(this.is(":") || this.is("]") || this.is(","));
    const start = stands() ? this.expression() : null;
    if (!this.skip(":")) return start ?? this.fail("expected an index");
    const stop = stands() ? this.expression() : null;
    const step = this.skip(":") && stands() ? this.expression() : null;
    return { type: "slice", start, stop, step };
  }

  private filters_and_tests(node: Node): Node {
    for (;;) {
      if (this.is("|")) node = this.filters(node)!;
      else if (this.word("is")) node = this.test(node);
      else if (this.is("(")) node = { type: "call", callee: node, args: this.args() };
      else return node;
    }
  }

  private dotted(): string {
    let name = this.name();
    while (this.skip(".")) name += `.${this.name()}`;
    return name;
  }

  /** A chain of filters; `inline` where the first has no bar in front. */
  private filters(operand: Node | null, inline = false): Node | null {
    let node = operand;
    while (inline || this.skip("|")) {
      inline = false;
      const name = this.dotted();
      node = { type: "filter", operand: node, name, args: this.is("(") ? this.args() : no_arguments() };
    }
    return node;
  }

  private test(operand: Node): Node {
    this.expect("is", "name");
    const negated = this.skip("not", "name");
    const name = this.dotted();
    let args = no_arguments();
    const { type } = this.token;
    if (this.is("(")) args = this.args();
    else if (
      (["name", "string", "integer", "float"].includes(type) || this.is("[") || this.is("{")) &&
      !(this.word("else") || this.word("or") || this.word("and"))
    ) {
      if (this.word("is")) this.fail("tests with 'is' cannot be chained");
      args = { ...args, positional: [this.postfix(this.primary())] };
    }
    const node: Node = { type: "test", operand, name, args };
    return negated ? { type: "not", operand: node } : node;
  }

  private args(): Arguments {
    const args = no_arguments();
    const check = (right: boolean) => right || this.fail("wrong order of arguments");
    this.expect("(");
    for (let first = true; !this.is(")"); first = false) {
      if (!first) {
        this.expect(",");
        if (this.is(")")) break;
      }
      if (this.skip("*")) {
        check(!args.rest && !args.named_rest);
        args.rest = this.expression();
      } else if (this.skip("**")) {
        check(!args.named_rest);
        args.named_rest = this.expression();
      } else if (this.token.type === "name" && this.is("=", "operator", 1)) {
        check(!args.named_rest);
        const name = this.name();
        this.at++;
        args.named.push([name, this.expression()]);
      } else {
        check(!args.rest && !args.named_rest && args.named.length === 0);
        args.positional.push(this.expression());
      }
    }
    this.expect(")");
    return args;
  }
}

const no_arguments = (): Arguments => ({ positional: [], named: [], rest: null, named_rest: null });
