/** The tables as Markdown, LaTeX and CSV, and one page to look at: all of it in single files that need nothing else. */
import { join } from "node:path";
import { write_atomically } from "../files.js";
import { with_output } from "../lock.js";
import { type Language, language_of } from "../text/arabic.js";
import { type Calibration, calibration, mean, softmax, sum } from "./metrics.js";
import { PAGE_SCRIPT, PAGE_STYLE } from "./report_page.js";
import type { Results } from "./results.js";
import { type Run, type RunInfo, type Sample, samples_of } from "./run.js";
import { limit_of, type Table, tables, to_csv, to_latex, to_markdown } from "./table.js";
import { question_of, tasks } from "./tasks.js";

/** Writes report_<date>.md, .tex, .csv and .html beside the results. */
export async function write_report(run: Run, results: Results, folder: string, date: string): Promise<void> {
  const list = tables(results);
  const files = { md: to_markdown(list), tex: to_latex(list), csv: to_csv(list), html: to_html(run, results, list) };
  await with_output(folder, "bimedix eval", async () => {
    for (const [kind, text] of Object.entries(files))
      await write_atomically(join(folder, `report_${date}.${kind}`), (file) => file.writeFile(text));
  });
}

const escape_html = (text: string) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

/** One self-contained page: no script or style from anywhere else, and what a data set holds is only ever text. */
export function to_html(run: Run, results: Results, list: readonly Table[]): string {
  const info = run.header.run;
  const { model } = info;
  const made_by = Object.entries(model.versions)
    .map((pair) => pair.join(" "))
    .join(", ");
  const facts = [
    ["Model", model.name],
    ["Precision", [model.dtype, model.activations].filter(Boolean).join(", activations ")],
    ["Shots", String(info.num_fewshot)],
    ["<s> in front", info.add_bos ? "yes" : "no"],
    ["Chat template", info.chat_template === null ? "no" : "yes"],
    ["Questions", asked(info.tasks)],
    ["Limit", limit_of(results.bimedix) ?? "none"],
    ["Weights", model.sha256.slice(0, 12)],
    ["Engine", model.engine === "bimedix" ? made_by : `${model.engine}, asked by ${made_by}`],
  ];
  const items = JSON.stringify([...samples_of(run).values()].flat().map(item)).replaceAll("<", "\\u003c");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>${escape_html(model.name)}: medical benchmarks</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<h1>${escape_html(model.name)}</h1>
<p class="notice">Scores on examinations, for research. They say nothing about fitness for the care of patients.</p>
<dl>${facts.map(([name, value]) => `<div><dt>${escape_html(name!)}</dt><dd>${escape_html(value!)}</dd></div>`).join("")}</dl>
${list.map(html_table).join("\n")}
<h2>Accuracy by task and language</h2>
${accuracy_chart(results, samples_of(run))}
${task_table(results)}
<h2>Calibration</h2>
<p>How often answers of a given probability are right; on the diagonal they are as right as they claim to be.</p>
<div class="side">${calibration_charts(run)}</div>
<h2>Questions</h2>
<form id="filter">
<label>Task <select name="task"><option value="">all</option>${info.tasks
    .map(({ name }) => `<option>${escape_html(name)}</option>`)
    .join("")}</select></label>
<label>Answers <select name="right"><option value="">all</option><option value="1">right</option><option value="0">wrong</option></select></label>
<label>Contains <input name="text" type="search"></label>
<output id="count"></output>
</form>
<div id="items"></div>
<button id="more" type="button">More</button>
<script type="application/json" id="data">${items}</script>
<script>${PAGE_SCRIPT}</script>
</body>
</html>
`;
}

/** How many questions were asked, and of how many where those are not all. */
function asked(tasks: readonly { original: number; effective: number }[]): string {
  const [effective, original] = [sum(tasks.map((one) => one.effective)), sum(tasks.map((one) => one.original))];
  return effective === original ? String(effective) : `${effective} of ${original}`;
}

interface Item {
  task: string;
  id: number;
  dir: "rtl" | "ltr";
  question: string;
  options: { label: string; text: string; p: number }[];
  gold: number;
}

function item({ task, doc_id, doc, arguments: args, bimedix }: Sample): Item {
  const known = tasks.get(task);
  const labels = Object.values(args).map(({ arg_1 }) => arg_1.trim());
  const texts = known?.options?.get(doc) ?? (Array.isArray(doc.choices) ? (doc.choices as string[]) : labels);
  const context = Array.isArray(doc.CONTEXTS) ? `${(doc.CONTEXTS as string[]).join("\n")}\n\n` : "";
  const question = `${context}${question_of(doc)}`;
  const probabilities = softmax(bimedix.log_likelihoods);
  return {
    task,
    id: doc_id,
    dir: language_of(question) === "ar" ? "rtl" : "ltr",
    question,
    options: labels.map((label, i) => ({
      label,
      text: texts[i] === label ? "" : (texts[i] ?? ""),
      p: Number(probabilities[i]!.toFixed(4)),
    })),
    gold: bimedix.gold,
  };
}

/** What the results say of each task besides its accuracy; a column that says nothing is left out. */
function task_table({ results, groups, bimedix }: Results): string {
  const percent = (value: unknown) => (typeof value === "number" ? `${(100 * value).toFixed(1)} %` : "");
  const lines = Object.values(results)
    .filter(({ name }) => !groups?.[name])
    .map(({ name, ...metrics }): [string, string][] => {
      const { ece, brier } = bimedix.calibration[name]!;
      const found = bimedix.contamination?.tasks[name];
      return [
        ["Task", name],
        ["Questions", asked(bimedix.run.tasks.filter((one) => one.name === name))],
        ["acc", percent(metrics["acc,none"])],
        ["acc_norm", percent(metrics["acc_norm,none"])],
        ["Calibration error", ece.toFixed(3)],
        ["Brier score", brier.toFixed(3)],
        ["Tokens a question", bimedix.tokens_per_question[name]!.toFixed(0)],
        ["Repeat another", bimedix.repeated_questions[name] ? String(bimedix.repeated_questions[name]) : ""],
        ["Cut to fit", bimedix.truncated[name] ? String(bimedix.truncated[name]) : ""],
        ["Changes with order", percent(bimedix.changed_by_order?.[name])],
        ["Found in the corpus", found ? String(found.found) : ""],
        ["acc on the others", percent(found?.accuracy_clean)],
      ];
    });
  const said = lines[0]!.map((_, i) => i).filter((i) => lines.some((line) => line[i]![1] !== ""));
  const head = said.map((i) => `<th>${lines[0]![i]![0]}</th>`).join("");
  const body = lines.map((line) => `<tr>${said.map((i) => `<td>${escape_html(line[i]![1])}</td>`).join("")}</tr>`);
  const gap = Object.entries(bimedix.language_gap).map(([column, value]) => `${column} ${(100 * value).toFixed(1)}`);
  const gaps = gap.length > 0 ? `<p>English less Arabic, in points: ${gap.join(", ")}.</p>` : "";
  return `<details><summary>Every task in numbers</summary><div class="wide"><table class="tasks"><thead><tr>${head}</tr></thead><tbody>${body.join("\n")}</tbody></table></div>${gaps}</details>`;
}

function html_table({ title, head, rows, notes }: Table): string {
  const cells = (row: Table["rows"][number]) =>
    row.cells.map((cell) => {
      const error = cell?.stderr === undefined ? "" : `<small> ±${cell.stderr.toFixed(1)}</small>`;
      return `<td>${cell ? `${cell.value.toFixed(1)}${error}` : "–"}</td>`;
    });
  return `<h2>${escape_html(title)}</h2>
<div class="wide"><table><thead><tr><th>Model</th>${head.map((name) => `<th>${escape_html(name)}</th>`).join("")}</tr></thead><tbody>
${rows
  .map(
    (row) =>
      `<tr${row.measured ? ' class="measured"' : ""}><th>${escape_html(row.model)}</th>${cells(row).join("")}</tr>`,
  )
  .join("\n")}
</tbody></table></div>${notes.map((note) => `<p class="note">${escape_html(note)}</p>`).join("")}`;
}

interface Bar {
  name: string;
  kind: string;
  value: number;
  stderr: number;
  chance: number;
}

/** The bars of each column or own file. */
function bars_of({ results, groups, bimedix }: Results, samples: Map<string, Sample[]>): Map<string, Bar[]> {
  const by_label = new Map<string, Bar[]>();
  for (const { name, ...metrics } of Object.values(results)) {
    if (groups?.[name]) continue;
    const label = tasks.get(name)?.column ?? name;
    const stderr = metrics["acc_stderr,none"];
    const language = language_of_task(bimedix.run, name);
    const own_letters = name.startsWith("arabic_leaderboard") || (language === "ar" && !tasks.has(name));
    const bar = {
      name,
      kind: `${language}${own_letters ? " letters" : ""}`,
      value: metrics["acc,none"] as number,
      stderr: typeof stderr === "number" ? stderr : 0,
      chance: mean(samples.get(name)!.map(({ bimedix: { log_likelihoods } }) => 1 / log_likelihoods.length)),
    };
    by_label.set(label, [...(by_label.get(label) ?? []), bar]);
  }
  return by_label;
}

/** Own questions are in the language that their file was found to be in. */
const language_of_task = (run: RunInfo, name: string): Language =>
  run.tasks.find((task) => task.name === name)?.language ?? tasks.get(name)?.language ?? "en";

/** Horizontal bars with standard errors, a group a column or task; the thin line is chance. */
function accuracy_chart(results: Results, samples: Map<string, Sample[]>): string {
  const by_label = bars_of(results, samples);
  const [left, width, thick] = [90, 560, 14];
  const x = (value: number) => left + value * width;
  let y = 8;
  const parts: string[] = [];
  for (const [label, bars] of by_label) {
    parts.push(
      `<text x="${left - 8}" y="${y + (bars.length * thick) / 2 + 4}" text-anchor="end">${escape_html(label)}</text>`,
    );
    for (const { name, kind, value, stderr, chance } of bars) {
      const middle = y + thick / 2 - 1;
      parts.push(
        `<g><title>${escape_html(name)}: ${(100 * value).toFixed(1)} ± ${(100 * stderr).toFixed(1)} %</title>`,
        `<rect class="${kind}" x="${left}" y="${y}" width="${(value * width).toFixed(1)}" height="${thick - 2}"/>`,
        `<path class="error" d="M${x(Math.max(0, value - stderr)).toFixed(1)} ${middle}H${x(Math.min(1, value + stderr)).toFixed(1)}"/>`,
        `<path class="chance" d="M${x(chance).toFixed(1)} ${y}v${thick - 2}"/></g>`,
        `<text class="value" x="${x(Math.min(1, value + stderr)) + 6}" y="${y + thick - 4}">${(100 * value).toFixed(1)}</text>`,
      );
      y += thick;
    }
    y += 10;
  }
  const ticks = [0, 0.25, 0.5, 0.75, 1].map(
    (value) =>
      `<path class="grid" d="M${x(value)} 0V${y}"/><text x="${x(value)}" y="${y + 14}" text-anchor="middle">${100 * value}</text>`,
  );
  const legend =
    '<p class="legend"><i class="en"></i> English <i class="ar"></i> Arabic, A–D <i class="ar letters"></i> Arabic, أ ب ج د <i class="chance"></i> chance</p>';
  return `${legend}<div class="wide"><svg viewBox="0 0 ${left + width + 60} ${y + 20}" role="img" aria-label="Accuracy by task and language">${ticks.join("")}${parts.join("")}</svg></div>`;
}

function calibration_charts(run: Run): string {
  const by_language = new Map<string, Sample[]>();
  for (const sample of [...samples_of(run).values()].flat()) {
    const language = language_of_task(run.header.run, sample.task) === "ar" ? "Arabic" : "English";
    by_language.set(language, [...(by_language.get(language) ?? []), sample]);
  }
  return [...by_language]
    .map(([language, samples]) => reliability(language, calibration(samples.map(({ bimedix }) => bimedix))))
    .join("");
}

function reliability(language: string, { ece, brier, bins }: Calibration): string {
  const size = 240;
  const at = (value: number) => (value * size).toFixed(1);
  const most = Math.max(...bins.map(({ count }) => count));
  const bars = bins
    .filter(({ count }) => count > 0)
    .map(
      ({ from, to, count, accuracy, confidence }) =>
        `<g><title>${count} answers of mean probability ${confidence.toFixed(2)}: ${(100 * accuracy).toFixed(0)} % right</title>` +
        `<rect class="${language === "Arabic" ? "ar" : "en"}" fill-opacity="${(0.25 + (0.75 * count) / most).toFixed(2)}" x="${at(from)}" y="${at(1 - accuracy)}" width="${at(to - from - 0.01)}" height="${at(accuracy)}"/></g>`,
    );
  const label = `${language}: expected calibration error ${ece.toFixed(3)}, Brier score ${brier.toFixed(3)}`;
  return `<figure><svg class="square" viewBox="-28 -6 ${size + 40} ${size + 40}" role="img" aria-label="${label}">
<path class="grid" d="M0 0V${size}H${size}"/><path class="chance" d="M0 ${size}L${size} 0"/>${bars.join("")}
<text x="${size / 2}" y="${size + 24}" text-anchor="middle">probability of the answer</text><text x="-6" y="10" text-anchor="end">1</text><text x="-6" y="${size}" text-anchor="end">0</text></svg>
<figcaption>${label}</figcaption></figure>`;
}
