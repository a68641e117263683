/** The page: its frame, its views, and the conversations beside them. */
import { type JSX, render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { model_names } from "./api.js";
import { Chat } from "./chat.js";
import { McqaView } from "./mcqa.js";
import { RoutingView } from "./routing.js";
import { SettingsView } from "./settings.js";
import {
  type Conversation,
  change,
  delete_conversation,
  new_conversation,
  type State,
  set,
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
  const [models, set_models] = useState<string[]>([]);
  const [menu, set_menu] = useState(false);

  useEffect(() => {
    const root = document.documentElement;
    root.lang = language;
    root.dir = language === "ar" ? "rtl" : "ltr";
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  }, [language, theme]);
  useEffect(() => {
    model_names().then((names) => {
      set_models(names);
      if (!names.includes(model)) set({ model: names[0] ?? "" });
    }, console.error);
  }, []);

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
            {models.map((name) => (
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
      <main>
        {state.storage_full && (
          <p class="problem" role="alert" dir="auto">
            {texts.storage_full}
          </p>
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
  const title = ({ messages }: Conversation) => messages[0]?.content.slice(0, 60) || texts.untitled;
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
              aria-label={`${texts.delete}: ${title(one)}`}
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

render(<App />, document.getElementById("app")!);
