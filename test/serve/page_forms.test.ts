/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** What is set and kept: numbers out of range, options without text, and a browser that keeps damaged things or nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { describe_page, type PageTest } from "./page_browser.js";

const settings = ({ page }: PageTest) =>
  page.evaluate(() => JSON.parse(localStorage.getItem("bimedix.settings") ?? "null") as Record<string, unknown>);

describe_page("forms and storage of the page", (of) => {
  test("a number out of range is refused in its place and the old one is used; digits and commas of both languages are read", async () => {
    for (const [locale, temperature_text, tokens_text] of [
      [
        "en",
        /^Not used: a number from .?0.? to .?2.? is needed\. In use: .?0\.4/,
        /a whole number from .?1.? to .?100,000/,
      ],
      ["ar", /^لم تُستخدم هذه القيمة.*٠٫٤/, /عدد صحيح/],
    ] as const) {
      const t = of();
      await t.open(locale);
      await t.show_view(3);
      const [temperature, tokens] = [t.page.locator(".page input").nth(0), t.page.locator(".page input").nth(1)];
      const refused = t.page.locator(".page .problem");
      for (const wrong of ["9", "-1", "", "2.01", "abc", "1.2.3", "1e0", "٣", "NaN", "Infinity"]) {
        await temperature.fill(wrong);
        await refused.waitFor();
        assert.match(await refused.innerText(), temperature_text, wrong);
        assert.equal(await temperature.getAttribute("aria-invalid"), "true");
        assert.equal((await settings(t)).temperature, 0.4, wrong);
      }
      await temperature.blur();
      assert.equal(await temperature.inputValue(), "0.4", "what is not used does not stay");
      assert.ok(await refused.isVisible(), "and why is still said");
      for (const wrong of ["0", "1.5", "1,000", "٢٥٦٫٥", "100001", "12 3"]) {
        await tokens.fill(wrong);
        await t.page.waitForSelector("#max_tokens-refused");
        assert.match(await t.page.locator("#max_tokens-refused").innerText(), tokens_text, wrong);
        assert.equal((await settings(t)).max_tokens, 256, wrong);
      }
      assert.deepEqual(await t.faults(), []);
      for (const [field, written, value] of [
        [temperature, "0,7", 0.7],
        [temperature, "٠٫٥", 0.5],
        [temperature, "١،٥", 1.5],
        [temperature, "۱.۲", 1.2],
        [temperature, " 2 ", 2],
        [temperature, "0", 0],
        [tokens, "٥١٢", 512],
        [tokens, "100000", 100_000],
        [tokens, "77", 77],
      ] as const) {
        await field.fill(written);
        assert.equal(await field.getAttribute("aria-invalid"), "false", written);
        assert.equal((await settings(t))[field === temperature ? "temperature" : "max_tokens"], value, written);
      }
      assert.equal(await refused.count(), 0);
      await t.show_view(0);
      const hand = await t.answer_by_hand();
      await t.ask("x");
      const { temperature: used, max_tokens } = (await hand.asked(0)) as { temperature: number; max_tokens?: number };
      assert.deepEqual([used, max_tokens], [0, 77]);
      assert.deepEqual(t.problems, []);
    }
  });

  test("options keep their letters: what is empty in between is asked for, what is empty at the end is left out", async () => {
    const t = of();
    await t.open("en");
    await t.show_view(1);
    const asked: string[][] = [];
    t.page.on("request", (one) => one.url().endsWith("/mcqa") && asked.push(one.postDataJSON().options));
    const options = t.page.locator(".page input");
    const submit = t.page.locator('.page [type="submit"]');
    const problem = t.page.locator(".page .problem");
    await options.nth(1).fill("  ");
    await submit.click();
    assert.match(await problem.innerText(), /^Option .?2.? is empty: fill it in or remove it\.$/);
    assert.ok(await options.nth(1).evaluate((field) => field === document.activeElement));
    assert.equal(await options.nth(1).getAttribute("aria-invalid"), "true");
    assert.deepEqual(asked, []);
    await options.nth(1).fill("The liver");
    await options.nth(3).fill("");
    await submit.click();
    await t.page.waitForSelector(".bars li");
    assert.equal(await problem.count(), 0);
    assert.deepEqual(
      (await t.page.locator(".bars bdi").allInnerTexts()).map((text) => text.slice(0, 6)),
      ["A. The", "B. The", "C. The"],
    );
    assert.deepEqual(asked, [["The pancreas", "The liver", "The spleen"]]);
    for (const i of [1, 2]) await options.nth(i).fill("");
    await submit.click();
    assert.match(await problem.innerText(), /^Two options are needed/);
    await options.nth(1).fill("The liver");
    await t.page.locator(".page textarea").fill(" ");
    await submit.click();
    await t.page.waitForFunction(() =>
      /^Something is empty/.test(document.querySelector(".page .problem")?.textContent ?? ""),
    );
    assert.equal(asked.length, 1);
    // A double press is one question, in both views.
    await t.page.locator(".page textarea").fill("Which?");
    const twice = () =>
      t.page.locator(".page form").evaluate((form: HTMLFormElement) => {
        form.requestSubmit();
        form.requestSubmit();
      });
    await twice();
    await t.page.waitForSelector(".bars li");
    assert.equal(asked.length, 2);
    await t.show_view(2);
    const routed: string[] = [];
    t.page.on("request", (one) => one.url().endsWith("/routing") && routed.push(one.url()));
    await twice();
    await t.page.waitForSelector(".heat .cell");
    assert.equal(routed.length, 2, "two texts");
    await t.page.locator(".page textarea").first().fill("");
    await t.page.locator('.page [type="submit"]').click();
    await t.page.waitForSelector(".page .problem");
    assert.deepEqual(t.problems, []);
  });

  test("what is damaged in the browser's storage is passed over and left there, and the rest is shown", async () => {
    const t = of();
    await t.open("en");
    const damaged: Record<string, string> = {
      "1-0": "{",
      "1-1": "null",
      "1-2": '{"id":"1-2"}',
      "1-3": '{"id":"1-3","messages":"x"}',
      "1-4": '{"id":"1-4","messages":[]}',
      "1-5": "[]",
    };
    await t.page.evaluate((damaged) => {
      for (const [id, text] of Object.entries(damaged)) localStorage.setItem(`bimedix.conversation.${id}`, text);
      const messages = [
        null,
        7,
        { role: "user", content: 5 },
        { role: "system", content: "x" },
        { role: "user", content: "kept" },
      ];
      const broken = { role: "assistant", content: "half", problem: "The connection was cut" };
      const odd = { role: "assistant", content: "odd", problem: { kind: "toString", detail: { a: 1 } } };
      localStorage.setItem(
        "bimedix.conversation.2-0",
        JSON.stringify({ id: "other", messages: [...messages, broken, odd] }),
      );
      const settings = {
        language: "fr",
        theme: 5,
        digits: null,
        temperature: 99,
        max_tokens: "256",
        system: ["x"],
        model: {},
      };
      localStorage.setItem("bimedix.settings", JSON.stringify(settings));
    }, damaged);
    await t.page.reload();
    await t.page.waitForSelector("header select option", { state: "attached" });
    await t.page.locator(".conversations li button").first().click();
    assert.deepEqual(await t.page.locator(".conversations li button:first-child").allInnerTexts(), ["kept"]);
    assert.equal(await t.page.locator("article").count(), 3);
    assert.match(await t.page.locator("article .problem").first().innerText(), /^That failed/);
    await t.show_view(3);
    assert.deepEqual(
      await t.page.locator(".page input").evaluateAll((all) => all.map((one) => (one as HTMLInputElement).value)),
      ["0.4", "256"],
    );
    const left = await t.page.evaluate(
      (ids) => ids.map((id) => localStorage.getItem(`bimedix.conversation.${id}`)),
      Object.keys(damaged),
    );
    assert.deepEqual(left, Object.values(damaged));
    assert.deepEqual(t.problems, []);
  });

  test("a browser that keeps nothing, and one that is full: the page works and says so, and keeps what still fits", async () => {
    const t = of();
    await t.open("en");
    await t.context!.addInitScript(() => {
      if (!/off/.test(location.hash)) return;
      for (const storage of ["localStorage", "sessionStorage"])
        Object.defineProperty(globalThis, storage, {
          get() {
            throw new DOMException("denied", "SecurityError");
          },
        });
    });
    await t.tab(`${t.at.url}/#off`);
    await t.answer_with("yes");
    await t.ask("one");
    await t.page.waitForSelector('article p:text-is("yes")');
    assert.match(await t.page.locator('main > [role="alert"]').innerText(), /^This browser keeps nothing/);
    await t.page.locator("header > button[lang]").click();
    await t.page.waitForSelector('html[dir="rtl"]');
    assert.match(await t.page.locator('main > [role="alert"]').innerText(), /لا يحفظ هذا المتصفح/);
    assert.deepEqual(t.problems, []);

    await t.tab();
    await t.page.evaluate(() => {
      const room = "x".repeat(100_000);
      try {
        for (let i = 0; ; i++) localStorage.setItem(`other.${i}`, room);
      } catch {}
    });
    await t.answer_with("yes ".repeat(50_000));
    await t.ask("long");
    await t.page.waitForSelector('main > [role="alert"]');
    assert.match(await t.page.locator('main > [role="alert"]').innerText(), /^The browser's storage is full/);
    await t.idle();
    await t.show_view(3);
    await t.page.locator(".page input").first().fill("1");
    assert.equal((await settings(t)).temperature, 1, "a small thing is kept beside");
    await t.page.evaluate(() => localStorage.removeItem("other.0"));
    await t.page.evaluate(() => localStorage.removeItem("other.1"));
    await t.page.evaluate(() => localStorage.removeItem("other.2"));
    await t.page.locator(".page input").first().fill("0.5");
    await t.page.locator('main > [role="alert"]').waitFor({ state: "detached" });
    assert.deepEqual(t.problems, []);
  });
});
