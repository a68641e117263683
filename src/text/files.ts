/**
 * The files of a tokenizer, read whole into one description: tokenizer.json (Hugging Face), tokenizer.model (SentencePiece), or
 * vocab.json with merges.txt; and what stands beside them.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { BimedixError } from "../errors.js";
import { check_file, read_json, read_text } from "../files.js";
import type { AddedToken } from "./added_tokens.js";
import type { Model } from "./bpe.js";
import { as_llama, from_vocabulary, type TokenizerClass, tokenizer_class } from "./classes.js";
import { Component, type Json } from "./component.js";
import { clean_up_tokenization, type Decoder, read_decoder } from "./decoders.js";
import { read_model, type Vocabulary } from "./models.js";
import { type Normalizer, read_normalizer } from "./normalizers.js";
import { NOTHING_ADDED, type PostProcessor, read_post_processor } from "./post_processors.js";
import { type PreTokenizer, read_pre_tokenizer } from "./pre_tokenizers.js";
import {
  read_sentencepiece,
  sentencepiece_decoder,
  sentencepiece_model,
  sentencepiece_normalizer,
  special_pieces,
} from "./sentencepiece.js";
import { type SpecialTokens, special_tokens } from "./special_tokens.js";
import { type ChatTemplates, read_templates } from "./template_files.js";

export interface TokenizerFiles {
  /** The text of each id; undefined for an id that stands for nothing. */
  pieces: readonly (string | undefined)[];
  added: readonly AddedToken[];
  /** Texts of the tokens that `skip_special_tokens` leaves out. */
  special: ReadonlySet<string>;
  normalize: Normalizer;
  pre_tokenize: PreTokenizer;
  model: Model;
  post_processor: PostProcessor;
  decoders: readonly Decoder[];
  /** Texts by role: `bos_token`, `eos_token`, … */
  named: Readonly<Record<string, string>>;
  extra_special_tokens: readonly string[];
  /** null where the file has none, or a number that stands for none. */
  model_max_length: number | null;
  padding_side: "left" | "right";
  truncation_side: "left" | "right";
  chat_template: ChatTemplates;
}

/** What one of the three kinds of files says. */
interface Base {
  vocabulary: Vocabulary;
  /** `added_tokens`, as they stand. */
  added: readonly unknown[];
  normalize: Normalizer;
  pre_tokenize: PreTokenizer;
  /** null: it is made from `add_bos_token` and `add_eos_token`. */
  post_processor: PostProcessor | null;
  decoders: readonly Decoder[];
  /** Settings that tokenizer_config.json may change. */
  settings: Json;
  strict: boolean;
}

/** Published tokens have at most 128 characters or so. Each place of a text is looked at as far as the longest could go. */
const LONGEST_PIECE = 1000;

/** @throws BimedixError file_not_found, bad_tokenizer */
export async function read_tokenizer(dir: string): Promise<TokenizerFiles> {
  const optional = async (file: string): Promise<Json> =>
    (await read_json(join(dir, file), "bad_tokenizer", true)) ?? {};
  const config = await optional("tokenizer_config.json");
  // What is wrong with config.json is the model's to say.
  const model_config = (await read_json(join(dir, "config.json"), "bad_config", true).catch(() => null)) ?? {};
  const kind = tokenizer_class(config, model_config);
  refuse_versions(config, dir);
  const base = await read_base(dir, kind, config, model_config);
  const special = special_tokens({
    vocabulary: base.vocabulary.ids,
    listed: base.added,
    config: { ...base.settings, ...config },
    special_tokens_map: await optional("special_tokens_map.json"),
    added_tokens: await optional("added_tokens.json"),
    strict: base.strict,
    defaults: { ...kind.defaults, ...(base.settings.defaults as Record<string, string> | undefined) },
    dir,
  });
  const { ids } = base.vocabulary;
  const { added, named, extra } = special;
  const pieces = pieces_of(ids, special, join(dir, "tokenizer.json"));
  const longest = pieces.findIndex((piece) => piece !== undefined && piece.length > LONGEST_PIECE);
  if (longest >= 0)
    bad(
      dir,
      `token ${longest} of ${pieces[longest]!.length} characters`,
      `at most ${LONGEST_PIECE}`,
      "use another tokenizer",
    );
  const nowhere = base.post_processor?.find((id) => id !== null && pieces[id] === undefined) ?? null;
  if (nowhere !== null) bad(join(dir, "tokenizer.json"), `post_processor adds the id ${nowhere}`, "an id of a token");
  // One character, or one byte, is text whatever role it has; a longer one is out of a text's reach.
  const blocked = new Set([...added.special].filter((text) => !/^(?:.|<0x[0-9A-F]{2}>)$/su.test(text)));
  const length = config.model_max_length ?? config.max_len;
  return {
    pieces,
    added: [...added.tokens.values()],
    special: added.special,
    normalize: base.normalize,
    pre_tokenize: base.pre_tokenize,
    model: base.vocabulary.model(blocked),
    post_processor: base.post_processor ?? from_flags({ ...base.settings, ...config }, special),
    decoders: [...base.decoders, ...(cleans_up(base.vocabulary, config) ? clean_up_tokenization : [])],
    named,
    extra_special_tokens: extra,
    model_max_length: typeof length === "number" && length < 1e9 ? length : null,
    padding_side: side(config, base, "padding_side", kind.padding_side, dir),
    truncation_side: side(config, base, "truncation_side", "right", dir),
    chat_template: await read_templates(dir, config.chat_template),
  };
}

const bad = (at: string, given: string, expected: string, todo?: string): never =>
  new Component({}, at).refuse(given, expected, todo);

/** Files for one release of transformers or another are a matter of the past. */
function refuse_versions({ fast_tokenizer_files }: Json, dir: string): void {
  if (Array.isArray(fast_tokenizer_files) && fast_tokenizer_files.some((file) => file !== "tokenizer.json"))
    bad(
      `${dir}/tokenizer_config.json`,
      "fast_tokenizer_files with versions",
      "tokenizer.json alone",
      "leave the field out",
    );
}

async function read_base(dir: string, kind: TokenizerClass, config: Json, model_config: Json): Promise<Base> {
  const file = join(dir, "tokenizer.json");
  const json = await read_json(file, "bad_tokenizer", true);
  if (json) return from_json(kind.name === "LlamaTokenizer" ? as_llama(json, config, model_config) : json, file);
  const names: string[] = await readdir(dir).catch(() => []);
  if (names.includes("tokenizer.model")) return await from_sentencepiece(join(dir, "tokenizer.model"), config);
  if (names.includes("vocab.json") && names.includes("merges.txt")) return await from_two_files(dir, kind.name, config);
  const other = ["tekken.json", "tiktoken.model", "spiece.model", "vocab.txt", "vocab.json"].find((one) =>
    names.includes(one),
  );
  const todo = "use a model directory with its tokenizer files";
  if (other)
    return bad(
      dir,
      `${other} and no tokenizer.json`,
      "tokenizer.json or tokenizer.model",
      "convert it with transformers",
    );
  throw new BimedixError("file_not_found", {
    given: `${dir} has no tokenizer.json or tokenizer.model`,
    expected: "one of them",
    todo,
  });
}

function from_json(json: Json, file: string): Base {
  const whole = new Component(json, file);
  if (whole.has("version") && json.version !== "1.0") whole.refuse(`version ${JSON.stringify(json.version)}`, "1.0");
  if (typeof json.model !== "object" || json.model === null) whole.refuse("no model", "one");
  return {
    vocabulary: read_model(json.model as Json, `${file}: model`),
    added: whole.has("added_tokens") ? whole.list("added_tokens") : [],
    normalize: read_normalizer(whole.part("normalizer")),
    pre_tokenize: read_pre_tokenizer(whole.part("pre_tokenizer")),
    post_processor: read_post_processor(whole.part("post_processor")),
    decoders: read_decoder(whole.part("decoder")),
    settings: { ...padding_settings(whole.part("padding")), ...truncation_settings(whole.part("truncation")) },
    strict: false,
  };
}

/** transformers keeps the side and the token from the file, and pads and truncates only where a call asks for it. */
function padding_settings(part: Component | null): Json {
  if (!part) return {};
  return { padding_side: part.text("direction").toLowerCase(), pad_token: part.text("pad_token") };
}

function truncation_settings(part: Component | null): Json {
  return part ? { truncation_side: part.text("direction", "Right").toLowerCase() } : {};
}

async function from_sentencepiece(path: string, config: Json): Promise<Base> {
  await check_file(path, "a SentencePiece model");
  const file = read_sentencepiece(await readFile(path), path);
  const ids = new Map<string, number>();
  for (const [id, { piece }] of file.pieces.entries()) {
    if (ids.has(piece)) bad(path, `the piece ${JSON.stringify(piece)} twice`, "every piece once");
    ids.set(piece, id);
  }
  const { unk, special } = special_pieces(file);
  const text = (id: number) => file.pieces[id]!.piece;
  const prefix = config.add_prefix_space === false ? "never" : config.legacy === false ? "first" : "always";
  const defaults = { bos_token: "<s>", eos_token: "</s>", ...(unk < 0 ? {} : { unk_token: text(unk) }) };
  return {
    vocabulary: {
      type: file.model_type === 1 ? "Unigram" : "BPE",
      ids,
      unk_token: unk < 0 ? null : text(unk),
      model: () => sentencepiece_model(file),
    },
    added: special.map((id) => ({ id, content: text(id), special: true })),
    normalize: sentencepiece_normalizer(file, prefix),
    pre_tokenize: (pieces) => pieces,
    post_processor: null,
    decoders: read_decoder(new Component(sentencepiece_decoder(file, prefix) as Json, path)),
    // Llama's tokenizer begins a text with <s> unless it is told not to.
    settings: { add_bos_token: true, defaults },
    strict: true,
  };
}

async function from_two_files(dir: string, name: string, config: Json): Promise<Base> {
  const vocab = await read_json(join(dir, "vocab.json"), "bad_tokenizer");
  const lines = (await read_text(join(dir, "merges.txt"), "merges")).split(/\r?\n/).map((line) => line.trim());
  const merges = lines.filter((line) => line !== "" && !line.startsWith("#"));
  const json = from_vocabulary(name, vocab, merges, config);
  if (json) return { ...from_json(json, join(dir, "vocab.json")), post_processor: null };
  const todo = "convert it with transformers to tokenizer.json";
  return bad(dir, `vocab.json and merges.txt of ${name || "no class"}`, "a GPT2Tokenizer or Qwen2Tokenizer", todo);
}

function pieces_of(ids: ReadonlyMap<string, number>, { added }: SpecialTokens, at: string): (string | undefined)[] {
  const pieces: (string | undefined)[] = [];
  for (const [piece, id] of ids) pieces[id] = piece;
  for (const [id, { content }] of added.tokens) {
    if (pieces[id] !== undefined && pieces[id] !== content)
      bad(at, `id ${id} for ${JSON.stringify(pieces[id])} and ${JSON.stringify(content)}`, "every id once");
    pieces[id] = content;
  }
  return Array.from(pieces);
}

function from_flags(config: Json, { added, named }: SpecialTokens): PostProcessor {
  const id = (role: string, wanted: unknown) => {
    const text = wanted === true ? named[role] : undefined;
    const found = text === undefined ? undefined : added.id(text);
    return found === undefined ? [] : [found];
  };
  const processor = [...id("bos_token", config.add_bos_token), null, ...id("eos_token", config.add_eos_token)];
  return processor.length > 1 ? processor : NOTHING_ADDED;
}

/** Made for WordPiece; transformers leaves BPE alone, whose spaces it would corrupt, unless it is told to all the same. */
function cleans_up({ type }: Vocabulary, config: Json): boolean {
  const all_the_same = config.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output === true;
  return config.clean_up_tokenization_spaces === true && (type !== "BPE" || all_the_same);
}

function side(config: Json, base: Base, field: string, fallback: "left" | "right", dir: string): "left" | "right" {
  const value = config[field] ?? base.settings[field] ?? fallback;
  return value === "left" || value === "right"
    ? value
    : bad(`${dir}/tokenizer_config.json`, `${field} ${JSON.stringify(value)}`, "left or right");
}
