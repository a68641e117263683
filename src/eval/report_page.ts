/** Style and script of the report's page. The script builds the list of questions from the data in the page, as text only. */
export const PAGE_STYLE = `
:root { color-scheme: light dark; --en: #2a6fb0; --ar: #c2701c; --line: #8886; --right: #1c7c44; --wrong: #b3352f; }
@media (prefers-color-scheme: dark) { :root { --en: #6cabe6; --ar: #eba45a; --right: #55bd7f; --wrong: #ec7a73; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1rem; }
.notice { border-inline-start: 4px solid var(--wrong); padding-inline-start: .75rem; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; }
dt { font-size: .8rem; opacity: .75; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .45rem; border-bottom: 1px solid var(--line); text-align: end; white-space: nowrap; }
th:first-child, td:first-child { text-align: start; font-weight: 500; } details { margin: 1rem 0; } .measured > * { font-weight: 700; } small, .note { opacity: .75; font-size: .85em; }
svg { width: 100%; min-width: 34rem; font-size: 12px; } svg.square { min-width: 0; max-width: 20rem; }
svg text { fill: currentColor; } .grid { stroke: var(--line); fill: none; } .error { stroke: currentColor; stroke-width: 1.5; }
.chance { stroke: currentColor; stroke-dasharray: 3 2; fill: none; opacity: .7; }
rect.en { fill: var(--en); } rect.ar { fill: var(--ar); } rect.letters { fill-opacity: .55; }
.legend i { display: inline-block; width: .9em; height: .9em; margin-inline-start: .8em; vertical-align: -.1em; }
i.en { background: var(--en); } i.ar { background: var(--ar); } i.letters { opacity: .55; } i.chance { border-inline-start: 2px dashed; width: 0; }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; flex: 1 1 16rem; } figcaption { font-size: .9rem; }
form { display: flex; flex-wrap: wrap; gap: 1rem; align-items: end; } select, input, button { font: inherit; }
article { border-top: 1px solid var(--line); padding: .75rem 0; } article h3 { margin: 0; font-size: .85rem; font-weight: 500; opacity: .8; }
article p { margin: .4rem 0; white-space: pre-wrap; } ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 1fr 10rem; gap: .75rem; padding: .15rem .4rem; } li.gold { outline: 1px solid var(--right); border-radius: 4px; }
li.chosen { font-weight: 600; } meter { width: 5.5rem; } .probability { white-space: nowrap; } .ok { color: var(--right); } .no { color: var(--wrong); }
`;

export const PAGE_SCRIPT = `
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filter"), list = document.getElementById("items"), more = document.getElementById("more");
const make = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const chosen = (one) => one.options.reduce((best, option, i) => (option.p > one.options[best].p ? i : best), 0);
let found = [], shown = 0;
const show = () => {
  for (const one of found.slice(shown, shown + 25)) {
    const answer = chosen(one), right = answer === one.gold;
    const box = make("article"), head = make("h3", one.task + " " + one.id + " ");
    head.append(make("span", right ? "✓ right" : "✗ wrong", right ? "ok" : "no"));
    const question = make("p", one.question), options = make("ol");
    question.dir = options.dir = one.dir;
    one.options.forEach((option, i) => {
      const row = make("li", undefined, (i === one.gold ? "gold " : "") + (i === answer ? "chosen" : ""));
      const text = make("span", option.text ? option.label + ". " : option.label);
      const meter = make("meter"), side = make("span", undefined, "probability");
      text.append(make("bdi", option.text));
      side.dir = "ltr";
      meter.value = option.p;
      meter.setAttribute("aria-label", "probability");
      side.append(meter, " " + (100 * option.p).toFixed(1) + " %");
      row.append(text, side);
      row.title = [i === one.gold ? "the right answer" : "", i === answer ? "the model's answer" : ""].filter(Boolean).join(", ");
      options.append(row);
    });
    box.append(head, question, options);
    list.append(box);
  }
  shown = Math.min(found.length, shown + 25);
  more.hidden = shown === found.length;
  document.getElementById("count").textContent = shown + " of " + found.length;
};
const filter = () => {
  const { task, right, text } = Object.fromEntries(new FormData(form));
  found = data.filter((one) =>
    (!task || one.task === task) &&
    (!right || (chosen(one) === one.gold) === (right === "1")) &&
    (!text || one.question.includes(text) || one.options.some((option) => option.text.includes(text))));
  shown = 0;
  list.replaceChildren();
  show();
};
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", show);
filter();
`;
