/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** Conversations on the page: longer than the context, scrolled, cut, deleted, and kept by a browser that has no room. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { root } from "../fixtures.js";
import { describe_page, type PageTest } from "./page_browser.js";

/** Where the conversation is scrolled, and how far it can be. */
const scrolled = ({ page }: PageTest) =>
  page.locator(".messages").evaluate((view) => ({ top: view.scrollTop, end: view.scrollHeight - view.clientHeight }));
const at_end = ({ page }: PageTest) =>
  page.waitForFunction(() => {
    const view = document.querySelector(".messages")!;
    return view.scrollTop > 0 && view.scrollHeight - view.clientHeight - view.scrollTop < 2;
  });
/** As a person's wheel does it: the page hears of it before it draws again. */
const scroll_to = async ({ page }: PageTest, top: number) => {
  await page.locator(".messages").evaluate(
    (view, top) =>
      new Promise((heard) => {
        view.addEventListener("scroll", heard, { once: true });
        view.scrollTop = top;
      }),
    top,
  );
};
/** So that what was to be drawn has been. */
const drawn = ({ page }: PageTest) =>
  page.evaluate(() => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next))));
const last_problem = ".turns article:last-child :is(.problem, .note)";
/** Conversations as the page keeps them, put there before it starts. */
const keep = async (t: PageTest, messages: object[], id = "1-1") => {
  await t.page.evaluate(([id, text]) => localStorage.setItem(`bimedix.conversation.${id}`, text), [
    id,
    JSON.stringify({ id, messages }),
  ] as const);
  // By which the page learns how much the model reads at once.
  const counted = t.page.waitForResponse("**/tokenize");
  await t.page.reload();
  await (await counted).finished();
  await t.page.locator(".conversations li button").first().click();
};
const exchanges = (n: number, words: number) =>
  Array.from({ length: n }, (_, i) => [
    { role: "user", content: `question ${i} ${"pain ".repeat(words)}`.trim() },
    { role: "assistant", content: `answer ${i} ${"rest ".repeat(words)}`.trim() },
  ]).flat();

describe_page("a conversation on the page", (of) => {
  test("one that is longer than the context goes on without its oldest exchanges, and says so", async () => {
    const t = of();
    await t.open("en");
    await t.page.evaluate(() => {
      localStorage.setItem("bimedix.settings", JSON.stringify({ system: "Be kind.", max_tokens: 100 }));
    });
    // 1,024 tokens are what the model reads at once.
    await keep(t, exchanges(8, 100));
    const sent: { messages: { role: string; content: string }[] }[] = [];
    const answered: number[] = [];
    t.page.on("request", (one) => one.url().endsWith("/completions") && sent.push(one.postDataJSON()));
    t.page.on("response", (one) => void (one.url().endsWith("/completions") && answered.push(one.status())));
    await t.ask("Short?");
    await t.page.waitForSelector('[role="log"][aria-busy="false"] article.assistant:last-of-type .note');
    assert.match(await t.page.locator("article.assistant .note").first().innerText(), /^Older messages were not sent/);
    assert.equal(await t.page.locator("article .problem").count(), 0);
    assert.equal(await t.page.locator("article").count(), 18, "all of it stays on the page");
    assert.deepEqual(answered, [200], "counted before, and asked once");
    const [first, ...turns] = sent[0]!.messages;
    assert.deepEqual(first, { role: "system", content: "Be kind." });
    assert.ok(turns.length >= 3 && turns.length < 17, `${turns.length} turns`);
    assert.equal(turns.at(-1)!.content, "Short?");
    assert.ok(turns.every(({ role }, i) => role === (i % 2 === 0 ? "user" : "assistant")));
    // As many as there is room for: with one exchange more there is none left for the answer.
    const count = async (messages: object[]) => (await (await t.at.post("/tokenize", { messages })).json()).count;
    const all = exchanges(8, 100);
    const more = all.slice(all.length + 1 - turns.length - 2);
    assert.ok((await count(sent[0]!.messages)) <= 924);
    assert.ok((await count([first!, ...more, turns.at(-1)!])) > 924);

    const too_long = "pain ".repeat(1500);
    await t.ask(too_long);
    await t.page.waitForSelector("article.assistant:last-of-type .problem");
    assert.match(
      await t.page.locator(last_problem).last().innerText(),
      /^This message is longer than the model can read/,
    );
    await t.ask("And now?");
    await t.idle();
    assert.ok(!sent.at(-1)!.messages.some(({ content }) => content.length > 5000), "what got no answer is not sent");
    assert.equal(await t.page.locator("article.user").count(), 11, "and is still to be read");
    await t.page.locator("header > button[lang]").click();
    await t.page.waitForSelector('html[dir="rtl"]');
    assert.match(await t.page.locator("article.assistant .note").first().innerText(), /^لم تُرسل الرسائل الأقدم/);
    const problem = t.page.locator("article.assistant .problem").first();
    assert.match(await problem.innerText(), /^هذه الرسالة أطول مما يستطيع النموذج قراءته/);
  });

  test("where the server cannot count, what it refuses as too long is asked again with less", async () => {
    const t = of();
    await t.open("en");
    await t.page.route("**/tokenize", (route) =>
      route.fulfill({ status: 400, json: { error: { code: "not_supported", message: "no" } } }),
    );
    await keep(t, exchanges(6, 3));
    const asked: string[][] = [];
    await t.page.route("**/v1/chat/completions", (route) => {
      const messages = route.request().postDataJSON().messages as { content: string }[];
      asked.push(messages.map(({ content }) => content.slice(0, 10)));
      // As llama-server, vLLM (in words alone), and an event of this project's own say it.
      const too_long = [
        { status: 400, json: { error: { code: 400, type: "exceed_context_size_error", message: "exceeds" } } },
        { status: 400, json: { error: { code: 400, message: "This model's maximum context length is 64 tokens." } } },
        {
          contentType: "text/event-stream",
          body: 'data: {"error":{"code":"context_length_exceeded","message":"x"}}\n\n',
        },
      ][asked.length - 1];
      const chunk = { choices: [{ delta: { content: "fits" }, finish_reason: "stop" }] };
      return route.fulfill(
        too_long ?? { contentType: "text/event-stream", body: `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n` },
      );
    });
    await t.ask("now?");
    await t.page.waitForSelector('article.assistant:last-of-type p:text-is("fits")');
    assert.deepEqual(
      asked.map((one) => one.length),
      [13, 11, 7, 1],
    );
    assert.equal(asked[3]![0], "now?");
    assert.match(await t.page.locator("article .note").innerText(), /^Older messages/);
    assert.equal(await t.page.locator("article .problem").count(), 0);
  });

  test("what is new and what failed is scrolled into view, and a reader who scrolled up stays there", async () => {
    const t = of();
    await t.open("en", 390);
    const hand = await t.answer_by_hand();
    const to_end = t.page.locator(".to-end");
    await t.ask("one");
    const paragraphs = (n: number) => Array.from({ length: n }, (_, i) => `Paragraph ${i}.\n\n`).join("");
    await hand.write(0, paragraphs(60));
    await at_end(t);
    assert.equal(await to_end.count(), 0);
    await scroll_to(t, 100);
    await to_end.waitFor();
    await hand.write(0, paragraphs(5));
    await drawn(t);
    assert.equal((await scrolled(t)).top, 100);
    await hand.end(0);
    await t.idle();
    await drawn(t);
    assert.equal((await scrolled(t)).top, 100, "at the answer's end too");

    // One line up is away; back at the end it goes on.
    await to_end.click();
    await at_end(t);
    await to_end.waitFor({ state: "detached" });
    assert.ok(await t.page.locator(".composer textarea").evaluate((field) => field === document.activeElement));
    await scroll_to(t, (await scrolled(t)).end - 20);
    await to_end.waitFor();
    await scroll_to(t, (await scrolled(t)).end);
    await to_end.waitFor({ state: "detached" });
    // What is asked is seen wherever its writer was, and a failure behind it.
    await scroll_to(t, 0);
    await t.ask("two");
    await at_end(t);
    await hand.write(1, paragraphs(30));
    await hand.cut(1);
    await t.page.waitForSelector(last_problem);
    await at_end(t);
    assert.ok(await t.page.locator(last_problem).isVisible());
    // A window that becomes lower, as by a phone's keyboard, and another conversation.
    await t.page.setViewportSize({ width: 390, height: 420 });
    await at_end(t);
    await t.page.reload();
    await t.page.waitForSelector("article");
    await at_end(t);
  });

  test("an answer that a reload, a lost line, a stop or its length cut short is marked, in either language", async () => {
    const t = of();
    await t.open("en");
    let hand = await t.answer_by_hand();
    await t.ask("one");
    await hand.write(0, "half of");
    await t.page.waitForSelector('article p:text-is("half of")');
    assert.equal(await t.page.locator(".problem").count(), 0, "not while it is written");
    await t.page.reload();
    await t.page.waitForSelector(last_problem);
    assert.match(await t.page.locator(last_problem).innerText(), /^This answer has no end/);
    hand = await t.answer_by_hand();
    await t.page.locator("article.assistant .actions button").click();
    await hand.write(0, "whole");
    await hand.end(0);
    await t.idle();
    assert.equal(await t.page.locator(".problem").count(), 0);
    await t.page.reload();
    await t.page.waitForSelector('article p:text-is("whole")');
    assert.equal(await t.page.locator(".problem").count(), 0);

    hand = await t.answer_by_hand();
    const told = async (n: number, ending: () => Promise<unknown>, text: RegExp) => {
      await t.ask(`ask ${n}`);
      await hand.write(n, "part");
      await ending();
      await t.page.waitForSelector(last_problem);
      assert.match(await t.page.locator(last_problem).innerText(), text);
    };
    await told(0, () => hand.cut(0), /^The connection was lost/);
    await told(1, () => t.page.locator(".composer button").click(), /^Stopped\.$/);
    const length = { choices: [{ delta: { content: "" }, finish_reason: "length" }] };
    await told(2, () => hand.send(2, `data: ${JSON.stringify(length)}\n\ndata: [DONE]\n\n`), /greatest length/);
    await t.page.locator("header > button[lang]").click();
    await t.page.waitForSelector('html[dir="rtl"]');
    assert.deepEqual(await t.page.locator("article :is(.problem, .note)").allInnerTexts(), [
      "انقطع الاتصال قبل أن تنتهي الإجابة.",
      "أُوقفت الإجابة.",
      "بلغت الإجابة أقصى طول لها (انظر الإعدادات)، أو نهاية ما يستطيع النموذج قراءته دفعة واحدة.",
    ]);
    assert.deepEqual(t.problems, []);
  });

  test("a stream with comments, other fields, CRLF and events in two parts; one without [DONE] that has its end is whole", async () => {
    const t = of();
    await t.open("en");
    const hand = await t.answer_by_hand();
    await t.ask("one");
    await hand.send(0, ": waiting\n\nevent: x\r\nid: 7\r\n");
    await hand.send(0, 'data: {"choices":[{"delta":{"role":"assistant","content":"one "}}]}\r\n\r\n: still\n\nda');
    await hand.send(0, 'ta:{"choices":[{"delta":{"content":"two"},"finish_reason":"stop"}]}\n\n');
    await hand.send(0, 'data: {"choices":[],"usage":{"total_tokens":3}}\n\n');
    await hand.cut(0);
    await t.idle();
    await t.page.waitForSelector('article p:text-is("one two")');
    assert.equal(await t.page.locator("article .problem").count(), 0);
  });

  test("every error code has a text in both languages, and the server's own words are a detail of their own direction", async () => {
    const t = of();
    const sources = ["src/errors.ts", ...readdirSync(join(root, "src/serve")).map((name) => `src/serve/${name}`)];
    const texts = sources.map((file) => readFileSync(join(root, file), "utf8"));
    const codes = [
      ...texts[0]!.matchAll(/^ {2}\| "(\w+)"/gm),
      ...texts.join("").matchAll(/new ApiError\(\s*\d+,\s*"(\w+)"/g),
    ].map(([, code]) => code!);
    assert.ok(codes.length > 35, String(codes.length));
    await t.open("ar");
    const unknown = await t.page.evaluate(async (codes) => {
      const { server_error } = await import("/web/problems.js" as string);
      // A code without a text of its own would be told by its status alone.
      const kind = (code: string, status: number) =>
        server_error({ error: { code, message: "" } }, status).problem.kind as string;
      return codes.filter((code) => kind(code, 418) !== kind(code, 599));
    }, codes);
    assert.deepEqual(unknown, [], "these codes are missing in web/problems.tsx");
    const empty = await t.page.evaluate(async () => {
      const { texts } = await import("/web/texts.js" as string);
      const { en, ar } = texts as Record<"en" | "ar", { problems: Record<string, string> }>;
      return Object.keys(en.problems).filter((kind) => !/\p{Script=Arabic}/u.test(ar.problems[kind] ?? ""));
    });
    assert.deepEqual(empty, []);

    const answers = [
      [
        429,
        { error: { code: "queue_full", message: "80 requests are here already; try again later." } },
        /طلبات كثيرة/,
      ],
      [401, { error: { code: "invalid_api_key", message: "An API key is needed." } }, /مفتاح وصول/],
      [503, { error: { code: "loading", message: "The model is being loaded." } }, /قيد التشغيل/],
      [502, "<html>Bad Gateway</html>", /أخفق الخادم/],
      [400, { error: "words alone" }, /لم يقبل الخادم/],
    ] as const;
    let nth = 0;
    await t.page.route("**/v1/chat/completions", (route) => {
      const [status, body] = answers[nth]!;
      return route.fulfill({ status, body: typeof body === "string" ? body : JSON.stringify(body) });
    });
    for (const [, , text] of answers) {
      await t.ask(`سؤال ${nth}`);
      await t.page.waitForSelector(`.turns article:nth-child(${2 * nth + 2}) .problem`);
      const problem = t.page.locator(last_problem);
      assert.match(await problem.innerText(), text);
      assert.doesNotMatch(await problem.innerText(), /[A-Za-z]{4}/, "the page's language alone");
      assert.equal(await problem.locator("details p").getAttribute("dir"), "auto");
      nth++;
    }
    assert.equal(await t.page.locator("details p").first().textContent(), answers[0][1].error.message);
    assert.deepEqual(await t.faults(), []);
    // The line is dead, then alive: the same question is asked again.
    await t.page.unroute("**/v1/chat/completions");
    await t.page.route("**/v1/chat/completions", (route) => route.abort());
    await t.ask("أخيرا");
    await t.page.waitForSelector(`.turns article:nth-child(${2 * nth + 2}) .problem`);
    assert.match(await t.page.locator(last_problem).innerText(), /تعذر الوصول إلى الخادم/);
    await t.page.unroute("**/v1/chat/completions");
    await t.answer_with("نعم");
    await t.page.locator("article.assistant .actions button").last().click();
    await t.page.waitForSelector('article.assistant:last-of-type p:text-is("نعم")');
    assert.equal(await t.page.locator(last_problem).count(), 0);
  });

  test("a server that is not there when the page comes, and one that comes back with another model", async () => {
    const t = of();
    await t.open("en");
    await t.page.route("**/v1/models", (route) => route.abort());
    await t.page.reload();
    const again = t.page.locator(".models-problem");
    assert.match(await again.innerText(), /The server cannot be reached/);
    await t.page.unroute("**/v1/models");
    await again.locator("button").click();
    await again.waitFor({ state: "detached" });
    assert.equal(await t.page.locator("header select").inputValue(), "nano");

    await t.page.route("**/v1/models", (route) => route.fulfill({ json: { data: [{ id: "other" }] } }));
    await t.page.route("**/v1/chat/completions", (route) =>
      route.fulfill({ status: 404, json: { error: { code: "model_not_found", message: "There is no model nano." } } }),
    );
    await t.ask("still there?");
    await t.page.waitForSelector(last_problem);
    assert.match(await t.page.locator(last_problem).innerText(), /no longer has this model/);
    await t.page.waitForFunction(() => document.querySelector<HTMLSelectElement>("header select")!.value === "other");
  });

  test("deleting and replacing can be undone, in each tab, until more is said", async () => {
    const t = of();
    await t.open("en");
    const first = t.page;
    await t.answer_with("yes");
    for (const text of ["one", "two"]) {
      await t.page.locator("aside section > button").click();
      await t.ask(text);
      await t.page.waitForSelector('article p:text-is("yes")');
    }
    const second = await t.tab();
    await t.answer_with("yes");
    const title = (page: typeof first, text: string) => page.locator(".conversations li", { hasText: text });
    const undo = (page: typeof first) => page.locator(".undo button").first();
    await title(second, "one").waitFor();
    await title(first, "one").locator("button").last().click();
    await title(second, "one").waitFor({ state: "detached" });
    assert.match(await first.locator(".undo").innerText(), /^Deleted\./);
    await undo(first).click();
    await title(first, "one").waitFor();
    await first.waitForSelector('article.user .said:text-is("one")');
    await title(second, "one").waitFor();
    for (const page of [first, second]) await page.locator(".undo").waitFor({ state: "detached" });

    // Deleted in one tab, taken back in the other; then all of them at once.
    await title(first, "two").locator("button").last().click();
    await title(second, "two").waitFor({ state: "detached" });
    await undo(second).click();
    await title(first, "two").waitFor();
    await first.locator(".undo").waitFor({ state: "detached" });
    await first.locator("aside nav button").nth(3).click();
    first.once("dialog", (dialog) => dialog.accept());
    await first.locator(".page .danger").click();
    await title(second, "one").waitFor({ state: "detached" });
    await title(second, "two").waitFor({ state: "detached" });
    await undo(second).click();
    await first.locator("aside nav button").nth(0).click();
    for (const text of ["one", "two"]) await title(first, text).waitFor();

    // An edited question takes what followed it with it.
    t.page = second;
    await title(second, "two").locator("button").first().click();
    await t.ask("three");
    await second.waitForSelector("article:nth-child(4) p");
    const edit = async () => {
      await second.locator("article.user .actions button").first().click();
      await second.locator("article.user textarea").fill("other");
      await second.locator('article.user [type="submit"]').click();
      await second.waitForSelector('.said:text-is("other")');
      await t.answered();
      assert.equal(await second.locator("article").count(), 2);
    };
    await edit();
    assert.match(await second.locator(".undo").innerText(), /^Earlier messages were replaced\./);
    await undo(second).click();
    await second.waitForSelector('.said:text-is("three")');
    assert.deepEqual(await second.locator(".said").allInnerTexts(), ["two", "three"]);
    await edit();
    await t.ask("more");
    await second.locator(".undo").waitFor({ state: "detached" });
    assert.deepEqual(t.problems, []);
  });

  test("an input method's keys are its own, a double press asks once, and what is pasted is text", async () => {
    const t = of();
    await t.open("en");
    const hand = await t.answer_by_hand();
    const field = t.page.locator(".composer textarea");
    await field.fill("日本");
    const press = (key: string, more: object) =>
      field.evaluate(
        (one, [key, more]) => one.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, ...more })),
        [key, more] as const,
      );
    await press("Enter", { isComposing: true });
    // Safari ends composing before it tells of the key.
    await press("Enter", { keyCode: 229 });
    assert.equal(await t.page.locator("article").count(), 0);
    await field.evaluate(() => {
      const form = document.querySelector<HTMLFormElement>(".composer")!;
      form.requestSubmit();
      form.requestSubmit();
    });
    await hand.write(0, "yes");
    await t.page.waitForSelector('article p:text-is("yes")');
    assert.equal(await t.page.locator("article").count(), 2);
    await press("Escape", { isComposing: true });
    assert.equal(await hand.aborted(0), false);
    await press("Escape", {});
    await t.page.waitForSelector(last_problem);
    assert.equal(await hand.aborted(0), true);

    await field.evaluate((one) => {
      const clipboardData = new DataTransfer();
      clipboardData.setData("text/html", "<b onclick=alert(1)>bold</b><table><tr><td>cell</td></tr></table>");
      clipboardData.setData("text/plain", "bold\ncell");
      one.focus();
      one.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
      document.execCommand("insertText", false, clipboardData.getData("text/plain"));
    });
    assert.equal(await field.inputValue(), "bold\ncell");
    assert.deepEqual(t.problems, []);
  });

  test("500 messages: a word more draws nothing of the others anew, and they are asked on and read", async () => {
    const t = of();
    await t.open("en");
    await keep(t, exchanges(250, 20));
    assert.equal(await t.page.locator("article").count(), 500);
    await at_end(t);
    const hand = await t.answer_by_hand();
    await t.ask("and now?");
    await hand.write(0, "first");
    await t.page.waitForSelector('article:last-child p:text-is("first")');
    await t.page.evaluate(() => {
      const { lexed } = Object.assign(globalThis, { lexed: [] as string[] });
      // What Markdown is made of anew passes here.
      const { replace } = String.prototype;
      String.prototype.replace = function (this: string, pattern: never, by: never) {
        if (String(pattern).includes("{200}")) lexed.push(String(this));
        return replace.call(this, pattern, by);
      };
    });
    await hand.write(0, " second");
    await t.page.waitForSelector('article:last-child p:text-is("first second")');
    assert.deepEqual(await t.page.evaluate(() => (globalThis as { lexed?: string[] }).lexed), ["first second"]);
    await at_end(t);
    assert.ok((await hand.asked(0)).messages.length < 500);
    assert.deepEqual(t.problems, []);
  });
});
