/** A question or an answer, and what can be done with it. */
import type { JSX } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Markdown } from "./markdown.js";
import { ProblemView } from "./problems.js";
import type { Message, State } from "./store.js";
import type { Texts } from "./texts.js";

interface TurnProps {
  message: Message;
  texts: Texts;
  digits: State["settings"]["digits"];
  busy: boolean;
  writing: boolean;
  on_edit: (content: string) => void;
  on_retry: (() => void) | null;
}

export function Turn({ message, texts, digits, busy, writing, on_edit, on_retry }: TurnProps): JSX.Element {
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

  const { role, content, problem, left_out } = message;
  // Made anew for another text alone: a long conversation is drawn at every word of its last answer.
  const answer = useMemo(
    () => role === "assistant" && <Markdown text={content} digits={digits} texts={texts} />,
    [role, content, digits, texts],
  );
  const action =
    role === "user" ? (
      <button type="button" class="quiet" ref={edit} onClick={() => set_edited(content)}>
        {texts.edit}
      </button>
    ) : (
      on_retry && (
        <button type="button" class="quiet" onClick={on_retry}>
          {texts.retry}
        </button>
      )
    );
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
            <>
              {left_out && <p class="note">{texts.left_out}</p>}
              {answer}
            </>
          )}
          {writing && <span class="cursor" aria-hidden="true" />}
          {problem && !writing && <ProblemView problem={problem} texts={texts} />}
          {action && (busy ? <div class="room" /> : <div class="actions">{action}</div>)}
        </>
      )}
    </article>
  );
}
