import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { write_answer } from "./answering.js";
import { use_follow } from "./follow.js";
import { get_state, type Message, type State } from "./store.js";
import type { Texts } from "./texts.js";
import { Turn } from "./turn.js";

export function Chat({ state, texts }: { state: State; texts: Texts }): JSX.Element {
  const [draft, set_draft] = useState("");
  const began = useRef(false);
  const composer = useRef<HTMLTextAreaElement>(null);
  const { scroller, away, to_end } = use_follow();
  const { id, messages } = state.conversations.find(({ id }) => id === state.current)!;
  const controller = writing_in(state, id);
  const busy = controller !== undefined;
  // An answer is read out at its end, where it was seen to be written.
  began.current ||= busy;
  const last = messages.at(-1);
  const spoken = busy ? texts.writing : began.current && last ? told(last, texts) : "";

  // Buttons go or are of no use while an answer is written and after it is stopped; who used one goes on here.
  const focus_composer = () => composer.current?.focus();
  const ask = (said: Message[]) => {
    // What was pressed twice was drawn once in between, or not yet.
    if (writing_in(get_state(), id)) return;
    focus_composer();
    to_end();
    void write_answer(id, said);
  };
  const send = () => {
    const content = draft.trim();
    if (!content || busy) return;
    set_draft("");
    ask([...messages, { role: "user", content }]);
  };
  const retry = () => ask(messages.slice(0, messages.findLastIndex(({ role }) => role === "user") + 1));
  const stop = () => {
    focus_composer();
    controller?.abort();
  };

  return (
    <section class="chat" aria-label={texts.chat}>
      <div class="messages" role="log" aria-busy={busy} ref={scroller}>
        <div class="turns">
          {messages.length === 0 && (
            <p class="empty" dir="auto">
              {texts.empty}
            </p>
          )}
          {messages.map((message, i) => (
            <Turn
              key={`${id} ${i}`}
              message={message}
              texts={texts}
              digits={state.settings.digits}
              busy={busy}
              writing={state.writing.has(message.id ?? "")}
              on_edit={(content) => ask([...messages.slice(0, i), { role: "user", content }])}
              on_retry={i === messages.length - 1 ? retry : null}
            />
          ))}
        </div>
      </div>
      {away && (
        <button
          type="button"
          class="to-end"
          onClick={() => {
            focus_composer();
            to_end();
          }}
        >
          {texts.to_end}
        </button>
      )}
      <p class="sr-only" role="status" aria-live="polite">
        {spoken}
      </p>
      <form
        class="composer"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        <textarea
          ref={composer}
          dir="auto"
          rows={2}
          value={draft}
          aria-label={texts.write}
          placeholder={texts.write}
          onInput={(event) => set_draft(event.currentTarget.value)}
          onKeyDown={(event) => {
            // Keys that choose among an input method's words are its own; Safari ends composing before the last of them.
            if (event.isComposing || event.keyCode === 229) return;
            if (event.key === "Escape") stop();
            if (event.key !== "Enter" || event.shiftKey) return;
            event.preventDefault();
            send();
          }}
        />
        {busy ? (
          <button type="button" onClick={stop}>
            {texts.stop}
          </button>
        ) : (
          <button type="submit" disabled={draft.trim() === ""}>
            {texts.send}
          </button>
        )}
      </form>
    </section>
  );
}

/** What ends the answer that is being written in a conversation. */
const writing_in = ({ conversations, writing }: State, conversation: string): AbortController | undefined =>
  conversations
    .find(({ id }) => id === conversation)
    ?.messages.flatMap(({ id = "" }) => writing.get(id) ?? [])
    .at(0);

const told = ({ content, problem }: Message, texts: Texts): string =>
  problem ? `${content} ${texts.problems[problem.kind]}`.trim() : content;
