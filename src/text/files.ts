/**
 * The files of a tokenizer: tokenizer.json (Hugging Face) or tokenizer.model (SentencePiece), read into one description, and the
 * special tokens and chat template beside them.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { read_json } from "../files.js";
import { as_float, as_text, fields } from "../protobuf.js";
import type { BpeModel } from "./bpe.js";
import { type ChatTemplates, read_templates } from "./template_files.js";

export interface TokenizerFiles extends BpeModel {
  /** Where a text gets a space in front: before every run between control tokens, before the first only, or never. */
  prefix: "always" | "first" | "never";
  bos_token_id: number | null;
  eos_token_id: number | null;
  pad_token_id: number | null;
  add_bos_token: boolean;
  add_eos_token: boolean;
  /** null where the file has none, or a number that stands for none. */
  model_max_length: number | null;
  chat_template: ChatTemplates;
  /** By the names that templates know them by; without those that there are not. */
  special_tokens: Record<string, string>;
}

type Json = Record<string, unknown>;

/** @throws BimedixError file_not_found, bad_tokenizer */
export async function read_tokenizer(dir: string): Promise<TokenizerFiles> {
  const config = (await read_json(join(dir, "tokenizer_config.json"), "bad_tokenizer", true)) ?? {};
  const json_file = join(dir, "tokenizer.json");
  const json = await read_json(json_file, "bad_tokenizer", true);
  const model = json ? from_json(json, json_file) : await from_sentencepiece(join(dir, "tokenizer.model"));
  if (!json) await add_tokens(model, dir, config);
  const special = {
    ...((await read_json(join(dir, "special_tokens_map.json"), "bad_tokenizer", true)) ?? {}),
    ...config,
  };
  const id_of = (name: string, fallback: string | null): number | null => {
    const value = special[name];
    const content =
      value === undefined ? fallback : typeof value === "object" ? (value as Json | null)?.content : value;
    const id = model.pieces.indexOf(String(content));
    return id < 0 ? null : id;
  };
  const length = config.model_max_length;
  return {
    ...model,
    bos_token_id: id_of("bos_token", "<s>"),
    eos_token_id: id_of("eos_token", "</s>"),
    pad_token_id: id_of("pad_token", null),
    add_bos_token: config.add_bos_token !== false,
    add_eos_token: config.add_eos_token === true,
    model_max_length: typeof length === "number" && length < 1e9 ? length : null,
    chat_template: await read_templates(dir, config.chat_template),
    special_tokens: special_tokens_of(special),
  };
}

const SPECIAL = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/** Llama's classes, which Mixtral's tokenizer is of, have three by themselves. */
function special_tokens_of(configured: Json): Record<string, string> {
  const content = (value: unknown) => (typeof value === "object" ? (value as Json | null)?.content : value);
  const all = { bos_token: "<s>", eos_token: "</s>", unk_token: "<unk>", ...configured } as Json;
  return Object.fromEntries(
    SPECIAL.map((name) => [name, content(all[name])]).filter(
      (pair): pair is [string, string] => typeof pair[1] === "string",
    ),
  );
}

const bad = (file: string, given: string, expected: string): never => {
  throw new BimedixError("bad_tokenizer", { given: `${file}: ${given}`, expected, todo: "download the file again" });
};

type Model = Pick<TokenizerFiles, "pieces" | "merges" | "unk_token_id" | "prefix"> & { control: Set<number> };

function from_json(json: Json, file: string): Model {
  const model = (json.model ?? {}) as Json;
  const { vocab, merges } = model as { vocab: Record<string, number>; merges: (string | [string, string])[] };
  if (model.type !== "BPE" || typeof vocab !== "object" || !Array.isArray(merges))
    bad(file, `a ${String(model.type)} model`, "BPE with a vocabulary and merges");
  if (JSON.stringify(json.pre_tokenizer ?? null).includes("ByteLevel"))
    bad(file, "a byte-level tokenizer", "a SentencePiece-style one, as Mixtral and Llama 2 have");
  const pieces: string[] = [];
  const place = (piece: string, id: unknown): void => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) > 2 ** 22)
      bad(file, `id ${JSON.stringify(id)} of ${JSON.stringify(piece)}`, "a small non-negative integer");
    const known = pieces[id as number];
    if (known !== undefined && known !== piece)
      bad(file, `id ${id} for ${JSON.stringify(known)} and ${JSON.stringify(piece)}`, "every id once");
    pieces[id as number] = piece;
  };
  for (const [piece, id] of Object.entries(vocab)) place(piece, id);
  const control = new Set<number>();
  for (const { id, content, special } of (json.added_tokens ?? []) as {
    id: number;
    content: string;
    special: boolean;
  }[]) {
    place(content, id);
    if (special) control.add(id);
  }
  const gap = Array.from(pieces).indexOf(undefined as unknown as string);
  if (gap >= 0) bad(file, `no token has id ${gap}`, `every id from 0 to ${pieces.length - 1}`);
  const pairs = merges.map((merge): [string, string] => {
    const pair = typeof merge === "string" ? merge.split(" ") : merge;
    if (
      !Array.isArray(pair) ||
      pair.length !== 2 ||
      !pair.every((part) => typeof part === "string" && part.length > 0)
    ) {
      bad(file, `the merge ${JSON.stringify(merge)}`, "a pair of tokens");
    }
    return pair as [string, string];
  });
  const normalizer = JSON.stringify(json.normalizer ?? null);
  const pre = (json.pre_tokenizer ?? {}) as Json;
  const scheme = pre.prepend_scheme ?? (pre.add_prefix_space === false ? "never" : "always");
  const prefix = normalizer.includes('"Prepend"')
    ? "always"
    : pre.type === "Metaspace"
      ? (scheme as Model["prefix"])
      : "never";
  const unk = pieces.indexOf(String(model.unk_token ?? "<unk>"));
  return { pieces, merges: pairs, control, unk_token_id: Math.max(unk, 0), prefix };
}

/** https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto */
async function from_sentencepiece(file: string): Promise<Model> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    const todo = "use a model directory with its tokenizer files";
    throw new BimedixError(
      "file_not_found",
      { given: `${file} does not exist and there is no tokenizer.json`, expected: "one of them", todo },
      error,
    );
  }
  const pieces: string[] = [];
  const scores: number[] = [];
  const control = new Set<number>();
  let unk_token_id = 0;
  let prefix: Model["prefix"] = "always";
  try {
    for (const { field, value } of fields(bytes)) {
      if (typeof value === "number") continue;
      if (field === 1) {
        const id = pieces.length;
        pieces.push("");
        scores.push(0);
        for (const part of fields(value)) {
          if (part.field === 1) pieces[id] = as_text(part.value);
          else if (part.field === 2) scores[id] = as_float(part.value);
          else if (part.field === 3 && (part.value === 2 || part.value === 3)) control.add(id);
          if (part.field === 3 && part.value === 2) unk_token_id = id;
        }
      } else if (field === 2) {
        // trainer_spec.model_type: 2 is BPE
        for (const part of fields(value))
          if (part.field === 3 && part.value !== 2) bad(file, "not a BPE model", "SentencePiece BPE");
      } else if (field === 3) {
        for (const part of fields(value)) if (part.field === 3 && part.value === 0) prefix = "never";
      }
    }
  } catch (error) {
    if (error instanceof RangeError)
      bad(file, "not a SentencePiece model, or cut short", "tokenizer.model as published");
    throw error;
  }
  if (pieces.length === 0) bad(file, "no tokens", "a SentencePiece model");
  return { pieces, merges: merges_of(pieces, scores), control, unk_token_id, prefix };
}

/** tokenizer.model stays as it was trained: tokens that a fine-tuning added stand in a file beside it, and are control tokens. */
async function add_tokens({ pieces, control }: Model, dir: string, config: Json): Promise<void> {
  const file = join(dir, "added_tokens.json");
  const older = Object.entries((await read_json(file, "bad_tokenizer", true)) ?? {});
  const newer = Object.entries((config.added_tokens_decoder ?? {}) as Record<string, { content?: unknown } | null>);
  for (const [content, id] of [
    ...older,
    ...newer.map(([id, token]): [unknown, unknown] => [token?.content, Number(id)]),
  ]) {
    if (typeof content !== "string" || !Number.isInteger(id) || (id as number) < 0 || (id as number) > 2 ** 22)
      return bad(
        file,
        `id ${JSON.stringify(id)} of ${JSON.stringify(content)}`,
        "a small non-negative integer for a text",
      );
    if (pieces[id as number] !== undefined) continue;
    pieces[id as number] = content;
    control.add(id as number);
  }
  const gap = Array.from(pieces).indexOf(undefined as unknown as string);
  if (gap >= 0) bad(file, `no token has id ${gap}`, `every id from 0 to ${pieces.length - 1}`);
}

/** SentencePiece merges any pair whose concatenation is a piece, the best score first: here as the list that this amounts to. */
function* merges_of(pieces: readonly string[], scores: readonly number[]): Generator<[string, string]> {
  const known = new Set(pieces);
  const order = [...pieces.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  for (const id of order) {
    const piece = pieces[id]!;
    for (let at = 1; at < piece.length; at++) {
      const [left, right] = [piece.slice(0, at), piece.slice(at)];
      if (known.has(left) && known.has(right)) yield [left, right];
    }
  }
}
