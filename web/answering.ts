/** What is asked of the server beside the views: an answer goes on while another conversation is shown. */
import { answer, count_tokens, model_names } from "./api.js";
import { problem_of } from "./problems.js";
import {
  begin_answer,
  change,
  end_answer,
  get_state,
  type Message,
  new_id,
  type Settings,
  set_answer,
} from "./store.js";

export async function write_answer(conversation: string, said: Message[]): Promise<void> {
  const id = new_id();
  const controller = new AbortController();
  const { signal } = controller;
  const { settings } = get_state();
  begin_answer(conversation, said, id, controller);
  let content = "";
  try {
    const turns = sent(said);
    let left_out = await overflow(turns, settings, signal);
    for (let step = 2; ; step *= 2) {
      if (left_out > 0) set_answer(conversation, id, { left_out: true });
      let end: string | null = null;
      try {
        for await (const piece of answer(turns.slice(left_out), settings, signal)) {
          content += piece.content;
          end = piece.finish_reason ?? end;
          set_answer(conversation, id, { content });
        }
        return end_answer(conversation, id, end === "length" ? { kind: "length" } : null);
      } catch (error) {
        // A server that does not count tokens for others is asked again with less.
        const shorter = left_out < turns.length - 1 && content === "" && problem_of(error).kind === "too_long";
        if (!shorter) throw error;
        left_out = Math.min(left_out + step, turns.length - 1);
      }
    }
  } catch (error) {
    const problem = signal.aborted ? ({ kind: "stopped" } as const) : problem_of(error);
    end_answer(conversation, id, problem);
    if (problem.kind === "model") void load_models();
  }
}

/** What the model is sent of a conversation: questions in turn with their answers, without those that got none. */
const sent = (said: readonly Message[]): Message[] =>
  said.filter(({ role, content }, i) => {
    if (i === said.length - 1) return true;
    const answered = role === "user" ? said[i + 1]! : { role, content };
    return (
      answered.role === "assistant" && answered.content !== "" && (role === "user" || said[i - 1]?.role === "user")
    );
  });

/** So many messages may a request hold, and an instruction. */
const MAX_MESSAGES = 999;

/** What the model reads at once, and what a message takes beside its text, both in tokens; null where the server does not say. */
let capacity: { max_model_len: number; frame: number } | null = null;

async function learn_capacity(): Promise<void> {
  const { settings } = get_state();
  const one = [{ role: "user", content: "." } as const];
  const { signal } = new AbortController();
  capacity = await count_tokens(one, { ...settings, system: "" }, signal).then(
    ({ max_model_len, count }) => ({ max_model_len, frame: count }),
    () => null,
  );
}

/**
 * How many of the first messages must go, whole exchanges from the oldest, so that the model has room for an answer; the question itself
 * stays. Where the server does not count tokens, a request that it refuses as too long says so.
 */
async function overflow(turns: readonly Message[], settings: Settings, signal: AbortSignal): Promise<number> {
  const least = Math.max(0, Math.ceil((turns.length - MAX_MESSAGES) / 2));
  if (!capacity) {
    // The model was still being loaded, perhaps.
    void learn_capacity();
    return 2 * least;
  }
  const room = capacity.max_model_len - Math.min(settings.max_tokens, capacity.max_model_len / 4);
  // A token is a byte at least, so that most conversations need not be counted.
  const bytes = new TextEncoder().encode(turns.map(({ content }) => content).join("") + settings.system).length;
  if (least === 0 && bytes + (turns.length + 1) * capacity.frame <= room) return 0;
  const fits = async (exchanges: number) =>
    (await count_tokens(turns.slice(2 * exchanges), settings, signal)).count <= room;
  try {
    if (await fits(least)) return 2 * least;
    let [low, high] = [least + 1, (turns.length - 1) / 2];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (await fits(middle)) high = middle;
      else low = middle + 1;
    }
    return 2 * high;
  } catch {
    return 2 * least;
  }
}

/** The server's models; one that is gone is no longer chosen. */
export async function load_models(): Promise<void> {
  try {
    const models = await model_names();
    change(({ settings }) => ({
      models,
      models_problem: null,
      settings: models.includes(settings.model) ? settings : { ...settings, model: models[0] ?? "" },
    }));
    await learn_capacity();
  } catch (error) {
    change(() => ({ models_problem: problem_of(error) }));
  }
}
