/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** What stands on the page: Markdown as marked gives it, both directions, all widths, and paper. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parse } from "marked";
import { describe_page, type PageTest } from "./page_browser.js";

const long_word = "Pneumonoultramicroscopicsilicovolcanoconiosis".repeat(3);
const address = `https://example.org/${"a/very-long-path_without_breaks".repeat(6)}?q=1`;

/** Answers that have each form of Markdown, one at a time. */
const forms = [
  "0. zero\n1. one",
  "7. seven\n8. eight\n\nBetween.\n\n9. nine",
  "10) ten\n11) eleven",
  "1. a\n   - b\n     1. c\n\n        d\n2. e",
  "- [ ] open\n- [x] done\n- plain",
  "1. [x] loose\n\n   more",
  "| a | b | c | d |\n| :-- | :-: | --: | --- |\n| 1 | 2 | 3 | x<br>y |",
  "5 &lt; 6 &amp; 7 &gt; 2 &quot;&copy;&eacute;&hellip;&nbsp;&#65;&#x42; &notanentity; & &amp;lt; \\&lt;",
  "`&lt;` [t &amp; t](https://example.org/?a=1&amp;b=2)\n\n```\n<b> &amp; &lt;\n```",
  "hard  \nbreak\\\nand\nsoft",
  "~~gone~~ ~also~ **bold *both*** __x__ a_b_c 2*3*4",
  "www.example.org me@example.org <https://example.org> https://example.org/x_(y). <mailto:me@example.org>",
  "# One\n\n## Two\n\n---\n\n> quote\n> > deeper",
  "[ref]\n\n[ref]: https://example.org/ref",
  "*   \n* after an empty one",
];

/** Elements and texts, without what either side puts around them for direction or style. */
function skeleton(html: string | null): string {
  const from =
    html === null
      ? document.querySelector(".turns article:last-child")!
      : new DOMParser().parseFromString(html, "text/html").body;
  const text = (node: Node) =>
    node.parentElement!.closest("pre") ? node.textContent!.trimEnd() : node.textContent!.replace(/[ \n]+/g, " ");
  const walk = (node: Node): string => {
    if (node.nodeType === Node.TEXT_NODE) return text(node);
    if (!(node instanceof HTMLElement) || node.matches(".actions")) return "";
    const inside = [...node.childNodes].map(walk).join("");
    const tag = node.tagName.toLowerCase();
    if (["span", "bdi", "div", "body", "article"].includes(tag)) return inside;
    const kept = {
      start: node instanceof HTMLOListElement && node.start !== 1 ? node.start : "",
      align: node.getAttribute("align") ?? node.style.textAlign,
      href: node instanceof HTMLAnchorElement ? new URL(node.href).href : "",
      checked: node instanceof HTMLInputElement && node.checked ? "yes" : "",
    };
    const attributes = Object.entries(kept).map(([key, value]) => (value === "" ? "" : ` ${key}=${value}`));
    const level = /^h(\d)$/.exec(tag);
    // The page has headings of its own above.
    const name = level && node.closest("article") ? `h${Number(level[1]) - 2}` : tag;
    return `<${name}${attributes.join("")}>${inside.trim()}</${name}>`;
  };
  return walk(from).replace(/>\s+</g, "><").trim();
}

/** What of the page lies beside the window, but for what scrolls by itself. */
const beside = ({ page }: PageTest) =>
  page.evaluate(() => {
    const width = document.documentElement.clientWidth;
    const wide = document.scrollingElement!.scrollWidth > width ? ["the page"] : [];
    const scrolls = (one: Element) => /auto|scroll/.test(getComputedStyle(one).overflowX);
    for (const one of document.querySelectorAll("body *")) {
      const { left, right, width: own } = one.getBoundingClientRect();
      const name = `${one.tagName}.${one.className}`;
      if (scrolls(one) && !one.matches(".table, pre") && one.scrollWidth > one.clientWidth)
        wide.push(`${name} scrolls`);
      if (own === 0 || one.closest(".sr-only") || one.parentElement!.closest(".table, pre")) continue;
      if (left < -0.5 || right > width + 0.5) wide.push(`${name} ${Math.round(left)}..${Math.round(right)}`);
    }
    return wide;
  });

describe_page("text on the page", (of) => {
  test("Markdown has the elements that marked 18.2.1 gives it", async () => {
    const t = of();
    await t.open("en");
    const hand = await t.answer_by_hand();
    for (const [n, form] of forms.entries()) {
      await t.ask(`form ${n}`);
      await hand.write(n, form);
      await hand.end(n);
      await t.page.waitForSelector(`.turns article:nth-child(${2 * n + 2})`);
      await t.idle();
      const expected = await t.page.evaluate(skeleton, await parse(form));
      assert.equal(await t.page.evaluate(skeleton, null), expected, form);
    }
    assert.deepEqual(await t.page.locator("article input").evaluateAll((all) => all.map((one) => one.ariaLabel)), [
      "to do",
      "done",
      "done",
    ]);
    assert.deepEqual(await t.faults(), []);
    assert.deepEqual(t.problems, []);
  });

  test("hostile Markdown does nothing in entities, tasks, tables, addresses and breaks", async () => {
    const t = of();
    await t.open("en");
    const hostile = [
      "- [x] <input onfocus=globalThis.hacked=1 autofocus> &lt;img src=x onerror=globalThis.hacked=1&gt;",
      "&lt;script&gt;globalThis.hacked=1&lt;/script&gt; &#60;svg onload=globalThis.hacked=1&#62; &lt;/textarea&gt;<b>",
      "[a](javascript&colon;globalThis.hacked=1) [b](&#106;avascript:globalThis.hacked=1) <javascript:hacked=1>",
      "[c](data&colon;text/html,x) [d](//evil.example) [e](vbscript:x) [f](mailto:a@b.c?subject=x)",
      "<br onclick=globalThis.hacked=1> <br/ onload=x>",
      "| <img src=x onerror=globalThis.hacked=1> |\n| :-: |\n| &lt;iframe src=javascript:hacked=1&gt; |",
      '![x](https://evil.example/?q "t") ![&lt;b&gt;](x)',
    ].join("\n\n");
    const requested: string[] = [];
    t.page.on("request", (request) => requested.push(request.url()));
    await t.answer_with(hostile);
    await t.ask("x");
    await t.page.waitForSelector("article.assistant table");
    await t.idle();
    assert.equal(await t.page.evaluate(() => (globalThis as { hacked?: number }).hacked), undefined);
    const dangerous = "img, script, svg, iframe, textarea, b, br, input:not([type=checkbox]), [onclick], [onerror]";
    assert.equal(await t.page.locator(`article :is(${dangerous})`).count(), 0);
    assert.deepEqual(
      await t.page.locator("article a").evaluateAll((all) => all.map((one) => one.getAttribute("href"))),
      ["mailto:a@b.c?subject=x"],
    );
    const text = await t.page.locator("article.assistant").innerText();
    assert.match(text, /<script>globalThis\.hacked=1<\/script> <svg onload/);
    assert.ok(
      requested.every((url) => url.startsWith(t.at.url)),
      String(requested),
    );
    assert.deepEqual(t.problems, []);
  });

  test("nothing lies beside the screen from 320 to 1280 pixels, in both languages and every view", async () => {
    const wide = [
      `## ${long_word}\n\n**${long_word}** \`${long_word}\` ${address} [${long_word}](${address}) نص عربي`,
      `\`\`\`\nconst a = "${long_word}";\n\`\`\``,
      `| Medicine | Dose | Contraindications | Notes |\n| --- | :-: | --- | --- |\n| Paracetamol | 500 mg | hypersensitivity, severe hepatic impairment | ${address} |`,
      `1. ${long_word}\n   - ${long_word}\n     1. ${address}\n\n> ${long_word}`,
    ].join("\n\n");
    for (const locale of ["en", "ar"] as const) {
      const t = of();
      await t.open(locale);
      // The server's names may be long too.
      await t.page.route("**/v1/models", (route) =>
        route.fulfill({ json: { data: [{ id: "nano" }, { id: `nano:${long_word}` }] } }),
      );
      await t.page.reload();
      await t.page.waitForSelector("header select option", { state: "attached" });
      await t.answer_with(wide);
      await t.ask(`${long_word} ${address}`);
      await t.page.waitForSelector("article.assistant table");
      await t.page.route("**/v1/mcqa", (route) => {
        const options = [...route.request().postDataJSON().options].map((text: string, i) => ({
          letter: "ABCD"[i],
          text,
          probability: 0.25,
        }));
        return route.fulfill({ json: { answer: "A", options } });
      });
      for (const width of [320, 390, 768, 1280]) {
        await t.page.setViewportSize({ width, height: 760 });
        const at = `${locale} ${width}`;
        await t.show_view(0);
        assert.deepEqual(await beside(t), [], `${at} chat`);
        const words = await t.page.locator("article th, article td").evaluateAll((cells) =>
          cells.flatMap((cell) => {
            // A word that is broken stands on two lines.
            const range = document.createRange();
            return [...cell.childNodes].flatMap((node) =>
              [...(node.nodeType === Node.TEXT_NODE ? node.textContent! : "").matchAll(/[\w,]+/g)].flatMap((word) => {
                range.setStart(node, word.index);
                range.setEnd(node, word.index + word[0].length);
                return range.getClientRects().length > 1 ? [word[0]] : [];
              }),
            );
          }),
        );
        assert.deepEqual(words, [], `${at} words in tables`);
        await t.page.locator("article .actions button").first().click();
        assert.deepEqual(await beside(t), [], `${at} editing`);
        await t.page.locator("article form .quiet").click();
        if (width < 700) {
          await t.page.locator("header .menu").click();
          assert.deepEqual(await beside(t), [], `${at} menu`);
          await t.page.locator("header .menu").click();
        }
        await t.show_view(1);
        await t.page.locator(".page textarea").fill(long_word);
        await t.page.locator(".page input").first().fill(long_word);
        await t.page.locator('.page [type="submit"]').click();
        await t.page.waitForSelector(".bars li");
        assert.deepEqual(await beside(t), [], `${at} questions`);
        await t.show_view(2);
        await t.page
          .locator(".page textarea")
          .first()
          .fill(`${long_word} ${"word ".repeat(60)}`);
        await t.page.locator('.page [type="submit"]').click();
        await t.page.waitForSelector(".heat .cell");
        assert.deepEqual(await beside(t), [], `${at} routing`);
        await t.show_view(3);
        await t.page.locator(".page input").first().fill("9");
        assert.deepEqual(await beside(t), [], `${at} settings`);
      }
      await t.page.locator("header select").selectOption(`nano:${long_word}`);
      for (const width of [1280, 320]) {
        await t.page.setViewportSize({ width, height: 760 });
        assert.deepEqual(await beside(t), [], `${locale} ${width}: a long name`);
      }
      assert.deepEqual(t.problems, []);
    }
  });

  test("a result is scrolled into view; at 200 % in a low window all can be reached", async () => {
    const t = of();
    await t.open("en", 640, t.at.url, 360);
    const seen = (selector: string) =>
      t.page.waitForFunction((selector) => {
        const box = document.querySelector(selector)?.getBoundingClientRect();
        return box !== undefined && box.top >= 0 && box.top < innerHeight;
      }, selector);
    await t.show_view(1);
    await t.page.locator('.page [type="submit"]').click();
    await seen(".bars li");
    await t.show_view(2);
    await t.page.locator('.page [type="submit"]').click();
    await seen(".legend");
    await t.page.setViewportSize({ width: 320, height: 256 });
    await t.show_view(0);
    await t.answer_with("word\n\n".repeat(40));
    await t.ask("x");
    await t.page.waitForSelector("article.assistant p");
    const { height } = (await t.page.locator(".messages").boundingBox())!;
    assert.ok(height > 100, `${height} pixels to read in`);
    await t.page.locator(".composer textarea").scrollIntoViewIfNeeded();
    assert.deepEqual(await beside(t), []);
  });

  test("each line has its own direction, and titles and marks do not change that of what stands around them", async () => {
    const t = of();
    await t.open("ar");
    await t.answer_with("Aspirin 100 mg  \nهل يمكنني تناوله (مع الوارفارين)؟");
    await t.ask("Aspirin 100 mg\nهل يمكنني تناوله مع الوارفارين؟");
    await t.page.waitForSelector("article.assistant p");
    for (const selector of [".said", "article.assistant p"]) {
      const lines = await t.page.locator(selector).evaluate((one) => {
        const range = document.createRange();
        const box = one.getBoundingClientRect();
        return [...one.childNodes]
          .flatMap((node) => [...(node.textContent ?? "").matchAll(/[^\n]+/g)].map((line) => [node, line] as const))
          .map(([node, line]) => {
            range.setStart(node, line.index);
            range.setEnd(node, line.index + line[0].length);
            const { left, right } = range.getBoundingClientRect();
            return left - box.left < box.right - right ? "left" : "right";
          });
      });
      assert.deepEqual(lines, ["left", "right"], selector);
    }
    const title = t.page.locator(".conversations li").first();
    assert.equal(await title.locator("button").first().getAttribute("dir"), "auto");
    assert.equal(
      await title.locator("button").last().getAttribute("aria-label"),
      "حذف: \u2068Aspirin 100 mg\nهل يمكنني تناوله مع الوارفارين؟\u2069",
    );
    // A title ends between characters.
    await t.page.locator("aside section > button").click();
    await t.ask(`${"x".repeat(59)}😀😀`);
    const cut = t.page.locator(".conversations li", { hasText: "xxx" }).locator("button").first();
    assert.equal(await cut.innerText(), `${"x".repeat(59)}😀`);
  });

  test("on paper stands the whole conversation, without what is pressed, in dark colours too", async () => {
    const t = of();
    await t.open("en");
    await t.answer_with(Array.from({ length: 120 }, (_, i) => `Paragraph ${i} of the answer.`).join("\n\n"));
    await t.ask("Tell me much.");
    await t.page.waitForSelector("article.assistant p");
    await t.page.evaluate(() => {
      document.documentElement.dataset.theme = "dark";
    });
    const pdf = (await t.page.pdf({ format: "A4" })).toString("latin1");
    assert.ok((pdf.match(/\/Type \/Page\b/g) ?? []).length >= 4, "120 paragraphs are pages");
    await t.page.emulateMedia({ media: "print" });
    for (const part of ["aside", ".composer", ".actions", "header button"])
      assert.equal(await t.page.locator(part).first().isVisible(), false, part);
    assert.ok(await t.page.locator(".notice").isVisible());
    const text = await t.page
      .locator("article")
      .last()
      .evaluate((one) => getComputedStyle(one).color);
    assert.equal(text, "rgb(23, 32, 42)");
    await t.page.emulateMedia({ media: "screen", reducedMotion: "reduce" });
    const moving = await t.page.evaluate(() => document.getAnimations().length);
    assert.equal(moving, 0);
  });
});
