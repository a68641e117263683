/** Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html reads them. */

/**
 * The data of each event, whatever ends its lines and however it is cut into pieces; comments and other fields are passed over. An event that
 * the stream's end cuts off before its empty line is given too: many servers leave that line out of their last.
 */
export async function* event_data(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  let data: string[] = [];
  const read = (line: string): string | null => {
    if (line === "") {
      const event = data.length > 0 ? data.join("\n") : null;
      data = [];
      return event;
    }
    // A field without a colon has an empty value; one space after the colon is no part of it.
    const [field] = line.split(":", 1);
    const value = line.slice(field!.length + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    return null;
  };
  for await (const line of lines(pieces)) {
    const event = read(line);
    if (event !== null) yield event;
  }
  const last = read("");
  if (last !== null) yield last;
}

async function* lines(pieces: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const utf8 = new TextDecoder();
  let rest = "";
  for await (const piece of pieces) {
    rest += utf8.decode(piece, { stream: true });
    // A carriage return at the end may have its line feed in the next piece.
    const held = rest.endsWith("\r") ? 1 : 0;
    const parts = rest.slice(0, rest.length - held).split(/\r\n|\n|\r/);
    rest = parts.pop()! + "\r".repeat(held);
    yield* parts;
  }
  rest += utf8.decode();
  yield* rest.split(/\r\n|\n|\r/);
}
