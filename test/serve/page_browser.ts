/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/** The web page in a real browser: Chromium, by playwright-core, with a server of its own a file of tests. Skipped where there is none. */
import { existsSync, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, describe } from "node:test";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { root } from "../fixtures.js";
import { start, type TestServer } from "./server.js";

const candidates = [process.env.CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const executablePath = candidates.find((path) => path && existsSync(path));
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
/** BIMEDIX_SCREENSHOTS=docs writes the pictures that the README shows. */
const pictures = process.env.BIMEDIX_SCREENSHOTS;

/** The page's answers, written by a test: a piece to the nth that was asked for, an event as it is, or its end. */
export interface Hand {
  write: (n: number, piece: string) => Promise<void>;
  send: (n: number, event: string) => Promise<void>;
  end: (n: number) => Promise<void>;
  /** Without a last event. */
  cut: (n: number) => Promise<void>;
  aborted: (n: number) => Promise<boolean>;
  /** What the nth request asked for. */
  asked: (n: number) => Promise<{ messages: { role: string; content: string }[]; temperature: number }>;
}

export class PageTest {
  page!: Page;
  readonly problems: string[] = [];
  context: BrowserContext | undefined;

  constructor(
    readonly at: TestServer,
    readonly browser: Browser,
  ) {}

  async open(locale: "en" | "ar", width = 1100, url = this.at.url, height = 760): Promise<void> {
    await this.context?.close();
    this.context = await this.browser.newContext({ locale, viewport: { width, height } });
    await this.tab(url);
  }

  /** A script that CSP or a library's name stops would only be a line in the console. */
  async tab(url = this.at.url): Promise<Page> {
    this.page = await this.context!.newPage();
    this.problems.length = 0;
    this.page.on("pageerror", (error) => this.problems.push(error.message));
    this.page.on("console", (message) => message.type() === "error" && this.problems.push(message.text()));
    await this.page.goto(url);
    await this.page.waitForSelector("header select option", { state: "attached" });
    return this.page;
  }

  async ask(text: string): Promise<void> {
    await this.page.locator(".composer textarea").fill(text);
    await this.page.keyboard.press("Enter");
  }

  answered = () => this.page.waitForSelector('[role="log"][aria-busy="false"] article.assistant:last-of-type p');
  idle = () => this.page.waitForSelector('[role="log"][aria-busy="false"]');

  /** The whole answer to all that is asked from here on. */
  async answer_with(content: string): Promise<void> {
    const chunk = { choices: [{ index: 0, delta: { content }, finish_reason: "stop" }] };
    const body = `data: ${JSON.stringify(chunk)}\n\ndata: [DONE]\n\n`;
    await this.page.route("**/v1/chat/completions", (route) =>
      route.fulfill({ contentType: "text/event-stream", body }),
    );
  }

  /** From here on the test writes the page's answers. */
  async answer_by_hand(): Promise<Hand> {
    const hand = await this.page.evaluateHandle(() => {
      const { fetch } = globalThis;
      const answers: { stream: ReadableStreamDefaultController<Uint8Array>; signal: AbortSignal; body: string }[] = [];
      globalThis.fetch = async (url, init) => {
        if (url !== "/v1/chat/completions") return fetch(url, init);
        const signal = init!.signal!;
        const body = init!.body as string;
        const start = (stream: ReadableStreamDefaultController<Uint8Array>) => {
          answers.push({ stream, signal, body });
          signal.onabort = () => stream.error(signal.reason);
        };
        return new Response(new ReadableStream({ start }), { headers: { "content-type": "text/event-stream" } });
      };
      // The tokens of a long conversation are counted before it is asked.
      const nth = async (n: number) => {
        while (!answers[n]) await new Promise(requestAnimationFrame);
        return answers[n];
      };
      return {
        send: async (n: number, text: string) => (await nth(n)).stream.enqueue(new TextEncoder().encode(text)),
        cut: async (n: number) => (await nth(n)).stream.close(),
        aborted: async (n: number) => (await nth(n)).signal.aborted,
        asked: async (n: number) => JSON.parse((await nth(n)).body),
      };
    });
    const send = (n: number, text: string) => hand.evaluate(({ send }, [n, text]) => send(n, text), [n, text] as const);
    return {
      send,
      write: (n, piece) => send(n, `data: ${JSON.stringify({ choices: [{ delta: { content: piece } }] })}\n\n`),
      end: (n) => send(n, "data: [DONE]\n\n"),
      cut: (n) => hand.evaluate(({ cut }, n) => cut(n), n),
      aborted: (n) => hand.evaluate(({ aborted }, n) => aborted(n), n),
      asked: (n) => hand.evaluate(({ asked }, n) => asked(n), n),
    };
  }

  /** In a narrow window the views are in a menu. */
  async show_view(i: number): Promise<void> {
    const menu = this.page.locator("header .menu");
    if (await menu.isVisible()) await menu.click();
    await this.page.locator("aside nav button").nth(i).click();
  }

  async picture(name: string): Promise<void> {
    if (!pictures) return;
    await mkdir(join(root, pictures), { recursive: true });
    await this.page.screenshot({ path: join(root, pictures, `${name}.png`) });
  }

  /** Faults that axe finds serious or worse. */
  async faults(): Promise<string[]> {
    // CSP lets no script in, so this one comes with the debugger.
    await this.page.evaluate(readFileSync(axe, "utf8"));
    const found = await this.page.evaluate(() =>
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

  direction = (selector: string) =>
    this.page
      .locator(selector)
      .last()
      .evaluate((element) => getComputedStyle(element).direction);
}

/** Tests in a browser and against a server that they share. */
export function describe_page(name: string, tests: (of: () => PageTest) => void): void {
  const off = process.env.CHROMIUM === "none";
  const skip = off ? "CHROMIUM=none" : executablePath ? false : "no Chromium here; set CHROMIUM";
  describe(name, { skip }, () => {
    let shared: PageTest;
    before(async () => {
      const at = await start({ pretrained: { dtype: "q8", threads: 1 }, allow_hosts: ["bimedix.test"] });
      const args = ["--no-sandbox", "--host-resolver-rules=MAP bimedix.test 127.0.0.1"];
      shared = new PageTest(at, await chromium.launch({ executablePath: executablePath!, args }));
    });
    after(async () => {
      await shared.browser.close();
      await shared.at.server.stop(1);
    });
    tests(() => shared);
  });
}
