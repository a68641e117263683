import type { JSX } from "preact";
import { clear, type Settings, type State, set } from "./store.js";
import type { Language, Texts } from "./texts.js";

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
  const number = (key: "temperature" | "max_tokens", label: string, min: number, max: number, step: number) => (
    <label>
      {label}
      <input
        type="number"
        min={min}
        max={max}
        step={step}
        value={settings[key]}
        onChange={(event) => {
          const value = event.currentTarget.valueAsNumber;
          if (value >= min && value <= max) set({ [key]: value });
        }}
      />
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
      {number("temperature", texts.temperature, 0, 2, 0.1)}
      {number("max_tokens", texts.max_tokens, 1, 100_000, 1)}
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
