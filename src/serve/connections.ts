/**
 * One request at a time of each connection. HTTP lets a client send several before the first is answered; answers go back in order, so
 * what waits gains nothing by being begun, and could outlive its client: Node tells only the answer that is being sent that its
 * connection has closed.
 */
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** So many requests may wait behind the one that is answered; who sends more is cut off. Programs that do this send some tens. */
const MAX_WAITING = 100;

/** So many connections may be open. The page needs six, and a proxy keeps some hundreds. */
const MAX_CONNECTIONS = 1024;

type Exchange = [incoming: IncomingMessage, outgoing: ServerResponse];

/** A connection's request that is answered, and those behind it. */
interface Line {
  current: IncomingMessage;
  waiting: Exchange[];
}
const lines = new WeakMap<Socket, Line>();

/** A listener that begins a request once the one before it on its connection is answered, if the connection is still there. */
export function in_order(listener: RequestListener): RequestListener {
  const begin = (socket: Socket, line: Line, [incoming, outgoing]: Exchange) => {
    line.current = incoming;
    let open = true;
    const end = () => {
      if (!open) return;
      open = false;
      const next = socket.destroyed ? undefined : line.waiting.shift();
      if (next) begin(socket, line, next);
      else lines.delete(socket);
    };
    outgoing.once("finish", end);
    outgoing.once("close", end);
    listener(incoming, outgoing);
  };
  return (incoming, outgoing) => {
    const { socket } = incoming;
    const line = lines.get(socket);
    if (line) {
      if (line.waiting.push([incoming, outgoing]) <= MAX_WAITING) return;
      line.waiting.length = 0;
      socket.destroy();
      return;
    }
    const own: Line = { current: incoming, waiting: [] };
    lines.set(socket, own);
    begin(socket, own, [incoming, outgoing]);
  };
}

/**
 * Bounds the connections of a server. A new one takes the place of the one that has asked for nothing for longest: thousands that are opened
 * and say nothing, or never end what they say, keep out nobody.
 */
export function bound_connections(server: Server, most = MAX_CONNECTIONS): void {
  // In the order in which they last asked for something.
  const open = new Set<Socket>();
  const is_answered = (socket: Socket) => lines.get(socket)?.current.complete ?? false;
  server.on("connection", (socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    if (open.size <= most) return;
    for (const one of open) {
      if (is_answered(one)) continue;
      open.delete(one);
      one.destroy();
      return;
    }
  });
  server.on("request", ({ socket }) => {
    if (open.delete(socket)) open.add(socket);
  });
}
