/** What a terminal shows: lines between words, colours, and the line on which a question is written. */
import assert from "node:assert/strict";
import { PassThrough, Writable } from "node:stream";
import { afterEach, describe, test } from "node:test";
import type { Answering } from "../../src/assistant/assistant.js";
import { Conversation } from "../../src/cli/conversation.js";
import { fold, has_colours, is_screen, printable, WordWrap } from "../../src/cli/terminal.js";
import { aborted, BimedixError } from "../../src/errors.js";
import type { ChatMessage } from "../../src/text/chat.js";

/** A screen of so many columns, or a pipe. */
class Screen extends Writable {
  readonly isTTY: boolean;
  text = "";
  private readonly waiting: { text: string; seen: () => void }[] = [];

  constructor(readonly columns = 60) {
    super();
    this.isTTY = columns > 0;
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    for (const one of this.waiting.filter(({ text }) => this.text.includes(text))) one.seen();
    done();
  }

  /** When `text` has been shown; what was shown up to it is forgotten. */
  async shows(text: string): Promise<string> {
    if (!this.text.includes(text)) await new Promise<void>((seen) => this.waiting.push({ text, seen }));
    const end = this.text.indexOf(text) + text.length;
    const shown = this.text.slice(0, end);
    this.text = this.text.slice(end);
    return shown;
  }
}

const screen = (columns: number) => ({ isTTY: columns > 0, columns, write: () => true });
const wrapped = (text: string, columns: number, cut = text.length) => {
  const wrap = new WordWrap(() => columns);
  let shown = "";
  for (let i = 0; i < text.length; i += cut) shown += wrap.push(text.slice(i, i + cut));
  return shown + wrap.flush();
};

describe("lines", () => {
  test("break between words, however the text is cut", () => {
    const text = "The heart is a muscle that pumps blood.\n\nIt never rests.";
    const right = "The heart is\na muscle\nthat pumps\nblood.\n\nIt never\nrests.";
    for (const cut of [1, 2, 5, 100]) assert.equal(wrapped(text, 12, cut), right);
    assert.equal(wrapped("abcd efgh", 9), "abcd efgh");
    assert.equal(wrapped("  - indented text", 80), "  - indented text");
    assert.equal(wrapped("a longwordlongword b", 8), "a\nlongwordlongword\nb");
  });

  test("are measured in columns: Arabic, marks, wide characters, emoji", () => {
    // Four letters and four marks are four columns.
    assert.equal(wrapped("مَرْحَبًا بك", 8), "مَرْحَبًا بك");
    assert.equal(wrapped("مَرْحَبًا بك", 7), "مَرْحَبًا\nبك");
    // A wide character takes two columns, and a line may end behind each.
    assert.equal(wrapped("心臓は血液を送る。", 8), "心臓は血\n液を送\nる。");
    assert.equal(wrapped("ab 👩‍⚕️ cd", 8), "ab 👩‍⚕️ cd");
    assert.equal(wrapped("ab 👩‍⚕️ cd", 7), "ab 👩‍⚕️\ncd");
    assert.equal(wrapped("cafe\u0301 au lait", 7), "cafe\u0301 au\nlait");
  });

  test("of a pipe, or of a terminal that does not know its width, are left alone", () => {
    const text = "a long line that nothing breaks";
    assert.equal(fold(text, screen(0)), text);
    assert.equal(wrapped(text, 0), text);
    assert.equal(fold(text, screen(10)), "a long\nline that\nnothing\nbreaks");
  });

  test("of a model have no say over the terminal", () => {
    assert.equal(printable("a\x1b]52;c;aGk=\x07b\x1b[2Jc\td\ne\u009b"), "a]52;c;aGk=b[2Jc\td\ne");
  });
});

describe("colours", () => {
  const before = { ...process.env };
  afterEach(() => {
    for (const name of ["NO_COLOR", "FORCE_COLOR", "TERM"]) {
      if (before[name] === undefined) delete process.env[name];
      else process.env[name] = before[name];
    }
  });

  test("follow NO_COLOR, FORCE_COLOR and TERM", () => {
    const cases: [Record<string, string>, boolean, boolean][] = [
      [{}, true, false],
      [{ NO_COLOR: "1" }, false, false],
      [{ NO_COLOR: "" }, true, false],
      [{ FORCE_COLOR: "1" }, true, true],
      [{ FORCE_COLOR: "0" }, false, false],
      [{ FORCE_COLOR: "1", NO_COLOR: "1" }, true, true],
      [{ TERM: "dumb" }, false, false],
    ];
    for (const [variables, on_screen, in_pipe] of cases) {
      for (const name of ["NO_COLOR", "FORCE_COLOR"]) delete process.env[name];
      process.env.TERM = "xterm";
      Object.assign(process.env, variables);
      assert.equal(has_colours(screen(80)), on_screen, JSON.stringify(variables));
      assert.equal(has_colours(screen(0)), in_pipe, JSON.stringify(variables));
      assert.equal(is_screen(screen(80)), variables.TERM !== "dumb");
    }
  });
});

/** A model that repeats the question, or writes until it is stopped. */
class Echo implements Partial<Answering> {
  readonly place = "echo";
  readonly asked: ChatMessage[][] = [];
  disposed = false;

  async *chat(messages: readonly ChatMessage[], { signal }: { signal?: AbortSignal } = {}): AsyncGenerator<string> {
    this.asked.push([...messages]);
    const question = String(messages.at(-1)!.content);
    if (question === "fail")
      throw new BimedixError("bad_option", { given: "a fault", expected: "none", todo: "try again" });
    if (question !== "forever") return yield `<${question.length}>`;
    yield "on and ";
    await new Promise((stopped) => signal?.addEventListener("abort", stopped, { once: true }));
    throw aborted();
  }

  /** Four messages fit. */
  overflow(messages: readonly ChatMessage[]): number {
    return messages.length > 4 ? 2 : 0;
  }

  async dispose(): Promise<void> {
    this.disposed = true;
  }
}

function conversation(columns = 60, answers_to?: Screen) {
  process.env.TERM = "xterm";
  const input = Object.assign(new PassThrough(), { raw: false, setRawMode: (mode: boolean) => (input.raw = mode) });
  const output = new Screen(columns);
  const model = new Echo();
  const answering = model as unknown as Answering;
  const load = async () => answering;
  const run = new Conversation(answering, {
    input,
    output,
    answers: {},
    load,
    ...(answers_to && { answers_to }),
  }).run();
  const type = (text: string | Uint8Array) => input.write(text);
  const asked = () => model.asked.at(-1)!.map(({ content }) => content);
  return { input, output, model, run, type, asked };
}

const PASTE = (text: string) => `\x1b[200~${text}\x1b[201~`;

describe("a conversation", () => {
  test("a paste of several lines is one question, in one piece or cut anywhere", async () => {
    const { output, run, type, asked } = conversation();
    assert.ok((await output.shows("> ")).includes("\x1b[?2004h"));
    type(`Note: ${PASTE("I am 40.\r\nعندي سعال.\rWhat now?\r")}`);
    await output.shows("[paste 1: 3 lines]");
    type("\r");
    await output.shows("<");
    assert.deepEqual(asked(), ["Note: I am 40.\nعندي سعال.\nWhat now?"]);
    await output.shows("> ");
    for (const byte of Buffer.from(`${PASTE("أ\rب")}\r`)) type(Uint8Array.of(byte));
    await output.shows("<3>");
    assert.equal(asked().at(-1), "أ\nب");
    await output.shows("> ");
    // One line is put into the line, and can be edited there.
    type(`${PASTE("What is gout\n")}?\r`);
    await output.shows("<13>");
    assert.equal(asked().at(-1), "What is gout?");
    type("\x04");
    await run;
  });

  test("a paste of 100 kB is a mark in the line", async () => {
    const { output, run, type, asked } = conversation();
    await output.shows("> ");
    const long = "كلمة word ".repeat(10_000).trim();
    type(`${PASTE(long)}\r`);
    const shown = await output.shows(`<${long.length}>`);
    assert.ok(shown.length < 1000);
    assert.equal(asked()[0], long);
    type("/exit\r");
    await run;
  });

  test("three quotes begin and end a question of several lines", async () => {
    const { output, run, type, asked } = conversation();
    await output.shows("> ");
    type('"""I have\r');
    await output.shows("... ");
    type("/exit is a line\r");
    await output.shows("... ");
    type('a cough"""\r');
    await output.shows("<30>");
    assert.deepEqual(asked(), ["I have\n/exit is a line\na cough"]);
    type('"""one line"""\r');
    await output.shows("<8>");
    type("/bye\r");
    await run;
  });

  test("Ctrl-C stops an answer, clears a line, and twice leaves; the terminal is as before", async () => {
    const { input, output, model, run, type, asked } = conversation();
    await output.shows("> ");
    assert.equal(input.raw, true);
    type("forever\r");
    await output.shows("on and");
    type("\x03");
    await output.shows("(stopped)");
    await output.shows("> ");
    type("hi\r");
    await output.shows("<2>");
    // What had come of the stopped answer stays.
    assert.deepEqual(asked(), ["forever", "on and ", "hi"]);
    await output.shows("> ");
    type("half a line\x03");
    await output.shows("once more");
    await output.shows("> ");
    assert.equal(model.asked.length, 2);
    type("\x03");
    await run;
    assert.ok(output.text.includes("\x1b[?2004l"));
    assert.deepEqual([input.raw, model.disposed], [false, true]);
  });

  test("Ctrl-D leaves in the middle of an answer", async () => {
    const { output, model, run, type } = conversation();
    await output.shows("> ");
    type("forever\r");
    await output.shows("on and");
    type("\x04");
    await run;
    assert.equal(model.disposed, true);
  });

  test("old turns are left out, the system prompt stays, and it says so", async () => {
    const { output, run, type, asked } = conversation();
    await output.shows("> ");
    type("/system Be brief.\r");
    await output.shows("system prompt.");
    for (const question of ["a", "bb", "ccc"]) {
      type(`${question}\r`);
      await output.shows(`<${question.length}>`);
    }
    assert.deepEqual(asked(), ["Be brief.", "bb", "<2>", "ccc"]);
    type("/clear\r");
    await output.shows("A new conversation.");
    type("dddd\r");
    await output.shows("<4>");
    assert.deepEqual(asked(), ["Be brief.", "dddd"]);
    type("exit\r");
    await run;
  });

  test("answers go to a file where the output does, and wide characters are deleted whole", async () => {
    const file = new Screen(0);
    const { output, run, type, asked } = conversation(60, file);
    await output.shows("> ");
    type("请翻译مرحبا\x7f\x7f\x7f\x7f\x7f\x7f\x7f头痛\r");
    await file.shows("<3>\n");
    assert.deepEqual(asked(), ["请头痛"]);
    type("\x04");
    await run;
    assert.ok(!output.text.includes("<3>"));
  });

  test("mistakes are said and forgotten; the history is there", async () => {
    const { output, run, type, asked } = conversation();
    await output.shows("> ");
    type("/hepl\r");
    await output.shows("did you mean /help?");
    type("fail\r");
    await output.shows("a fault");
    type("مرحبا\r");
    await output.shows("<5>");
    assert.deepEqual(asked(), ["مرحبا"]);
    await output.shows("> ");
    type("\x1b[A\x1b[A");
    await output.shows("fail");
    type("\x1b[B\r");
    await output.shows("<5>");
    assert.deepEqual(asked(), ["مرحبا", "<5>", "مرحبا"]);
    type("\x04");
    await run;
  });
});
