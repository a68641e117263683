/** What the parser makes of a template. */
export type Binary = "+" | "-" | "*" | "/" | "//" | "%" | "**";
export type Comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in";

export interface Arguments {
  positional: Node[];
  named: [string, Node][];
  /** `*list` and `**dict`. */
  rest: Node | null;
  named_rest: Node | null;
}

export type Target =
  | { type: "name"; name: string }
  | { type: "attribute_of"; name: string; attribute: string }
  | { type: "tuple"; items: Target[] };

export type Node =
  | { type: "constant"; value: string | bigint | number | boolean | null }
  | { type: "name"; name: string }
  | { type: "list" | "tuple"; items: Node[] }
  | { type: "dict"; pairs: [Node, Node][] }
  | { type: "attribute"; object: Node; name: string }
  | { type: "item"; object: Node; key: Node }
  | { type: "slice"; start: Node | null; stop: Node | null; step: Node | null }
  | { type: "call"; callee: Node; args: Arguments }
  /** `operand` is null for the content of a block. */
  | { type: "filter"; operand: Node | null; name: string; args: Arguments }
  | { type: "test"; operand: Node; name: string; args: Arguments }
  | { type: "not" | "negative" | "positive"; operand: Node }
  | { type: "and" | "or"; left: Node; right: Node }
  | { type: "binary"; operator: Binary; left: Node; right: Node }
  | { type: "concat"; parts: Node[] }
  | { type: "compare"; first: Node; rest: [Comparison, Node][] }
  | { type: "condition"; test: Node; yes: Node; no: Node | null };

export interface Signature {
  name: string;
  parameters: string[];
  /** Of the last parameters. */
  defaults: Node[];
  /** Names that the body reads: whether it takes `varargs`, `kwargs` and `caller` depends on them. */
  reads: Set<string>;
  body: Statement[];
}

export type Statement =
  | { type: "text"; value: string }
  | { type: "print"; value: Node }
  | { type: "if"; branches: { test: Node | null; body: Statement[] }[] }
  | {
      type: "for";
      target: Target;
      list: Node;
      filter: Node | null;
      recursive: boolean;
      body: Statement[];
      otherwise: Statement[];
    }
  | { type: "set"; target: Target; value: Node }
  | { type: "set_block"; target: Target; filter: Node | null; body: Statement[] }
  | { type: "with"; targets: Target[]; values: Node[]; body: Statement[] }
  | { type: "macro"; macro: Signature }
  | { type: "call_block"; call: Node & { type: "call" }; caller: Signature }
  | { type: "filter_block"; filter: Node; body: Statement[] }
  | { type: "scope" | "generation"; body: Statement[] }
  | { type: "break" | "continue" };
