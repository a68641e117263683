/** The curves of a run as one HTML file without scripts or sources elsewhere: loss, gradient norm, learning rate, and the router. */
import { basename, join, resolve } from "node:path";
import { write_atomically } from "../files.js";
import { type LogEntry, read_log } from "./log.js";

const STYLE = `
:root { color-scheme: light dark; --a: #2a6fb0; --b: #c2701c; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --a: #6cabe6; --b: #eba45a; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; } svg { width: 100%; font-size: 11px; } svg text { fill: currentColor; }
.grid { stroke: var(--line); } path { fill: none; stroke-width: 1.6; } .a { stroke: var(--a); } .b { stroke: var(--b); }
circle.b { fill: var(--b); } .cell { fill: var(--a); } small { opacity: .75; }
`;

type Point = readonly [x: number, y: number];

interface Chart {
  title: string;
  /** At most two: measured at every step, and now and then. */
  series: { name: string; points: Point[] }[];
}

/** Draws the log of a run beside it and returns the file. */
export async function write_plot(output_dir: string): Promise<string> {
  const file = join(output_dir, "curves.html");
  const page = plot_page(basename(resolve(output_dir)), await read_log(join(output_dir, "log.jsonl")));
  await write_atomically(file, (handle) => handle.writeFile(page));
  return file;
}

export function plot_page(name: string, log: readonly LogEntry[]): string {
  const points = (key: keyof LogEntry): Point[] =>
    log.flatMap((entry) => (typeof entry[key] === "number" ? [[entry.step, entry[key]] as Point] : []));
  const layers = log.findLast(({ router_entropy }) => router_entropy)?.router_entropy?.length ?? 0;
  const entropy = Array.from({ length: layers }, (_, layer): Point[] =>
    log.flatMap(({ step, router_entropy }) => {
      const value = router_entropy?.[layer];
      return typeof value === "number" ? [[step, value] as Point] : [];
    }),
  );
  const sets = new Set(
    log.flatMap((entry) =>
      Object.keys(entry).filter((key): key is `eval_${string}_loss` => /^eval_.+_loss$/.test(key)),
    ),
  );
  const charts: Chart[] = [
    {
      title: "Loss, nats a token",
      series: [
        { name: "training", points: points("loss") },
        { name: "held out", points: points("eval_loss") },
      ],
    },
    ...[...sets].map((key) => ({
      title: `Held-out loss, ${key.slice(5, -5)}`,
      series: [{ name: "held out", points: points(key) }],
    })),
    { title: "Load-balancing loss", series: [{ name: "training", points: points("aux_loss") }] },
    { title: "Norm of the gradient", series: [{ name: "before clipping", points: points("grad_norm") }] },
    { title: "Learning rate", series: [{ name: "", points: points("learning_rate") }] },
    { title: "Tokens a second", series: [{ name: "", points: points("tokens_per_second") }] },
    ...entropy.map((series, layer) => ({
      title: `Entropy of the router, layer ${layer}, nats`,
      series: [{ name: "", points: series }],
    })),
  ];
  const load = log.findLast(({ expert_load }) => expert_load)?.expert_load;
  const figures = charts.filter(({ series }) => series.some(({ points }) => points.length > 0)).map(chart);
  if (load && load.length > 0) figures.push(heat_map(load));
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${html(name)}</title><style>${STYLE}</style><h1>${html(name)}</h1>
<p>${log.at(-1)?.step ?? 0} steps, ${(log.findLast(({ num_input_tokens_seen }) => num_input_tokens_seen)?.num_input_tokens_seen ?? 0).toLocaleString("en")} tokens.</p>
<main>${figures.join("\n")}</main></html>\n`;
}

const html = (text: string) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);
const number = (x: number) =>
  x !== 0 && Math.abs(x) < 1e-3 ? x.toExponential(1) : Number(x.toPrecision(4)).toLocaleString("en");

const [WIDTH, HEIGHT, LEFT, BOTTOM] = [440, 220, 56, 24];

function chart({ title, series }: Chart): string {
  const all = series.flatMap(({ points }) => points);
  const [low_x, high_x] = range(all.map(([x]) => x));
  const [low_y, high_y] = range(all.map(([, y]) => y));
  const x_of = (x: number) => LEFT + ((x - low_x) / (high_x - low_x)) * (WIDTH - LEFT - 8);
  const y_of = (y: number) => 8 + (1 - (y - low_y) / (high_y - low_y)) * (HEIGHT - BOTTOM - 8);
  const lines = [0, 0.5, 1].map((part) => {
    const y = low_y + part * (high_y - low_y);
    const at = y_of(y).toFixed(1);
    return `<line class="grid" x1="${LEFT}" x2="${WIDTH - 8}" y1="${at}" y2="${at}"/><text x="${LEFT - 4}" y="${at}" text-anchor="end" dominant-baseline="middle">${number(y)}</text>`;
  });
  const ends = [low_x, high_x].map(
    (x, i) => `<text x="${x_of(x)}" y="${HEIGHT - 6}" text-anchor="${i ? "end" : "start"}">${number(x)}</text>`,
  );
  const paths = series.map(({ points }, i) => {
    const mark = "ab"[i];
    const path = points.map(([x, y], n) => `${n ? "L" : "M"}${x_of(x).toFixed(1)} ${y_of(y).toFixed(1)}`).join("");
    const dots =
      i === 0
        ? ""
        : points
            .map(([x, y]) => `<circle class="b" r="2.5" cx="${x_of(x).toFixed(1)}" cy="${y_of(y).toFixed(1)}"/>`)
            .join("");
    return `<path class="${mark}" d="${path}"/>${dots}`;
  });
  const named = series.filter(({ name, points }) => name && points.length > 0);
  const ending = named
    .map(({ name, points }) => `${name}: ${number(points[0]![1])} → ${number(points.at(-1)![1])}`)
    .join("; ");
  return `<figure><figcaption>${html(title)}</figcaption><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${html(`${title}. ${ending}`)}">${[...lines, ...ends, ...paths].join("")}</svg><small>${html(ending)}</small></figure>`;
}

function range(values: readonly number[]): [number, number] {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return high > low ? [low, high] : [low - 0.5, high + 0.5];
}

/** Each expert's share of the choices, a row a layer. */
function heat_map(load: readonly number[][]): string {
  const experts = load[0]!.length;
  const [wide, high] = [Math.min(48, 380 / experts), Math.min(24, 300 / load.length)];
  const most = Math.max(...load.flat());
  const cells = load.flatMap((shares, layer) =>
    shares.map((share, expert) => {
      const place = `x="${LEFT + expert * wide}" y="${layer * high}" width="${wide - 1}" height="${high - 1}"`;
      return `<rect class="cell" ${place} fill-opacity="${(share / most).toFixed(3)}"><title>layer ${layer}, expert ${expert}: ${(100 * share).toFixed(1)} %</title></rect>`;
    }),
  );
  const names = load.map(
    (_, layer) =>
      `<text x="${LEFT - 6}" y="${(layer + 0.5) * high}" text-anchor="end" dominant-baseline="middle">layer ${layer}</text>`,
  );
  const size = `viewBox="0 0 ${LEFT + experts * wide} ${load.length * high}"`;
  return `<figure><figcaption>Load of the experts at the end</figcaption><svg ${size} role="img" aria-label="share of each expert by layer">${cells.join("")}${names.join("")}</svg><small>An even share is ${(100 / experts).toFixed(1)} %; the darkest is ${(100 * most).toFixed(1)} %.</small></figure>`;
}
