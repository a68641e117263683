/** The table by which BiMediX is judged, in the form of its card: nine columns, their unweighted mean, published rows beside. */
import { group_mean } from "./metrics.js";
import { type PublishedTable, published } from "./published.js";
import type { Results } from "./results.js";
import { columns, task_of_column, tasks } from "./tasks.js";

export interface Cell {
  /** Percent. */
  value: number;
  stderr?: number;
}

export interface Row {
  model: string;
  /** A column of `head` each; null where nothing was measured. */
  cells: (Cell | null)[];
  measured: boolean;
}

export interface Table {
  title: string;
  head: readonly string[];
  rows: Row[];
  notes: string[];
}

const HEAD = [...columns, "AVG"];

/** Tables of the nine columns: which tasks fill them, and beside which published rows. */
const KINDS: { title: string; group: string; beside: PublishedTable }[] = [
  { title: "English benchmark", group: "bimedix_en", beside: "en" },
  { title: "Arabic benchmark", group: "bimedix_ar", beside: "ar" },
  { title: "Arabic benchmark, all in Arabic with أ ب ج د", group: "bimedix_ar_letters", beside: "ar" },
];
const BILINGUAL = "Bilingual benchmark (mean of English and Arabic)";

/** What part of each task was asked, where that was not all: a mean of first questions is no result of the test. */
export function limit_of({ run: { limit, tasks: asked } }: Results["bimedix"]): string | null {
  if (limit === null || asked.every(({ original, effective }) => original === effective)) return null;
  const part = limit < 1 ? `first ${Number((100 * limit).toFixed(4))} %` : `first ${Math.floor(limit)}`;
  return `only the ${part} of each task's questions (--limit ${limit})`;
}

/** The tables that a run has numbers for, each marked where a limit was set; tasks outside the nine columns come in one more. */
export function tables(results: Results): Table[] {
  const limit = limit_of(results.bimedix);
  return all_tables(results).map((table) => (limit ? { ...table, title: `${table.title}: ${limit}` } : table));
}

function all_tables(results: Results): Table[] {
  const { name } = results.bimedix.run.model;
  const all: Table[] = [];
  const measured = KINDS.map(({ title, group, beside }) => {
    const cells = columns.map((column) => {
      const task = task_of_column(group, column);
      const result = task && results.results[task.name];
      return result ? cell_of(result["acc,none"], result["acc_stderr,none"]) : null;
    });
    if (cells.some((cell) => cell !== null)) all.push(column_table(title, name, cells, beside));
    return cells;
  });
  const both = measured[0]!.map((cell, i) => {
    const other = measured[1]![i];
    if (!cell || !other) return null;
    const stderr = Math.hypot(cell.stderr ?? 0, other.stderr ?? 0) / 2;
    return { value: (cell.value + other.value) / 2, stderr };
  });
  if (both.some((cell) => cell !== null)) all.push(column_table(BILINGUAL, name, both, "bilingual"));
  const others = Object.values(results.results).filter((one) => !tasks.has(one.name) && !results.groups?.[one.name]);
  if (others.length > 0) {
    const cells = others.map((one) => cell_of(one["acc,none"], one["acc_stderr,none"]));
    const head = others.map((one) => one.name);
    all.push({ title: "Own questions", head, rows: [{ model: name, cells, measured: true }], notes: [] });
  }
  return all;
}

function column_table(title: string, model: string, cells: (Cell | null)[], beside: PublishedTable): Table {
  const present = cells.filter((cell) => cell !== null);
  const mean = group_mean(
    present.map(({ value, stderr }) => ({ value, stderr: stderr ?? "N/A", size: 1 })),
    false,
  );
  const average = { value: mean.value, ...(mean.stderr === "N/A" ? {} : { stderr: mean.stderr }) };
  const rows: Row[] = published[beside].map(({ model: name, values }) => ({
    model: name,
    cells: values.map((value) => ({ value })),
    measured: false,
  }));
  rows.push({ model, cells: [...cells, average], measured: true });
  const notes = published[beside].flatMap(({ model: name, note }) => (note ? [`${name}: ${note}`] : []));
  if (present.length < columns.length) notes.push(`AVG of ${model} is over ${present.length} of 9 columns.`);
  return { title, head: HEAD, rows, notes };
}

function cell_of(value: unknown, stderr: unknown): Cell {
  return { value: 100 * (value as number), ...(typeof stderr === "number" ? { stderr: 100 * stderr } : {}) };
}

const number = (cell: Cell | null, missing: string): string => (cell ? cell.value.toFixed(1) : missing);
const with_error = (cell: Cell | null, missing: string, sign: string): string =>
  cell?.stderr === undefined ? number(cell, missing) : `${cell.value.toFixed(1)}${sign}${cell.stderr.toFixed(1)}`;

/** For a terminal: columns aligned, one table after the other. */
export function to_text(list: readonly Table[]): string {
  return list
    .map(({ title, head, rows, notes }) => {
      const lines = [
        ["", ...head],
        ...rows.map((row) => [row.model, ...row.cells.map((c) => with_error(c, "–", "±"))]),
      ];
      const widths = lines[0]!.map((_, i) => Math.max(...lines.map((line) => line[i]!.length)));
      const drawn = lines.map((line) =>
        line.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  "),
      );
      return [title, ...drawn, ...notes.map((note) => `  ${note}`)].join("\n");
    })
    .join("\n\n");
}

export function to_markdown(list: readonly Table[]): string {
  return list
    .map(({ title, head, rows, notes }) => {
      const lines = [
        `| Model | ${head.join(" | ")} |`,
        `| --- |${" ---: |".repeat(head.length)}`,
        ...rows.map(({ model, cells, measured }) => {
          const name = measured ? `**${escape_markdown(model)}**` : escape_markdown(model);
          return `| ${name} | ${cells.map((cell) => with_error(cell, "–", " ± ")).join(" | ")} |`;
        }),
      ];
      return [`### ${title}`, "", ...lines, ...notes.flatMap((note) => ["", escape_markdown(note)]), ""].join("\n");
    })
    .join("\n");
}

const escape_markdown = (text: string) => text.replace(/[|*_<>]/g, "\\$&");

export function to_latex(list: readonly Table[]): string {
  return list
    .map(({ title, head, rows, notes }) => {
      const line = (cells: string[]) => `${cells.join(" & ")} \\\\`;
      return [
        "\\begin{table}",
        "\\centering",
        `\\caption{${escape_latex([title, ...notes].join(". "))}}`,
        `\\begin{tabular}{l${"r".repeat(head.length)}}`,
        "\\toprule",
        line(["Model", ...head.map(escape_latex)]),
        "\\midrule",
        ...rows.map(({ model, cells }) =>
          line([escape_latex(model), ...cells.map((cell) => with_error(cell, "--", "\\,$\\pm$\\,"))]),
        ),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
        "",
      ].join("\n");
    })
    .join("\n");
}

const escape_latex = (text: string) =>
  text
    .replace(/[\\{}]/g, (c) => ({ "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}" })[c]!)
    .replace(/[&%$#_]/g, "\\$&");

/** One line a cell: table, model, column, value, stderr. */
export function to_csv(list: readonly Table[]): string {
  const quote = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = list.flatMap(({ title, head, rows }) =>
    rows.flatMap(({ model, cells, measured }) =>
      cells.flatMap((cell, i) =>
        cell
          ? [
              [
                title,
                model,
                measured ? "measured" : "published",
                head[i]!,
                number(cell, ""),
                cell.stderr?.toFixed(2) ?? "",
              ],
            ]
          : [],
      ),
    ),
  );
  return [["table", "model", "origin", "column", "accuracy", "stderr"], ...lines]
    .map((line) => `${line.map(quote).join(",")}\n`)
    .join("");
}
