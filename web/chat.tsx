import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { answer } from "./api.js";
import { Markdown } from "./markdown.js";
import { begin_answer, end_answer, get_state, type Message, new_id, type State, set_answer } from "./store.js";
import type { Texts } from "./texts.js";

export function Chat({ state, texts }: { state: State; texts: Texts }): JSX.Element {
  const [draft, set_draft] = useState("");
  const began = useRef(false);
  const end = useRef<HTMLDivElement>(null);
  const composer = useRef<HTMLTextAreaElement>(null);
  const { id, messages } = state.conversations.find(({ id }) => id === state.current)!;
  const [controller] = messages.flatMap(({ id = "" }) => state.writing.get(id) ?? []);
  const busy = controller !== undefined;
  // An answer is read out at its end, where it was seen to be written.
  began.current ||= busy;
  const last = messages.at(-1);
  const spoken = busy ? texts.writing : began.current ? (last?.problem ?? last?.content) : "";

  useEffect(() => end.current?.scrollIntoView({ block: "end" }), [last?.content, messages.length]);

  // Buttons go or are of no use while an answer is written and after it is stopped; who used one goes on here.
  const focus_composer = () => composer.current?.focus();
  const ask = (said: Message[]) => {
    focus_composer();
    void write_answer(id, said, texts);
  };
  const send = () => {
    const content = draft.trim();
    if (!content || busy) return;
    set_draft("");
    ask([...complete(messages), { role: "user", content }]);
  };
  const retry = () => ask(messages.slice(0, messages.findLastIndex(({ role }) => role === "user") + 1));
  const stop = () => {
    focus_composer();
    controller?.abort();
  };

  return (
    <section class="chat" aria-label={texts.chat}>
      <div class="messages" role="log" aria-busy={busy}>
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
        <div ref={end} />
      </div>
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
            if (event.key === "Escape") stop();
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
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

/** Outside of the view: an answer goes on while another conversation is shown. */
async function write_answer(conversation: string, said: Message[], texts: Texts): Promise<void> {
  const id = new_id();
  const controller = new AbortController();
  begin_answer(conversation, said, id, controller);
  let content = "";
  try {
    for await (const piece of answer(said, get_state().settings, controller.signal)) {
      content += piece;
      set_answer(conversation, id, { content });
    }
  } catch (error) {
    const problem = controller.signal.aborted ? texts.stopped : `${texts.failed}: ${(error as Error).message}`;
    set_answer(conversation, id, { problem });
  }
  end_answer(id);
}

/** Without an answer that never began. */
const complete = (messages: readonly Message[]): Message[] =>
  messages.at(-1)?.role === "assistant" && messages.at(-1)!.content === "" ? messages.slice(0, -2) : [...messages];

interface TurnProps {
  message: Message;
  texts: Texts;
  digits: State["settings"]["digits"];
  busy: boolean;
  writing: boolean;
  on_edit: (content: string) => void;
  on_retry: (() => void) | null;
}

function Turn({ message, texts, digits, busy, writing, on_edit, on_retry }: TurnProps): JSX.Element {
  const [edited, set_edited] = useState<string | null>(null);
  const edit = useRef<HTMLButtonElement>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  const editing = edited !== null;
  const was_editing = useRef(editing);

  // The button and the form take each other's place; the focus follows.
  useEffect(() => {
    if (editing !== was_editing.current) (editing ? field : edit).current?.focus();
    was_editing.current = editing;
  }, [editing]);

  const { role, content, problem } = message;
  return (
    <article class={role} data-digits={digits} aria-label={role === "user" ? texts.you : texts.assistant}>
      {editing ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            if (!edited.trim()) return;
            set_edited(null);
            on_edit(edited.trim());
          }}
        >
          <textarea
            ref={field}
            dir="auto"
            rows={3}
            value={edited}
            aria-label={texts.edit}
            onInput={(event) => set_edited(event.currentTarget.value)}
          />
          <div class="actions">
            <button type="submit">{texts.save}</button>
            <button type="button" class="quiet" onClick={() => set_edited(null)}>
              {texts.cancel}
            </button>
          </div>
        </form>
      ) : (
        <>
          {role === "user" ? (
            <p class="said" dir="auto">
              {content}
            </p>
          ) : (
            <Markdown text={content} digits={digits} />
          )}
          {writing && <span class="cursor" aria-hidden="true" />}
          {problem && (
            <p class="problem" dir="auto">
              {problem}
            </p>
          )}
          {!busy && (
            <div class="actions">
              {role === "user" && (
                <button type="button" class="quiet" ref={edit} onClick={() => set_edited(content)}>
                  {texts.edit}
                </button>
              )}
              {role === "assistant" && on_retry && (
                <button type="button" class="quiet" onClick={on_retry}>
                  {texts.retry}
                </button>
              )}
            </div>
          )}
        </>
      )}
    </article>
  );
}
