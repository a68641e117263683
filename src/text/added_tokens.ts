/** Tokens that stand outside of the model: a text is cut at them before the model sees what is between. */
import { is_space, is_word } from "./patterns.js";
import { Trie } from "./trie.js";

export interface AddedToken {
  id: number;
  content: string;
  /** Only where no letter, mark, digit or underscore stands beside it. */
  single_word: boolean;
  /** Takes the white space before it along. */
  lstrip: boolean;
  /** Takes the white space behind it along. */
  rstrip: boolean;
  /** Is looked for in the normalised text, in its own normalised form. */
  normalized: boolean;
  /** Is left out by `skip_special_tokens`, and is text where special tokens are split. */
  special: boolean;
}

/** A token, or text between tokens, with its place. */
export type Cut = { id: number; from: number; to: number } | { text: string; from: number };

export class AddedTokens {
  private readonly trie: Trie<AddedToken>;

  /** @param tokens each with the text that it is found by */
  constructor(tokens: Iterable<readonly [string, AddedToken]>) {
    this.trie = new Trie(tokens);
  }

  /**
   * The longest token at the leftmost place, then on behind it; as the `tokenizers` library has it, one that may not stand
   * where it was found still hides others that it overlaps.
   * @param allowed whether this token may be found at this place
   */
  cut(text: string, allowed: (token: AddedToken, from: number, to: number) => boolean): Cut[] {
    const cuts: Cut[] = [];
    let end = 0;
    const add_text = (to: number) => {
      if (end < to) cuts.push({ text: text.slice(end, to), from: end });
    };
    for (let at = 0; at < text.length; at++) {
      const found = this.trie.longest(text, at);
      if (!found) continue;
      let [from, to] = [at, at + found.length];
      at = to - 1;
      const { id, single_word, lstrip, rstrip } = found.value;
      if (!allowed(found.value, from, to) || (single_word && (is_word_at(text, from, -1) || is_word_at(text, to, 1))))
        continue;
      if (lstrip) while (from > end && is_space(text[from - 1]!)) from--;
      if (rstrip) while (to < text.length && is_space(text[to]!)) to++;
      // White space that the token before took along is gone for one that would take it along itself.
      if (lstrip && from < end) from = end;
      if (from >= to) continue;
      add_text(from);
      cuts.push({ id, from, to });
      end = to;
    }
    add_text(text.length);
    return cuts;
  }
}

function is_word_at(text: string, place: number, side: 1 | -1): boolean {
  const character = side === 1 ? text.codePointAt(place) : before(text, place);
  return character !== undefined && is_word(String.fromCodePoint(character));
}

function before(text: string, place: number): number | undefined {
  const low = text.charCodeAt(place - 1);
  return low >= 0xdc00 && low <= 0xdfff ? text.codePointAt(place - 2) : place > 0 ? low : undefined;
}
