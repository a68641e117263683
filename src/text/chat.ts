/** Conversations to prompts: templates through @huggingface/jinja, within bounds, and safe from what users type. */
// The declarations of @huggingface/jinja import each other without extensions, so under nodenext its classes are `any`.
import vm from "node:vm";
import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { BimedixError } from "../errors.js";

export interface ChatMessage {
  /** `developer` is OpenAI's newer word for `system`. */
  role: "system" | "developer" | "user" | "assistant";
  content: string | readonly { type: "text"; text: string }[];
}

/** The longest template, rendered prompt and time that a chat may take: a template comes with a model, from anywhere. */
const LIMITS = { template: 100_000, output: 20_000_000, milliseconds: 2000, range: 100_000 };

/** @throws BimedixError bad_option for messages of the wrong shape */
function check_messages(messages: readonly ChatMessage[]): { role: string; content: string }[] {
  const bad = (given: string, expected: string): never => {
    throw new BimedixError("bad_option", { given, expected, todo: "correct the messages" });
  };
  if (!Array.isArray(messages) || messages.length === 0) bad("no messages", "at least one");
  return messages.map((message, i) => {
    const { role, content } = message ?? {};
    if (!["system", "developer", "user", "assistant"].includes(role))
      bad(`role ${JSON.stringify(role)} of message ${i}`, "system, user or assistant");
    const parts: unknown = content;
    const text =
      typeof parts === "string"
        ? parts
        : Array.isArray(parts) &&
            parts.length > 0 &&
            parts.every((part) => part?.type === "text" && typeof part.text === "string")
          ? parts.map((part) => part.text).join("\n")
          : bad(`content ${JSON.stringify(parts)?.slice(0, 40)} of message ${i}`, "a text or a list of text parts");
    return { role: role === "developer" ? "system" : role, content: text };
  });
}

/** Renders a conversation. @throws BimedixError bad_template, bad_option */
export function render_chat(
  template: string,
  messages: readonly ChatMessage[],
  context: { bos_token: string; eos_token: string; add_generation_prompt: boolean },
): string {
  const checked = check_messages(messages);
  const bad = (given: string, cause?: unknown): never => {
    throw new BimedixError(
      "bad_template",
      {
        given: `a chat template that ${given}`,
        expected: "a prompt",
        todo: "change the messages, or use another template",
      },
      cause,
    );
  };
  if (template.length > LIMITS.template) bad(`is ${template.length} characters long`);
  // The library's own range has no bound, and a second one cannot be declared: this is Template.render with another.
  const range = (start: number, stop?: number, step = 1): number[] => {
    const [from, to] = stop === undefined ? [0, start] : [start, stop];
    const length = Math.max(0, Math.ceil((to - from) / step));
    if (!(length <= LIMITS.range)) throw new Error(`range of ${length}`);
    return Array.from({ length }, (_, i) => from + i * step);
  };
  let text: string;
  try {
    text = within_time(() => {
      const environment = new Environment();
      const raise_exception = (message: unknown): never => {
        throw new Error(String(message));
      };
      const names = {
        true: true,
        false: false,
        none: null,
        True: true,
        False: false,
        None: null,
        raise_exception,
        range,
      };
      for (const [name, value] of Object.entries({ ...names, messages: checked, ...context }))
        environment.set(name, value);
      const program = parse(tokenize(template, { lstrip_blocks: true, trim_blocks: true }));
      return String(new Interpreter(environment).run(program).value);
    });
  } catch (error) {
    return bad(`fails (${(error as Error).message})`, error);
  }
  return text.length > LIMITS.output ? bad(`writes ${text.length} characters`) : text;
}

/** A synchronous loop can only be ended from outside; V8's own watchdog ends what a script calls. */
function within_time<T>(work: () => T): T {
  const key = Symbol.for("bimedix.render");
  const shared = globalThis as unknown as Record<symbol, () => T>;
  shared[key] = work;
  try {
    return vm.runInThisContext('globalThis[Symbol.for("bimedix.render")]()', { timeout: LIMITS.milliseconds }) as T;
  } finally {
    delete shared[key];
  }
}

/**
 * Puts a marker into every control string in the contents. `mend` takes the markers out of a piece of the rendered text.
 * A marker instead of removing anything: the user's words stay as they are, and templates may trim them as they like.
 */
export function break_control_strings(
  messages: readonly ChatMessage[],
  control: readonly string[],
): { broken: ChatMessage[]; mend: (text: string) => string } {
  const checked = check_messages(messages);
  const all = checked.map(({ content }) => content).join("");
  // Noncharacters never occur in text meant for interchange; one that this text does not hold is the marker.
  const marker =
    Array.from({ length: 32 }, (_, i) => String.fromCharCode(0xfdd0 + i)).find((c) => !all.includes(c)) ?? "\uffff";
  const strings = [...control].filter((text) => text.length > 1).sort((a, b) => b.length - a.length);
  const broken = checked.map(({ role, content }) => {
    let text = content;
    for (const string of strings) text = text.replaceAll(string, string[0] + marker + string.slice(1));
    return { role, content: text } as ChatMessage;
  });
  return { broken, mend: (text) => text.replaceAll(marker, "") };
}
