/** Models of tokenizer.json (BPE, Unigram, WordPiece, WordLevel): their vocabulary, and what makes tokens of a piece of text. */
import { Bpe, type BpeModel, type Model } from "./bpe.js";
import { Component, type Json, make, type Table } from "./component.js";
import { Trie } from "./trie.js";
import { Unigram, type UnigramModel } from "./unigram.js";

export interface Vocabulary {
  type: string;
  ids: ReadonlyMap<string, number>;
  unk_token: string | null;
  /** @param blocked texts of tokens that a text never becomes */
  model(blocked: ReadonlySet<string>): Model;
}

/** More than any vocabulary has; an id makes a list that long. */
const MOST = 2 ** 22;

export const is_id = (id: unknown): id is number =>
  Number.isInteger(id) && (id as number) >= 0 && (id as number) < MOST;

function vocabulary(part: Component): Map<string, number> {
  const json = (part.part("vocab") ?? part.refuse("no vocab", "tokens with their ids")).json;
  const [ids, seen] = [new Map<string, number>(), new Map<number, string>()];
  for (const [piece, id] of Object.entries(json)) {
    if (!is_id(id))
      part.refuse(`id ${JSON.stringify(id)} of ${JSON.stringify(piece)}`, `an integer from 0 to ${MOST - 1}`);
    if (seen.has(id))
      part.refuse(`id ${id} for ${JSON.stringify(seen.get(id))} and ${JSON.stringify(piece)}`, "every id once");
    ids.set(piece, id);
    seen.set(id, piece);
  }
  return ids;
}

const without = (ids: ReadonlyMap<string, number>, blocked: ReadonlySet<string>): ReadonlyMap<string, number> =>
  new Map([...ids].filter(([piece]) => !blocked.has(piece)));

/** What an unknown piece becomes. A file may name a token that it lacks, as long as no text needs it. */
function unknown(part: Component, ids: ReadonlyMap<string, number>, token: string | null): () => number {
  return () =>
    (token === null ? undefined : ids.get(token)) ??
    part.refuse(`a text needs the unknown token ${JSON.stringify(token)}, which is not in the vocabulary`, "it there");
}

function read_merges(part: Component): [string, string][] {
  return part
    .list("merges")
    .filter((merge) => typeof merge !== "string" || !merge.startsWith("#version"))
    .map((merge) => {
      const pair: unknown = typeof merge === "string" ? merge.split(" ") : merge;
      return Array.isArray(pair) && pair.length === 2 && pair.every((one) => typeof one === "string" && one !== "")
        ? (pair as [string, string])
        : part.refuse(`the merge ${JSON.stringify(merge)}`, "a pair of tokens");
    });
}

function bpe(part: Component): Vocabulary {
  const ids = vocabulary(part);
  const merges = read_merges(part);
  const text = (field: string) => (part.has(field) ? part.text(field) : "");
  const [prefix, suffix, dropout] = [
    text("continuing_subword_prefix"),
    text("end_of_word_suffix"),
    part.json.dropout ?? 0,
  ];
  if (dropout !== 0)
    part.refuse(
      `the dropout ${JSON.stringify(dropout)}`,
      "none: the same text would have other tokens each time",
      "set it to null",
    );
  const unk_token = part.has("unk_token") ? part.text("unk_token") : null;
  const options: Omit<BpeModel, "ids" | "merges"> = {
    unknown: unk_token === null ? null : unknown(part, ids, unk_token),
    fuse_unk: part.flag("fuse_unk", false),
    byte_fallback: part.flag("byte_fallback", false),
    ignore_merges: part.flag("ignore_merges", false),
    continuing_subword_prefix: prefix,
    end_of_word_suffix: suffix,
  };
  const model = (blocked: ReadonlySet<string>) => {
    const whole = ([left, right]: [string, string]) => left + right.slice(prefix.length);
    const kept = merges
      .map((pair, rank) => [...pair, whole(pair), rank] as const)
      .filter(([left, right, merged]) => !blocked.has(left) && !blocked.has(right) && !blocked.has(merged));
    try {
      return new Bpe({ ids: without(ids, blocked), merges: kept, ...options });
    } catch (error) {
      if (error instanceof RangeError) return part.refuse(error.message, "tokens of the vocabulary");
      throw error;
    }
  };
  return { type: "BPE", ids, unk_token, model };
}

function unigram(part: Component): Vocabulary {
  const pieces = part.list("vocab").map((entry): [string, number] => {
    const [piece, score] = Array.isArray(entry) ? entry : [];
    return typeof piece === "string" && typeof score === "number"
      ? [piece, score]
      : part.refuse(`the entry ${JSON.stringify(entry)?.slice(0, 60)}`, "a token and its score");
  });
  const unk = part.has("unk_id") ? part.count("unk_id") : null;
  if (unk !== null && unk >= pieces.length) part.refuse(`unk_id ${unk}`, `one of ${pieces.length} tokens`);
  const ids = new Map(pieces.map(([piece], id) => [piece, id]));
  const unk_token = unk === null ? null : pieces[unk]![0];
  const options: Omit<UnigramModel, "blocked"> = {
    pieces,
    unknown: () => unk ?? part.refuse("a text needs the unknown token, and there is no unk_id", "one"),
    byte_fallback: part.flag("byte_fallback", false),
  };
  return { type: "Unigram", ids, unk_token, model: (blocked) => new Unigram({ ...options, blocked }) };
}

function word_piece(part: Component): Vocabulary {
  const ids = vocabulary(part);
  const [prefix, most] = [part.text("continuing_subword_prefix"), part.count("max_input_chars_per_word")];
  const unk_token = part.text("unk_token");
  const unk = unknown(part, ids, unk_token);
  const model = (blocked: ReadonlySet<string>): Model => {
    const known = [...without(ids, blocked)];
    const first = new Trie(known);
    const inside = new Trie(
      known.flatMap(([piece, id]) => (piece.startsWith(prefix) ? [[piece.slice(prefix.length), id] as const] : [])),
    );
    return {
      encode(word) {
        if (word.length > most && Array.from(word).length > most) return [unk()];
        const out: number[] = [];
        for (let at = 0; at < word.length; ) {
          const found = (at > 0 ? inside : first).longest(word, at);
          if (!found) return [unk()];
          out.push(found.value);
          at += found.length;
        }
        return out;
      },
    };
  };
  return { type: "WordPiece", ids, unk_token, model };
}

function word_level(part: Component): Vocabulary {
  const ids = vocabulary(part);
  const unk_token = part.text("unk_token");
  const unk = unknown(part, ids, unk_token);
  const model = (blocked: ReadonlySet<string>): Model => {
    const known = without(ids, blocked);
    return { encode: (word) => [known.get(word) ?? unk()] };
  };
  return { type: "WordLevel", ids, unk_token, model };
}

const MODELS: Table<Vocabulary> = { BPE: bpe, Unigram: unigram, WordPiece: word_piece, WordLevel: word_level };

/** Old files do not name the type of their model. */
const type_of = ({ merges, vocab, max_input_chars_per_word, continuing_subword_prefix }: Json): string =>
  merges !== undefined
    ? "BPE"
    : Array.isArray(vocab)
      ? "Unigram"
      : max_input_chars_per_word !== undefined && continuing_subword_prefix !== undefined
        ? "WordPiece"
        : "WordLevel";

/** @throws BimedixError bad_tokenizer */
export function read_model(json: Json, at: string): Vocabulary {
  return make(new Component({ type: type_of(json), ...json }, at), "the model", MODELS);
}
