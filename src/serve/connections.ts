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

/** A listener that begins a request once the one before it on its connection is answered, if the connection is still there. */
export function in_order(listener: RequestListener): RequestListener {
  const waiting = new WeakMap<Socket, Exchange[]>();
  const begin = (socket: Socket, queue: Exchange[], [incoming, outgoing]: Exchange) => {
    let open = true;
    const end = () => {
      if (!open) return;
      open = false;
      const next = socket.destroyed ? undefined : queue.shift();
      if (next) begin(socket, queue, next);
      else waiting.delete(socket);
    };
    outgoing.once("finish", end);
    outgoing.once("close", end);
    listener(incoming, outgoing);
  };
  return (incoming, outgoing) => {
    const { socket } = incoming;
    const queue = waiting.get(socket);
    if (queue) {
      if (queue.push([incoming, outgoing]) <= MAX_WAITING) return;
      queue.length = 0;
      socket.destroy();
      return;
    }
    const own: Exchange[] = [];
    waiting.set(socket, own);
    begin(socket, own, [incoming, outgoing]);
  };
}

/** Bounds the connections of a server: a new one finds a place as soon as those that ask for nothing are closed. */
export function bound_connections(server: Server): void {
  server.maxConnections = MAX_CONNECTIONS;
  server.on("drop", () => server.closeIdleConnections());
}
