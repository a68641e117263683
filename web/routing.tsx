import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Routing, routing } from "./api.js";
import { PageError, type Problem, ProblemView, problem_of } from "./problems.js";
import type { State } from "./store.js";
import { number_format, type Texts } from "./texts.js";

const examples = ["The patient has diabetes and takes insulin.", "المريض مصاب بالسكري ويأخذ الأنسولين."] as const;

/** Colours that are told apart by eyes of every kind (Okabe and Ito, https://jfly.uni-koeln.de/color/). */
const colors = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a7a00", "#666666"];

/** Which experts each token chose in each layer: English beside Arabic. */
export function RoutingView({ state, texts }: { state: State; texts: Texts }): JSX.Element {
  const { model, language } = state.settings;
  const [prompts, set_prompts] = useState<readonly string[]>(examples);
  const [results, set_results] = useState<Routing[]>([]);
  const [problem, set_problem] = useState<Problem | null>(null);
  const [waiting, set_waiting] = useState(false);
  const running = useRef(false);
  const outcome = useRef<HTMLDivElement>(null);
  const labels = [texts.english_text, texts.arabic_text];
  const format = number_format(language);

  useEffect(() => outcome.current?.scrollIntoView({ block: "nearest" }), [results, problem]);

  async function show(): Promise<void> {
    if (running.current) return;
    running.current = true;
    set_problem(null);
    set_waiting(true);
    try {
      if (prompts.some((prompt) => prompt.trim() === "")) throw new PageError("empty");
      const all: Routing[] = [];
      for (const prompt of prompts) all.push(await routing(model, prompt.trim()));
      set_results(all);
    } catch (error) {
      set_results([]);
      set_problem(problem_of(error));
    }
    running.current = false;
    set_waiting(false);
  }

  return (
    <section class="page wide" aria-label={texts.routing}>
      <p dir="auto">{texts.routing_about}</p>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void show();
        }}
      >
        <div class="pair">
          {prompts.map((prompt, i) => (
            <label key={labels[i]}>
              {labels[i]}
              <textarea
                dir="auto"
                rows={2}
                value={prompt}
                onInput={(event) => set_prompts(prompts.map((one, j) => (j === i ? event.currentTarget.value : one)))}
              />
            </label>
          ))}
        </div>
        <button type="submit">{texts.show}</button>
      </form>
      <p class="sr-only" role="status">
        {waiting ? texts.waiting : results.length > 0 && texts.routing_shown}
      </p>
      <div ref={outcome}>
        {problem && <ProblemView problem={problem} texts={texts} alert />}
        {results.length > 0 && (
          <ul class="legend">
            {Array.from({ length: results[0]!.experts }, (_, expert) => (
              <li key={expert}>
                <span class="swatch" style={{ background: colors[expert % colors.length] }} aria-hidden="true" />
                {texts.expert} {format.format(expert + 1)}
              </li>
            ))}
          </ul>
        )}
        <div class="pair">
          {results.map((result, i) => (
            <Heat
              key={labels[i]}
              result={result}
              title={labels[i]!}
              dir={i === 0 ? "ltr" : "rtl"}
              texts={texts}
              format={format}
            />
          ))}
        </div>
      </div>
    </section>
  );
}

interface HeatProps {
  result: Routing;
  title: string;
  dir: "ltr" | "rtl";
  texts: Texts;
  format: Intl.NumberFormat;
}

function Heat({ result, title, dir, texts, format }: HeatProps): JSX.Element {
  const percent = new Intl.NumberFormat(format.resolvedOptions().locale, { style: "percent" });
  const { tokens, layers } = result;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, by keys too
    <section class="table" dir={dir} tabIndex={0} aria-label={title}>
      <table class="heat">
        <caption>{title}</caption>
        <thead>
          <tr>
            <th scope="col">
              <span class="sr-only">{texts.layer}</span>
            </th>
            {tokens.map((token, i) => (
              <th scope="col" key={i}>
                <bdi>{token.trim() || "␣"}</bdi>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {layers.map((row, layer) => (
            <tr key={layer}>
              <th scope="row">{format.format(layer + 1)}</th>
              {row.map(({ experts, probabilities }, i) => {
                const [first] = experts;
                const share = probabilities[first!]!;
                const chosen = experts.map((expert) => format.format(expert + 1)).join(" + ");
                return (
                  <td
                    key={i}
                    title={experts
                      .map(
                        (expert) =>
                          `${texts.expert} ${format.format(expert + 1)}: ${percent.format(probabilities[expert]!)}`,
                      )
                      .join("\n")}
                  >
                    <span
                      class="cell"
                      style={{ background: colors[first! % colors.length], opacity: 0.25 + 0.75 * share }}
                    />
                    <span class="sr-only">{chosen}</span>
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}
