/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** The web page in a real browser: conversations, tabs, keys, and the other views. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Page } from "playwright-core";
import { describe_page } from "./page_browser.js";

describe_page("the page in Chromium", (of) => {
  test("an English conversation, edited, answered again and kept over a reload", async () => {
    const t = of();
    await t.open("en");
    assert.match(await t.page.locator(".notice").innerText(), /not medical advice/);
    await t.ask("What are the signs of diabetes?");
    await t.answered();
    const first = await t.page.locator("article.assistant").last().innerText();
    assert.ok(first.length > 20, first);
    assert.equal(await t.direction("article.assistant p"), "ltr");
    await t.picture("chat-en");
    assert.deepEqual(await t.faults(), []);

    await t.page.locator("article.user .actions button").click();
    await t.page.locator("article.user textarea").fill("What are the signs of asthma?");
    await t.page.locator('article.user button[type="submit"]').click();
    await t.answered();
    assert.equal(await t.page.locator("article").count(), 2);
    await t.page.locator("article.assistant .actions button").click();
    await t.answered();
    const before_reload = await t.page.locator(".messages").innerText();
    await t.page.reload();
    await t.page.waitForSelector("article.assistant p");
    assert.equal(await t.page.locator(".messages").innerText(), before_reload);

    await t.page.locator("aside section > button").click();
    assert.equal(await t.page.locator("article").count(), 0);
    assert.equal(await t.page.locator(".conversations li").count(), 2);
    assert.deepEqual(t.problems, []);
    // Nothing of it is on the server.
    assert.ok(!JSON.stringify(t.at.lines).includes("asthma"));
  });

  test("the page by http from another machine, where a browser withholds some of its functions", async () => {
    const t = of();
    await t.open("en", 1100, t.at.url.replace("127.0.0.1", "bimedix.test"));
    assert.equal(await t.page.evaluate(() => isSecureContext), false);
    await t.ask("What is gout?");
    await t.answered();
    assert.deepEqual(t.problems, []);
  });

  test("an Arabic conversation, from right to left, with English words inside", async () => {
    const t = of();
    await t.open("ar");
    assert.equal(await t.page.evaluate(() => document.documentElement.dir), "rtl");
    assert.match(await t.page.locator(".notice").innerText(), /ليس نصيحة طبية/);
    const field = t.page.locator("textarea[placeholder]");
    assert.equal(await t.direction("textarea[placeholder]"), "rtl");
    await field.fill("asthma");
    assert.equal(await t.direction("textarea[placeholder]"), "ltr");
    await t.ask("ما هي أعراض السكري؟");
    await t.answered();
    assert.equal(await t.direction("article.assistant p"), "rtl");
    assert.equal(await t.direction("article.user .said"), "rtl");
    const [aside, main] = await Promise.all(["aside", "main"].map((part) => t.page.locator(part).boundingBox()));
    assert.ok(aside!.x > main!.x, "the conversations are on the right");
    await t.picture("chat-ar");
    assert.deepEqual(await t.faults(), []);
    await t.ask("What is asthma?");
    await t.answered();
    assert.equal(await t.direction("article.user .said"), "ltr");
    assert.deepEqual(t.problems, []);
  });

  test("an answer is stopped in the middle, and the server hears of it", async () => {
    const t = of();
    await t.open("en");
    await t.page.evaluate(() => {
      const settings = JSON.parse(localStorage.getItem("bimedix.settings") ?? "{}");
      localStorage.setItem("bimedix.settings", JSON.stringify({ ...settings, temperature: 2, max_tokens: 900 }));
    });
    await t.page.reload();
    await t.page.waitForSelector("header select option", { state: "attached" });
    // The answer does not end by itself, and fifteen others beside it give the hand its time.
    const completions = "/v1/chat/completions";
    await t.page.route(`**${completions}`, (route) =>
      route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }),
    );
    const others = new AbortController();
    const beside = { model: "nano", messages: [{ role: "user", content: "What is gout?" }], n: 15, max_tokens: 900 };
    const answers = fetch(t.at.url + completions, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...beside, ignore_eos: true }),
      signal: others.signal,
    }).catch(() => "left");
    await t.ask("What is asthma?");
    await t.page.waitForSelector("article.assistant p");
    await t.page.locator(".composer button").click();
    await t.page.waitForSelector("article.assistant .problem");
    others.abort();
    assert.equal(await answers, "left");
    await t.page.unroute(`**${completions}`);
    for (let waited = 0; t.at.server.service.active > 0 && waited < 5000; waited += 20)
      await new Promise((resume) => setTimeout(resume, 20));
    assert.equal(t.at.server.service.active, 0);
  });

  test("answers go on where they are not shown, each in its own conversation, and end with it", async () => {
    const t = of();
    await t.open("en");
    const hand = await t.answer_by_hand();
    const stop = t.page.locator(".composer button", { hasText: "Stop" });
    const said = (text: string) => t.page.waitForSelector(`article.assistant:last-of-type p:text-is("${text}")`);
    const conversations = t.page.locator(".conversations li");
    const show_view = (i: number) => t.page.locator("aside nav button").nth(i).click();
    await t.ask("one");
    await hand.write(0, "first");
    await said("first");
    await t.page.locator("aside section > button").click();
    assert.equal(await stop.count(), 0);
    await t.ask("two");
    await hand.write(1, "second");
    await said("second");
    await hand.write(0, " goes on");
    await show_view(3);
    await show_view(0);
    await said("second");
    assert.equal(await stop.count(), 1);

    await conversations.nth(1).locator("button").first().click();
    await said("first goes on");
    assert.equal(await stop.count(), 1);
    assert.equal(await t.page.locator("article .actions").count(), 0, "nothing is edited or asked again meanwhile");
    await hand.write(0, " to its end");
    await hand.end(0);
    await said("first goes on to its end");
    await t.page.waitForSelector('[role="log"][aria-busy="false"]');
    assert.match(await t.page.locator('.chat [role="status"]').innerText(), /to its end/);
    assert.equal(await hand.aborted(1), false);

    // Deleted while another is shown, stopped after a look elsewhere, and all deleted.
    await conversations.nth(0).locator("button").last().click();
    assert.equal(await hand.aborted(1), true);
    assert.equal(await t.page.locator("article").count(), 2);
    await t.ask("three");
    await hand.write(2, "third");
    await said("third");
    await show_view(3);
    await show_view(0);
    await stop.click();
    await t.page.waitForSelector("article.assistant:last-of-type .problem");
    assert.equal(await hand.aborted(2), true);
    await t.ask("four");
    await hand.write(3, "fourth");
    await show_view(3);
    t.page.once("dialog", (dialog) => dialog.accept());
    await t.page.locator(".page .danger").click();
    assert.equal(await hand.aborted(3), true);
    await show_view(0);
    assert.equal(await t.page.locator("article").count(), 0);
    assert.equal(await stop.count(), 0);
    assert.deepEqual(t.problems, []);
  });

  test("two tabs: each takes up what the other writes and deletes, and what was kept under one key", async () => {
    const t = of();
    await t.open("en");
    const first = t.page;
    const second = await t.context!.newPage();
    await second.goto(t.at.url);
    await second.waitForSelector("header select option", { state: "attached" });
    const title = (tab: Page, text: string) => tab.locator(".conversations li", { hasText: text });
    const hand = await t.answer_by_hand();
    await t.ask("one");
    await hand.write(0, "first");
    await hand.end(0);
    await title(second, "one").waitFor();
    t.page = second;
    const other = await t.answer_by_hand();
    await t.ask("two");
    await other.write(0, "second");
    await title(first, "two").waitFor();
    t.page = first;
    await t.page.locator("aside section > button").click();
    await t.ask("three");
    await hand.end(1);
    await title(second, "three").waitFor();
    await other.write(0, " and more");
    await first.reload();
    await title(first, "two").locator("button").first().click();
    await first.waitForSelector('article p:text-is("second and more")');
    assert.equal(await first.locator(".conversations li").count(), 3);
    await first.locator("header > button[lang]").click();
    await second.waitForSelector('html[dir="rtl"]');

    // Deleted in one tab while the other writes its answer.
    await title(first, "two").locator("button").last().click();
    await title(second, "two").waitFor({ state: "detached" });
    assert.equal(await other.aborted(0), true);
    await second.evaluate(() => {
      const said = (id: string, content: string) => ({ id, messages: [{ role: "user", content }] });
      const conversations = [said("5f", "before"), said("a0", "long before")];
      localStorage.setItem("bimedix", JSON.stringify({ conversations, current: "5f" }));
    });
    for (let i = 0; i < 2; i++) {
      await second.reload();
      await title(second, "long before").waitFor();
      const titles = await second.locator(".conversations li button:first-child").allInnerTexts();
      assert.deepEqual(titles, ["three", "one", "before", "long before"]);
      await second.locator("header > button[lang]").click();
      assert.equal(await second.evaluate(() => localStorage.getItem("bimedix")), null);
    }
    // As if this tab had written a word between the other's deletion and the news of it.
    const left = await second.evaluate(() => {
      const key = "bimedix.conversation.0-000000";
      dispatchEvent(new StorageEvent("storage", { key, newValue: null }));
      return localStorage.getItem(key);
    });
    assert.equal(left, null);
    await title(second, "long before").waitFor({ state: "detached" });
  });

  test("what a model writes stays text: tags, scripts, addresses, pictures, deep quotes, tables of both directions", async () => {
    const t = of();
    await t.open("en");
    const hostile = [
      '<img src=x onerror="globalThis.hacked=1"> <script>globalThis.hacked=1</script>',
      "[here](javascript:globalThis.hacked=1) [data](data:text/html,<script>1</script>) [good](https://example.org/)",
      "![pixel](https://evil.example/?q=secret)",
      "<details open ontoggle=globalThis.hacked=1><svg onload=globalThis.hacked=1>",
      `${">".repeat(10_000)} deep`,
      "| الدواء | dose |\n| --- | --- |\n| الأنسولين | 5 mg |",
      "`code في السطر`",
    ].join("\n\n");
    await t.page.route("**/v1/chat/completions", (route) => {
      const chunk = { choices: [{ index: 0, delta: { content: hostile }, finish_reason: null }] };
      return route.fulfill({
        contentType: "text/event-stream",
        body: `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`,
      });
    });
    const requested: string[] = [];
    t.page.on("request", (request) => requested.push(request.url()));
    await t.ask("x");
    await t.page.waitForSelector("article.assistant table");
    await t.page.waitForTimeout(200);
    assert.equal(await t.page.evaluate(() => (globalThis as { hacked?: number }).hacked), undefined);
    assert.equal(await t.page.locator("article img, article script, article svg, article details").count(), 0);
    assert.deepEqual(
      await t.page.locator("article a").evaluateAll((links) => links.map((link) => (link as HTMLAnchorElement).href)),
      ["https://example.org/"],
    );
    assert.ok(
      requested.every((url) => url.startsWith(t.at.url)),
      String(requested),
    );
    assert.match(await t.page.locator("article.assistant").last().innerText(), /<img src=x onerror/);
    assert.equal(await t.direction("article.assistant table"), "rtl");
    assert.equal(await t.direction("article.assistant bdi code"), "ltr");
    // A stream that is cut in the middle of an event, and a full storage.
    await t.page.unroute("**/v1/chat/completions");
    await t.page.route("**/v1/chat/completions", (route) =>
      route.fulfill({
        contentType: "text/event-stream",
        body: 'data: {"choices":[{"index":0,"delta":{"content":"half"},"fin',
      }),
    );
    await t.page.evaluate(() => {
      Storage.prototype.setItem = () => {
        throw new DOMException("full", "QuotaExceededError");
      };
    });
    await t.ask("y");
    await t.page.waitForSelector("article.assistant:last-of-type .problem");
    assert.match(await t.page.locator('main > [role="alert"]').innerText(), /storage is full/);
  });

  test("lists of both directions; digits in one shape in words, not in list marks, addresses and code", async () => {
    const t = of();
    await t.open("ar");
    const hand = await t.answer_by_hand();
    await t.ask("x");
    const lines = [
      "1. خذ 500 ملغ، **3** مرات، `x = 10`",
      "2. Insulin 20 units",
      "",
      "[دليل 2024](https://example.org/2024) https://example.org/7 &#39;9&#39;",
    ];
    await hand.write(0, lines.join("\n"));
    await hand.end(0);
    await t.page.waitForSelector('[role="log"][aria-busy="false"] article.assistant li');
    const directions = (selector: string) =>
      t.page.locator(selector).evaluateAll((all) => all.map((one) => getComputedStyle(one).direction));
    assert.deepEqual(await directions("article ol"), ["rtl"]);
    assert.deepEqual(await directions("article li"), ["rtl", "ltr"]);

    await t.page.locator("aside nav button").nth(3).click();
    await t.page.locator(".page select").nth(2).selectOption("arabic");
    await t.page.locator("aside nav button").nth(0).click();
    assert.deepEqual(await t.page.locator("article li").allInnerTexts(), [
      "خذ ٥٠٠ ملغ، ٣ مرات، x = 10",
      "Insulin ٢٠ units",
    ]);
    const mark = t.page.locator("article ol").evaluate((list) => getComputedStyle(list).listStyleType);
    assert.equal(await mark, "arabic-indic");
    assert.equal(await t.page.locator("article.assistant > p").innerText(), "دليل ٢٠٢٤ https://example.org/7 '٩'");
    assert.deepEqual(
      await t.page.locator("article a").evaluateAll((links) => links.map((link) => link.getAttribute("href"))),
      ["https://example.org/2024", "https://example.org/7"],
    );
    assert.deepEqual(t.problems, []);
  });

  test("by keys alone: the focus goes on beside what was pressed, and waiting and results are said", async () => {
    const t = of();
    await t.open("en");
    assert.match(await t.page.locator(".empty").innerText(), /kept in this browser only/);
    const hand = await t.answer_by_hand();
    const press = async (selector: string) => {
      await t.page.locator(selector).last().focus();
      await t.page.keyboard.press("Enter");
    };
    const focused = (selector: string) => t.page.waitForSelector(`${selector}:focus`);
    const end_answer = async (n: number) => {
      await hand.write(n, "yes");
      await hand.end(n);
      await t.answered();
    };
    await t.ask("one");
    await end_answer(0);
    await press("article.user .actions button");
    await focused("article.user textarea");
    await press("article.user form .quiet");
    await focused("article.user .actions button");
    await t.page.keyboard.press("Enter");
    await focused("article.user textarea");
    await press('article.user [type="submit"]');
    await focused(".composer textarea");
    await end_answer(1);
    await press("article.assistant .actions button");
    await focused(".composer textarea");
    await press(".composer button");
    await focused(".composer textarea");
    await press(".conversations button");
    await focused("aside section > button");

    const status = (text: RegExp) =>
      t.page.locator('[role="status"]', { hasText: text }).waitFor({ state: "attached" });
    for (const [view, path, result] of [
      [1, "**/v1/mcqa", /^Likeliest: [A-D]\. The .+%$/],
      [2, "**/v1/routing", /experts of both texts are shown/],
    ] as const) {
      let let_go!: () => void;
      const held = new Promise<void>((resolve) => {
        let_go = resolve;
      });
      await t.page.route(path, (route) => held.then(() => route.continue()));
      await t.page.locator("aside nav button").nth(view).click();
      await press('.page [type="submit"]');
      await status(/^Waiting/);
      let_go();
      await status(result);
    }
    assert.deepEqual(t.problems, []);
  });

  test("questions with options, routing and settings, in both languages and on a phone", async () => {
    const t = of();
    for (const [locale, width] of [
      ["en", 1100],
      ["ar", 390],
    ] as const) {
      await t.open(locale, width);
      const views = t.page.locator("aside nav button");
      const show = async (i: number) => {
        if (width < 700) await t.page.locator("header .menu").click();
        await views.nth(i).click();
      };
      assert.ok(
        await t.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "nothing beside the screen",
      );
      await t.picture(`phone-${locale}`);
      await show(1);
      await t.page.locator('.page button[type="submit"]').click();
      await t.page.waitForSelector(".bars li");
      assert.equal(await t.page.locator(".bars li").count(), 4);
      assert.deepEqual(await t.faults(), []);
      await t.picture(`mcqa-${locale}`);
      await show(2);
      await t.page.locator('.page button[type="submit"]').click();
      await t.page.waitForSelector(".heat .cell");
      assert.equal(await t.page.locator(".heat").count(), 2);
      assert.deepEqual(
        await t.page.locator(".heat").evaluateAll((all) => all.map((one) => getComputedStyle(one).direction)),
        ["ltr", "rtl"],
      );
      assert.deepEqual(await t.faults(), []);
      await t.picture(`routing-${locale}`);
      await show(3);
      await t.page.locator(".page select").nth(1).selectOption("dark");
      assert.deepEqual(await t.faults(), []);
      assert.ok(
        await t.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "nothing beside the screen",
      );
      assert.deepEqual(t.problems, []);
    }
  });
});
