/** A part of tokenizer.json with its fields by type, and tables that make the parts by the names of the `tokenizers` library. */
import { BimedixError } from "../errors.js";

export type Json = Record<string, unknown>;

/** The library's own parser ends at 128 levels. */
const DEPTH = 64;

export class Component {
  constructor(
    readonly json: Json,
    /** The file and the place in it, for errors. */
    private readonly at: string,
    private readonly depth = 0,
  ) {}

  refuse(given: string, expected: string, todo = "download the file again"): never {
    throw new BimedixError("bad_tokenizer", { given: `${this.at}: ${given}`, expected, todo });
  }

  has(field: string): boolean {
    return this.json[field] !== undefined && this.json[field] !== null;
  }

  text(field: string, fallback?: string): string {
    return this.field(field, "string", fallback);
  }

  /** A text of one character. */
  character(field: string): string {
    const value = this.text(field);
    return [...value].length === 1 ? value : this.refuse(`${field} ${JSON.stringify(value)}`, "one character");
  }

  flag(field: string, fallback?: boolean): boolean {
    return this.field(field, "boolean", fallback);
  }

  /** An integer from 0. */
  count(field: string, fallback?: number): number {
    const value = this.field<number>(field, "number", fallback);
    return Number.isSafeInteger(value) && value >= 0 ? value : this.refuse(`${field} ${value}`, "an integer from 0");
  }

  /** A part that may be null. */
  part(field: string): Component | null {
    return this.has(field) ? this.child(this.json[field], field) : null;
  }

  list(field: string): unknown[] {
    const value = this.json[field];
    return Array.isArray(value) ? value : this.refuse(`${field} is ${describe(value)}`, "a list");
  }

  parts(field: string): Component[] {
    return this.list(field).map((one, i) => this.child(one, `${field}[${i}]`));
  }

  private child(value: unknown, name: string): Component {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      this.refuse(`${name} is ${describe(value)}`, "an object");
    if (this.depth === DEPTH) {
      const [file, part] = this.at.split(": ");
      new Component({}, `${file}: ${part}`).refuse("parts inside each other", `at most ${DEPTH} levels`);
    }
    return new Component(value as Json, `${this.at}: ${name}`, this.depth + 1);
  }

  private field<T>(field: string, type: string, fallback?: T): T {
    const value = this.json[field] ?? fallback;
    if (typeof value !== type) this.refuse(`${field} is ${describe(value)}`, `a ${type}`);
    return value as T;
  }
}

const describe = (value: unknown): string => JSON.stringify(value)?.slice(0, 60) ?? "missing";

export type Table<T> = Readonly<Record<string, (part: Component) => T>>;

/** What `table` makes of a part by its type. @throws BimedixError bad_tokenizer that names a type that is not in the table */
export function make<T>(part: Component, what: string, table: Table<T>): T {
  const type = part.text("type");
  const build = Object.hasOwn(table, type) ? table[type] : undefined;
  if (build) return build(part);
  const known = Object.keys(table).join(", ");
  return part.refuse(`${what} ${type} is not supported`, `one of ${known}`, "use a model with another tokenizer");
}
