import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Mcqa, mcqa } from "./api.js";
import { PageError, type Problem, ProblemView, problem_of } from "./problems.js";
import type { State } from "./store.js";
import { filled, number_format, type Texts } from "./texts.js";

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
  const [problem, set_problem] = useState<Problem | null>(null);
  /** The option that is empty between others. */
  const [gap, set_gap] = useState<number | null>(null);
  const [waiting, set_waiting] = useState(false);
  const percent = number_format(language, { style: "percent", maximumFractionDigits: 1 });
  const best = result && Math.max(...result.options.map(({ probability }) => probability));
  const running = useRef(false);
  const fields = useRef<HTMLFormElement>(null);
  const outcome = useRef<HTMLDivElement>(null);
  const likeliest = result?.options.find(({ probability }) => probability === best);

  useEffect(() => outcome.current?.scrollIntoView({ block: "nearest" }), [result, problem]);

  async function ask(): Promise<void> {
    if (running.current) return;
    // Letters go by place: what is empty at the end changes none, what is empty in between would.
    const given = options.map((option) => option.trim());
    const last = given.findLastIndex(Boolean);
    const empty = given.findIndex((option, i) => option === "" && i < last);
    set_problem(null);
    set_gap(empty < 0 ? null : empty);
    if (empty >= 0) {
      set_result(null);
      return fields.current!.querySelectorAll("input")[empty]!.focus();
    }
    running.current = true;
    set_waiting(true);
    try {
      if (question.trim() === "") throw new PageError("empty");
      if (last < 1) throw new PageError("options");
      set_result(await mcqa(model, question.trim(), given.slice(0, last + 1)));
    } catch (error) {
      set_result(null);
      set_problem(problem_of(error));
    }
    running.current = false;
    set_waiting(false);
  }

  return (
    <section class="page" aria-label={texts.mcqa}>
      <form
        ref={fields}
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
                aria-invalid={gap === i}
                aria-describedby={gap === i ? "gap" : undefined}
                onInput={(event) => set_options(options.with(i, event.currentTarget.value))}
              />
            </label>
            {options.length > 2 && (
              <button
                type="button"
                class="quiet"
                aria-label={`${texts.remove_option} ${number_format(language).format(i + 1)}`}
                onClick={() => {
                  set_gap(null);
                  set_options(options.toSpliced(i, 1));
                }}
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
        {gap !== null && (
          <p class="problem" id="gap" role="alert">
            {filled(texts.option_empty, { option: number_format(language).format(gap + 1) })}
          </p>
        )}
      </form>
      <p class="sr-only" role="status">
        {waiting
          ? texts.waiting
          : likeliest &&
            `${texts.likeliest}: ${likeliest.letter}. ${likeliest.text}, ${percent.format(likeliest.probability)}`}
      </p>
      <div ref={outcome}>
        {problem && <ProblemView problem={problem} texts={texts} alert />}
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
      </div>
    </section>
  );
}
