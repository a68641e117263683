/**
 * Markdown as elements, never as HTML: what a model writes cannot become a tag, a script or a request. Every block finds its own
 * direction; code is left to right; an address is shown as a link only where it leads to the web, and images are their texts.
 */
import { lexer, type Token, type Tokens, walkTokens } from "marked";
import type { ComponentChildren, JSX } from "preact";
import { type Digits, digits_of, type Texts } from "./texts.js";

/** Deeper than any answer that a person wants to read. */
const DEPTH = 40;

interface MarkdownProps {
  text: string;
  digits: Digits;
  texts: Texts;
}

export function Markdown({ text, digits, texts }: MarkdownProps): JSX.Element {
  const with_digits = digits_of(text, digits);
  try {
    const tokens = lexer(text.replace(/^([>\s]{200})[>\s]+/gm, "$1"));
    // After the lexer, which numbers lists by 0-9 alone, and in words alone: code and addresses are as they were written.
    walkTokens(tokens, (token) => {
      if (token.type === "text" || token.type === "image") token.text = with_digits(without_entities(token.text));
      if (token.type === "link") token.href = without_entities(token.href);
      if (token.type === "checkbox")
        (token as Tokens.Generic).label = token.checked ? texts.task_done : texts.task_open;
    });
    return <>{blocks(tokens, 0)}</>;
  } catch {
    return <p dir="auto">{text}</p>;
  }
}

/** For what holds blocks of its own: `auto` does not look into those. The first letter decides, as there. */
const direction = (text: string): "rtl" | "ltr" => {
  const [letter = ""] = /\p{L}/u.exec(text) ?? [];
  return /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}]/u.test(letter) ? "rtl" : "ltr";
};

const blocks = (tokens: readonly Token[], depth: number): ComponentChildren =>
  depth > DEPTH ? tokens.map(({ raw }) => raw) : tokens.map((token) => block(token as Tokens.Generic, depth + 1));

function block(token: Tokens.Generic, depth: number): ComponentChildren {
  const inside = () => inline(token.tokens ?? [], depth);
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading": {
      const Tag = `h${Math.min(6, token.depth + 2)}` as "h3";
      return <Tag dir="auto">{inside()}</Tag>;
    }
    case "code":
      return (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, by keys too
        <pre dir="ltr" tabIndex={0}>
          <code>{token.text}</code>
        </pre>
      );
    case "blockquote":
      return <blockquote dir={direction(token.raw)}>{blocks(token.tokens ?? [], depth)}</blockquote>;
    case "hr":
      return <hr />;
    case "list": {
      const items = (token.items as Tokens.ListItem[]).map((item) => (
        <li dir={direction(item.text)} class={item.task ? "task" : undefined}>
          {blocks(item.tokens, depth)}
        </li>
      ));
      return token.ordered ? (
        <ol dir={direction(token.raw)} start={token.start}>
          {items}
        </ol>
      ) : (
        <ul dir={direction(token.raw)}>{items}</ul>
      );
    }
    case "table": {
      const { header, rows } = token as Tokens.Table;
      const cell = (Tag: "th" | "td") => (one: Tokens.TableCell) => (
        <Tag dir="auto" style={one.align ? { textAlign: one.align } : undefined}>
          {inline(one.tokens, depth)}
        </Tag>
      );
      return (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: it scrolls, by keys too
        <div class="table" tabIndex={0}>
          <table dir={direction(token.raw)}>
            <thead>
              <tr>{header.map(cell("th"))}</tr>
            </thead>
            <tbody>
              {rows.map((row) => (
                <tr>{row.map(cell("td"))}</tr>
              ))}
            </tbody>
          </table>
        </div>
      );
    }
    case "text":
      return token.tokens ? <span dir="auto">{inside()}</span> : token.text;
    case "paragraph":
      return <p dir="auto">{inside()}</p>;
    case "checkbox":
      return span(token, depth);
    default:
      // HTML among them: it is shown as it was written.
      return <p dir="auto">{token.raw}</p>;
  }
}

const inline = (tokens: readonly Token[], depth: number): ComponentChildren =>
  depth > DEPTH ? tokens.map(({ raw }) => raw) : tokens.map((token) => span(token as Tokens.Generic, depth + 1));

function span(token: Tokens.Generic, depth: number): ComponentChildren {
  const inside = () => inline(token.tokens ?? [], depth);
  switch (token.type) {
    case "strong":
      return <strong>{inside()}</strong>;
    case "em":
      return <em>{inside()}</em>;
    case "del":
      return <del>{inside()}</del>;
    case "br":
      return <br />;
    case "codespan":
      return (
        <bdi>
          <code dir="ltr">{token.text}</code>
        </bdi>
      );
    case "link": {
      const shown = token.autolink ? token.text : inside();
      return /^(https?:\/\/|mailto:)/i.test(token.href) ? (
        <a href={token.href} target="_blank" rel="noreferrer noopener nofollow">
          {shown}
        </a>
      ) : (
        <bdi>{shown}</bdi>
      );
    }
    case "image":
      return <bdi>{token.text}</bdi>;
    case "escape":
      return token.text;
    case "checkbox":
      return (
        <>
          <input type="checkbox" disabled checked={token.checked} aria-label={token.label} />{" "}
        </>
      );
    case "html":
      // The one tag that tables cannot do without; all others are shown as they were written.
      return /^<br\s*\/?>$/i.test(token.raw) ? <br /> : token.raw;
    case "text":
      return token.tokens ? inside() : token.text;
    default:
      return token.raw;
  }
}

/** The lexer hands on entities as they are written. The browser knows their names, and its text field takes no tags. */
function without_entities(text: string): string {
  return text.replace(/&#?\w+;/g, (entity) => {
    const field = document.createElement("textarea");
    field.innerHTML = entity;
    return field.value;
  });
}
