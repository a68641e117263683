import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { in_range, ranges } from "./kept.js";
import { clear, type Settings, type State, set } from "./store.js";
import { filled, type Language, number_format, number_of, type Texts } from "./texts.js";

export function SettingsView({ state, texts }: { state: State; texts: Texts }): JSX.Element {
  const { settings } = state;
  const choice = <K extends keyof Settings>(key: K, label: string, options: Record<string, string>) => (
    <label>
      {label}
      <select
        value={settings[key] as string}
        onChange={(event) => set({ [key]: event.currentTarget.value } as Partial<Settings>)}
      >
        {Object.entries(options).map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
  return (
    <section class="page" aria-label={texts.settings}>
      {choice("language", texts.language, { en: "English", ar: "العربية" } satisfies Record<Language, string>)}
      {choice("theme", texts.theme, { auto: texts.theme_auto, light: texts.theme_light, dark: texts.theme_dark })}
      {choice("digits", texts.digits, {
        written: texts.digits_written,
        arabic: texts.digits_arabic,
        latin: texts.digits_latin,
      })}
      <NumberField name="temperature" label={texts.temperature} settings={settings} texts={texts} />
      <NumberField name="max_tokens" label={texts.max_tokens} settings={settings} texts={texts} />
      <label>
        {texts.system}
        <textarea
          dir="auto"
          rows={3}
          value={settings.system}
          onInput={(event) => set({ system: event.currentTarget.value })}
        />
      </label>
      <button
        type="button"
        class="quiet danger"
        onClick={() => {
          if (confirm(texts.clear_sure)) clear();
        }}
      >
        {texts.clear}
      </button>
    </section>
  );
}

interface NumberFieldProps {
  name: keyof typeof ranges;
  label: string;
  settings: Settings;
  texts: Texts;
}

/** A number as its writer's keyboard writes it, which a field of the browser's would not take; what is out of range is refused here. */
function NumberField({ name, label, settings, texts }: NumberFieldProps): JSX.Element {
  const used = settings[name];
  const [written, set_written] = useState<string | null>(null);
  const [refused, set_refused] = useState(false);
  const { min, max, whole } = ranges[name];
  const format = number_format(settings.language, { maximumFractionDigits: 20 });
  const said = { min: format.format(min), max: format.format(max), used: format.format(used) };
  return (
    <div class="field">
      <label>
        {label}
        <input
          inputMode={whole ? "numeric" : "decimal"}
          autocomplete="off"
          value={written ?? String(used)}
          aria-invalid={refused}
          aria-describedby={refused ? `${name}-refused` : undefined}
          onInput={(event) => {
            const text = event.currentTarget.value;
            const value = number_of(text, whole);
            const right = in_range(name, value);
            set_written(text);
            set_refused(!right);
            if (right) set({ [name]: value });
          }}
          // What is not used is not left standing; why stays to be read.
          onBlur={() => set_written(null)}
        />
      </label>
      {refused && (
        <p class="problem" id={`${name}-refused`} role="alert">
          {filled(whole ? texts.not_used_whole : texts.not_used, said)}
        </p>
      )}
    </div>
  );
}
