/** An answer as server-sent events. */

/** Seconds of silence after which a comment says that an answer is still on its way: proxies end what is silent for a minute, some earlier. */
export const HEARTBEAT = 5;

/** What a promise gives within so many seconds; null where it takes longer. */
export async function within<T>(promise: Promise<T>, seconds: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

interface Ends {
  /** What a failure is told to the client as: the data of the last event. */
  failed: (error: unknown) => string;
  /** Called once: all was sent, or the client left. */
  done: (outcome: "completed" | "failed" | "aborted") => void;
  /** Seconds of silence before a comment. Default HEARTBEAT. */
  heartbeat?: number;
}

/**
 * @param events objects, one an event
 * @param begun the first of them, where it is on its way already
 */
export function event_stream(
  events: AsyncGenerator<unknown>,
  begun: Promise<IteratorResult<unknown>> | null,
  { failed, done, heartbeat = HEARTBEAT }: Ends,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let next = begun;
  return new ReadableStream({
    async pull(controller) {
      const send = (text: string) => controller.enqueue(encoder.encode(`${text}\n\n`));
      let outcome: "completed" | "failed" = "completed";
      try {
        next ??= events.next();
        const result = await within(next, heartbeat);
        if (result === null) return send(": waiting");
        next = null;
        if (!result.done) return send(`data: ${JSON.stringify(result.value)}`);
        send("data: [DONE]");
      } catch (error) {
        outcome = "failed";
        send(`data: ${failed(error)}`);
      }
      done(outcome);
      controller.close();
    },
    async cancel() {
      done("aborted");
      await events.return(undefined);
    },
  });
}
