import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { type Mcqa, mcqa } from "./api.js";
import type { State } from "./store.js";
import { number_format, type Texts } from "./texts.js";

const examples = {
  en: { question: "Which organ makes insulin?", options: ["The pancreas", "The liver", "The spleen", "The kidney"] },
  ar: { question: "أي عضو يفرز الأنسولين؟", options: ["البنكرياس", "الكبد", "الطحال", "الكلية"] },
};

/** A question with options, and a bar an option. */
export function McqaView({ state, texts }: { state: State; texts: Texts }): JSX.Element {
  const { language, model } = state.settings;
  const [question, set_question] = useState(examples[language].question);
  const [options, set_options] = useState(examples[language].options);
  const [result, set_result] = useState<Mcqa | null>(null);
  const [problem, set_problem] = useState("");
  const [waiting, set_waiting] = useState(false);
  const percent = number_format(language, { style: "percent", maximumFractionDigits: 1 });
  const best = result && Math.max(...result.options.map(({ probability }) => probability));

  const likeliest = result?.options.find(({ probability }) => probability === best);

  async function ask(): Promise<void> {
    set_problem("");
    set_waiting(true);
    try {
      set_result(await mcqa(model, question.trim(), options.map((option) => option.trim()).filter(Boolean)));
    } catch (error) {
      set_result(null);
      set_problem(`${texts.failed}: ${(error as Error).message}`);
    }
    set_waiting(false);
  }

  return (
    <section class="page" aria-label={texts.mcqa}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void ask();
        }}
      >
        <label>
          {texts.question}
          <textarea dir="auto" rows={3} value={question} onInput={(event) => set_question(event.currentTarget.value)} />
        </label>
        {options.map((option, i) => (
          <div class="option" key={i}>
            <label>
              <span>
                {texts.option} {number_format(language).format(i + 1)}
              </span>
              <input
                dir="auto"
                value={option}
                onInput={(event) => set_options(options.with(i, event.currentTarget.value))}
              />
            </label>
            {options.length > 2 && (
              <button
                type="button"
                class="quiet"
                aria-label={`${texts.remove_option} ${i + 1}`}
                onClick={() => set_options(options.toSpliced(i, 1))}
              >
                ×
              </button>
            )}
          </div>
        ))}
        <div class="actions">
          <button type="submit">{texts.ask}</button>
          {options.length < 10 && (
            <button type="button" class="quiet" onClick={() => set_options([...options, ""])}>
              {texts.add_option}
            </button>
          )}
        </div>
      </form>
      {problem && (
        <p class="problem" role="alert" dir="auto">
          {problem}
        </p>
      )}
      <p class="sr-only" role="status">
        {waiting
          ? texts.waiting
          : likeliest &&
            `${texts.likeliest}: ${likeliest.letter}. ${likeliest.text}, ${percent.format(likeliest.probability)}`}
      </p>
      {result && (
        <ol class="bars" aria-label={texts.mcqa}>
          {result.options.map(({ letter, text, probability }) => (
            <li key={letter} class={probability === best ? "best" : ""}>
              <span class="bar" style={{ inlineSize: `${100 * probability}%` }} aria-hidden="true" />
              <span class="bar-text">
                <bdi>
                  {letter}. {text}
                </bdi>
                <span>
                  {probability === best && <span class="tag">{texts.likeliest}</span>} {percent.format(probability)}
                </span>
              </span>
            </li>
          ))}
        </ol>
      )}
    </section>
  );
}
