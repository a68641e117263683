/** The page: its frame, its views, and the conversations beside them. */
import { type JSX, render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { load_models } from "./answering.js";
import { Chat } from "./chat.js";
import { McqaView } from "./mcqa.js";
import { ProblemView } from "./problems.js";
import { RoutingView } from "./routing.js";
import { SettingsView } from "./settings.js";
import {
  type Conversation,
  change,
  delete_conversation,
  forget_undo,
  new_conversation,
  type State,
  set,
  undo,
  use_state,
} from "./store.js";
import { texts as all_texts, type Texts } from "./texts.js";

const views = ["chat", "mcqa", "routing", "settings"] as const;
type View = (typeof views)[number];

function App(): JSX.Element {
  const state = use_state();
  const { language, theme, model } = state.settings;
  const texts = all_texts[language];
  const [view, set_view] = useState<View>("chat");
  const [menu, set_menu] = useState(false);
  const main = useRef<HTMLElement>(null);

  useEffect(() => {
    const root = document.documentElement;
    root.lang = language;
    root.dir = language === "ar" ? "rtl" : "ltr";
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }, [language, theme]);
  useEffect(() => void load_models(), []);

  const props = { state, texts };
  return (
    <div class={menu ? "app menu-open" : "app"}>
      <header>
        <button type="button" class="quiet menu" aria-expanded={menu} onClick={() => set_menu(!menu)}>
          {menu ? texts.close : texts.menu}
        </button>
        <h1>{texts.title}</h1>
        <label class="model">
          <span class="sr-only">{texts.model}</span>
          <select value={model} onChange={(event) => set({ model: event.currentTarget.value })}>
            {state.models.map((name) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <button
          type="button"
          class="quiet"
          lang={language === "ar" ? "en" : "ar"}
          onClick={() => set({ language: language === "ar" ? "en" : "ar" })}
        >
          {language === "ar" ? "English" : "العربية"}
        </button>
      </header>
      <p class="notice" role="note" dir="auto">
        {texts.notice}
      </p>
      {state.undo && <Undo kind={state.undo.kind} texts={texts} on_end={() => main.current?.focus()} />}
      <aside>
        <nav aria-label={texts.views}>
          {views.map((name) => (
            <button
              type="button"
              key={name}
              aria-current={view === name ? "page" : undefined}
              onClick={() => {
                set_view(name);
                set_menu(false);
              }}
            >
              {texts[name]}
            </button>
          ))}
        </nav>
        {view === "chat" && <Conversations state={state} texts={texts} on_choice={() => set_menu(false)} />}
      </aside>
      <main ref={main} tabIndex={-1}>
        {state.storage_problem && (
          <p class="problem" role="alert">
            {texts[state.storage_problem]}
          </p>
        )}
        {state.models_problem && (
          <div class="models-problem">
            <ProblemView problem={state.models_problem} texts={texts} alert />
            <button type="button" onClick={() => void load_models()}>
              {texts.try_again}
            </button>
          </div>
        )}
        {view === "chat" && <Chat key={state.current} {...props} />}
        {view === "mcqa" && <McqaView key={language} {...props} />}
        {view === "routing" && <RoutingView {...props} />}
        {view === "settings" && <SettingsView {...props} />}
      </main>
    </div>
  );
}

function Conversations({
  state,
  texts,
  on_choice,
}: {
  state: State;
  texts: Texts;
  on_choice: () => void;
}): JSX.Element {
  const begin = useRef<HTMLButtonElement>(null);
  const title = ({ messages }: Conversation) =>
    [...(messages[0]?.content ?? "")].slice(0, 60).join("") || texts.untitled;
  return (
    <section aria-label={texts.conversations}>
      <button
        type="button"
        ref={begin}
        onClick={() => {
          new_conversation();
          on_choice();
        }}
      >
        {texts.new_conversation}
      </button>
      <ul class="conversations">
        {state.conversations.map((one) => (
          <li key={one.id}>
            <button
              type="button"
              dir="auto"
              aria-current={one.id === state.current ? "true" : undefined}
              onClick={() => {
                change(() => ({ current: one.id }));
                on_choice();
              }}
            >
              {title(one)}
            </button>
            <button
              type="button"
              class="quiet"
              aria-label={`${texts.delete}: \u2068${title(one)}\u2069`}
              onClick={() => {
                begin.current?.focus();
                delete_conversation(one.id);
              }}
            >
              ×
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface UndoProps {
  kind: "deleted" | "replaced";
  texts: Texts;
  /** The buttons go, and the focus with them. */
  on_end: () => void;
}

/** What was taken away can be had back, for as long as this stands here. */
function Undo({ kind, texts, on_end }: UndoProps): JSX.Element {
  const ending = (act: () => void) => () => {
    on_end();
    act();
  };
  return (
    <div class="undo">
      <p role="status">{texts[kind]}</p>
      <button type="button" onClick={ending(undo)}>
        {texts.undo}
      </button>
      <button type="button" class="quiet" aria-label={texts.close} onClick={ending(forget_undo)}>
        ×
      </button>
    </div>
  );
}

render(<App />, document.getElementById("app")!);
