/** Jinja's expressions. */
import { fail, type Token } from "./lexer.js";
import type { Arguments, Binary, Comparison, Node } from "./nodes.js";

const DEPTH = 200;
const comparisons = new Set(["==", "!=", "<", "<=", ">", ">="]);

/** A place in the tokens, and the expressions from there on. */
export class Expressions {
  protected at = 0;
  private depth = 0;
  protected reads = new Set<string>();

  constructor(protected readonly tokens: readonly Token[]) {}

  protected get token(): Token {
    return this.tokens[this.at]!;
  }

  protected fail(problem: string): never {
    return fail(problem, this.token.line) as never;
  }

  /** Whether the next token is this operator or word. */
  protected is(value: string, type: Token["type"] = "operator", ahead = 0): boolean {
    const token = this.tokens[this.at + ahead];
    return token?.type === type && token.value === value;
  }

  protected word(value: string, ahead = 0): boolean {
    return this.is(value, "name", ahead);
  }

  protected skip(value: string, type: Token["type"] = "operator"): boolean {
    const found = this.is(value, type);
    if (found) this.at++;
    return found;
  }

  protected expect(value: string, type: Token["type"] = "operator"): void {
    if (!this.skip(value, type)) this.fail(`expected '${value}', got '${this.token.value}'`);
  }

  protected expect_end(): void {
    if (this.token.type !== "end") this.fail(`expected the end of the tag, got '${this.token.value}'`);
    this.at++;
  }

  protected name(): string {
    if (this.token.type !== "name") this.fail(`expected a name, got '${this.token.value}'`);
    return this.tokens[this.at++]!.value;
  }

  protected deeper<T>(parse: () => T): T {
    if (++this.depth > DEPTH) this.fail("nests too deeply");
    const result = parse();
    this.depth--;
    return result;
  }

  /** Expressions with commas between are a tuple. */
  protected tuple(conditions = true, until?: string, in_parentheses = false): Node {
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

  protected expression(): Node {
    return this.deeper(() => {
      let node = this.or();
      while (this.skip("if", "name")) {
        const test = this.or();
        node = { type: "condition", test, yes: node, no: this.skip("else", "name") ? this.expression() : null };
      }
      return node;
    });
  }

  protected or(): Node {
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
  protected filters(operand: Node | null, inline = false): Node | null {
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

  protected args(): Arguments {
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
