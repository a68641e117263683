/**
 * An ONNX graph under construction. Values know their element type and dimensions, so a wrong shape is an
 * error in the line of TypeScript that made it and not a message from the runtime about node 512.
 *
 * Serialisation follows onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); large weights
 * never enter the message (protobuf ends at 2 GB): an initialiser names a file, an offset and a length.
 */
import { Message } from "../protobuf.js";

/** Element types and their numbers in TensorProto.DataType. */
export const data_types = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  uint32: 12,
  bfloat16: 16,
} as const;
export type DataType = keyof typeof data_types;

/** A dimension is a number, or a name where it is known only at run time. */
export type Dim = number | string;

/** Bytes of a weight: in the message itself, or in a file (`location` is relative to the folder given to the runtime). */
export type TensorBytes = Uint8Array | { location: string; offset: number; byte_length: number };

/** Contrib operators of ONNX Runtime. */
export const MICROSOFT = "com.microsoft";
/** Everything used from the standard is in opset 21, which ONNX Runtime has on every execution provider. */
const OPSET = 21;
const IR_VERSION = 10;

export type Attribute = number | { float: number } | string | readonly number[] | Graph;

export class Value {
  constructor(
    readonly graph: Graph,
    readonly name: string,
    readonly dtype: DataType,
    readonly dims: readonly Dim[],
  ) {}

  /** Dimension `axis`, counted from the end when negative. */
  dim(axis: number): Dim {
    const dim = this.dims.at(axis);
    if (dim === undefined) throw new TypeError(`${this} has no dimension ${axis}`);
    return dim;
  }

  toString(): string {
    return `${this.name}: ${this.dtype}[${this.dims.join(", ")}]`;
  }
}

export interface Node {
  op_type: string;
  domain: string;
  inputs: (Value | null)[];
  outputs: Value[];
  attributes: Record<string, Attribute>;
  /** Where the derivative is known as a whole: the gradient of `of`, from which this node is computed, from that of its output. */
  adjoint?: { of: Value; gradient: (gradient: Value) => Value };
}

export class Graph {
  readonly inputs: Value[] = [];
  readonly outputs: { name: string; value: Value }[] = [];
  readonly nodes: Node[] = [];
  /** The model's metadata_props. */
  readonly metadata = new Map<string, string>();
  private readonly initializers = new Map<string, { value: Value; bytes: TensorBytes }>();
  private readonly constants = new Map<string, Value>();
  private next_id = 0;

  /** @param outer the graph of which this is a branch: its values may be read here */
  constructor(
    readonly name: string,
    private readonly outer: Graph | null = null,
  ) {}

  input(name: string, dtype: DataType, dims: readonly Dim[]): Value {
    const value = new Value(this, name, dtype, dims);
    this.inputs.push(value);
    return value;
  }

  output(name: string, value: Value): void {
    this.outputs.push({ name, value });
  }

  /** A weight that is part of the model. Naming a weight twice is a mistake in the model's definition. */
  weight(name: string, dtype: DataType, dims: readonly number[], bytes: TensorBytes): Value {
    if (this.initializers.has(name)) throw new TypeError(`weight ${name} exists already`);
    const value = new Value(this, name, dtype, dims);
    this.initializers.set(name, { value, bytes });
    return value;
  }

  /** A small int64 or float32 constant; equal constants are stored once. Without `dims` it is a vector. */
  constant(dtype: "int64" | "float32", values: readonly number[], dims: readonly number[] = [values.length]): Value {
    if (this.outer) return this.outer.constant(dtype, values, dims);
    const key = `${dtype}[${dims}] ${values}`;
    let value = this.constants.get(key);
    if (!value) {
      const array = dtype === "int64" ? BigInt64Array.from(values, BigInt) : Float32Array.from(values);
      value = this.weight(`constant_${this.constants.size}`, dtype, dims, new Uint8Array(array.buffer));
      this.constants.set(key, value);
    }
    return value;
  }

  /** The numbers of an int64 constant, or null for any other value. */
  integers(value: Value): number[] | null {
    const bytes = this.initializers.get(value.name)?.bytes;
    if (value.dtype !== "int64" || !(bytes instanceof Uint8Array)) return null;
    return Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8), Number);
  }

  /** Adds a node; `outputs` gives element type and dimensions of each result. An absent optional input is null. */
  node(
    op_type: string,
    inputs: (Value | null)[],
    outputs: { dtype: DataType; dims: readonly Dim[] }[],
    attributes: Record<string, Attribute> = {},
    domain = "",
  ): Value[] {
    for (const input of inputs) {
      if (input && input.graph !== this && input.graph !== this.outer)
        throw new TypeError(`${op_type}: ${input} belongs to graph ${input.graph.name}`);
    }
    const values = outputs.map(({ dtype, dims }) => new Value(this, this.fresh_name(op_type), dtype, dims));
    this.nodes.push({ op_type, domain, inputs, outputs: values, attributes });
    return values;
  }

  /** Names in a branch must not be those around it. */
  private fresh_name(op_type: string): string {
    return this.outer ? this.outer.fresh_name(op_type) : `${op_type}_${this.next_id++}`;
  }

  /** The node that computes a value; none computes an input or a weight. */
  maker(value: Value): Node | undefined {
    return this.nodes.findLast(({ outputs }) => outputs.includes(value));
  }

  /**
   * Makes `value` an input of this name where it is read, instead of computing it. Nothing happens and false is returned
   * where no output needs it.
   */
  make_input(value: Value, name: string): boolean {
    if (!this.needed().some(({ inputs }) => inputs.includes(value))) return false;
    const input = this.input(name, value.dtype, value.dims);
    for (const node of this.nodes) node.inputs = node.inputs.map((one) => (one === value ? input : one));
    return true;
  }

  /** The nodes that outputs need, in order; the others are not part of the model. */
  private needed(): Node[] {
    const read = new Set<Value | null>(this.outputs.map(({ value }) => value));
    const needed = this.nodes.toReversed().filter(({ inputs, outputs, attributes }) => {
      if (!outputs.some((output) => read.has(output))) return false;
      for (const input of inputs) read.add(input);
      for (const branch of Object.values(attributes))
        if (branch instanceof Graph) for (const { inputs } of branch.nodes) for (const input of inputs) read.add(input);
      return true;
    });
    return needed.reverse();
  }

  /** The GraphProto. */
  private message(outer_name_of: (value: Value) => string = ({ name }) => name): Message {
    const names = new Map(this.outputs.map(({ name, value }) => [value, name]));
    const name_of = (value: Value | null): string => (value ? (names.get(value) ?? outer_name_of(value)) : "");
    const attribute_of = (name: string, value: Attribute): Message =>
      value instanceof Graph
        ? new Message().bytes(1, name).bytes(6, value.message(name_of)).int(20, 5)
        : attribute(name, value);
    const graph = new Message();
    for (const node of this.needed()) {
      const message = new Message();
      for (const input of node.inputs) message.bytes(1, name_of(input));
      for (const output of node.outputs) message.bytes(2, name_of(output));
      message.bytes(3, node.outputs[0]?.name ?? "").bytes(4, node.op_type);
      for (const [name, value] of Object.entries(node.attributes)) message.bytes(5, attribute_of(name, value));
      if (node.domain) message.bytes(7, node.domain);
      graph.bytes(1, message);
    }
    graph.bytes(2, this.name);
    for (const { value, bytes } of this.initializers.values()) graph.bytes(5, tensor(value, bytes));
    for (const input of this.inputs) graph.bytes(11, value_info(input.name, input));
    for (const { name, value } of this.outputs) graph.bytes(12, value_info(name, value));
    return graph;
  }

  /** The ModelProto. */
  serialize(): Uint8Array {
    const model = new Message().int(1, IR_VERSION).bytes(2, "bimedix").bytes(7, this.message());
    for (const [domain, version] of [["", OPSET] as const, [MICROSOFT, 1] as const]) {
      model.bytes(8, new Message().bytes(1, domain).int(2, version));
    }
    for (const [key, value] of this.metadata) model.bytes(14, new Message().bytes(1, key).bytes(2, value));
    return model.finish();
  }
}

function tensor(value: Value, bytes: TensorBytes): Message {
  const message = new Message()
    .ints(1, value.dims as readonly number[])
    .int(2, data_types[value.dtype])
    .bytes(8, value.name);
  if (bytes instanceof Uint8Array) return message.bytes(9, bytes);
  const { location, offset, byte_length } = bytes;
  for (const [key, text] of Object.entries({ location, offset: String(offset), length: String(byte_length) })) {
    message.bytes(13, new Message().bytes(1, key).bytes(2, text));
  }
  return message.int(14, 1);
}

function attribute(name: string, value: Exclude<Attribute, Graph>): Message {
  const message = new Message().bytes(1, name);
  if (typeof value === "number") return message.int(3, value).int(20, 2);
  if (typeof value === "string") return message.bytes(4, value).int(20, 3);
  if ("float" in value) return message.float(2, value.float).int(20, 1);
  return message.ints(8, value).int(20, 7);
}

function value_info(name: string, value: Value): Message {
  const shape = new Message();
  for (const dim of value.dims) {
    shape.bytes(1, typeof dim === "number" ? new Message().int(1, dim) : new Message().bytes(2, dim));
  }
  const type = new Message().int(1, data_types[value.dtype]).bytes(2, shape);
  return new Message().bytes(1, name).bytes(2, new Message().bytes(1, type));
}
