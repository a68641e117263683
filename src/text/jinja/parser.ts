/** Jinja's grammar with the tags that transformers adds: `generation`, `break`, `continue`. */
import { Expressions } from "./expressions.js";
import { tokenize } from "./lexer.js";
import type { Node, Signature, Statement, Target } from "./nodes.js";

/** @throws TemplateError for what Jinja refuses, and for tags that load other templates */
export const parse = (template: string): Statement[] => new Parser(tokenize(template)).template();

class Parser extends Expressions {
  private loops = 0;

  template(): Statement[] {
    return this.statements([]);
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
}
