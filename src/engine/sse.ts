/** Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them. */

/** Characters of one event: a whole answer may be one. */
const MAX_EVENT = 16 * 2 ** 20;

/**
 * The data of each event, whatever ends its lines and however it is cut into pieces; comments and other fields are passed over. An event that
 * the stream's end cuts off before its empty line is given too: many servers leave that line out of their last.
 * @throws RangeError for an event that has no end
 */
export async function* event_data(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let data: string[] = [];
  let size = 0;
  const read = (line: string): string | null => {
    if (line === "") {
      const event = data.length > 0 ? data.join("\n") : null;
      data = [];
      size = 0;
      return event;
    }
    // A field without a colon has an empty value; one space after the colon is no part of it.
    const [field] = line.split(":", 1);
    const value = line.slice(field!.length + 1).replace(/^ /, "");
    if (field === "data") {
      data.push(value);
      check_size((size += value.length + 1));
    }
    return null;
  };
  for await (const line of lines(pieces)) {
    const event = read(line);
    if (event !== null) yield event;
  }
  const last = read("");
  if (last !== null) yield last;
}

function check_size(size: number): void {
  if (size > MAX_EVENT) throw new RangeError(`an event of more than ${MAX_EVENT / 2 ** 20} MiB`);
}

async function* lines(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const utf8 = new TextDecoder();
  // The beginning of a line, of which no piece is looked at twice, and a carriage return that may have its line feed in the next.
  let rest = "";
  let held = "";
  for await (const piece of pieces) {
    const text = held + utf8.decode(piece, { stream: true });
    held = text.endsWith("\r") ? "\r" : "";
    const parts = text.slice(0, text.length - held.length).split(/\r\n|\n|\r/);
    const last = parts.pop()!;
    for (const part of parts) {
      yield rest + part;
      rest = "";
    }
    rest += last;
    check_size(rest.length);
  }
  yield* (rest + held + utf8.decode()).split(/\r\n|\n|\r/);
}
