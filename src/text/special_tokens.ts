/** The tokens that a tokenizer's files add to its vocabulary, and those that they name: as transformers 5.17 puts them together. */
import type { AddedToken } from "./added_tokens.js";
import { Component, type Json } from "./component.js";
import { is_id } from "./models.js";

export const ROLES = [
  "bos_token",
  "eos_token",
  "unk_token",
  "sep_token",
  "pad_token",
  "cls_token",
  "mask_token",
] as const;

type Token = Omit<AddedToken, "id">;

/** `{ content, lstrip, … }`, or the text alone: then a special token. */
function read_token(value: unknown, at: string, special: boolean): Token {
  if (typeof value === "string") value = { content: value, special: true };
  if (typeof value !== "object" || value === null) new Component({}, at).refuse(JSON.stringify(value), "a token");
  const part = new Component(value as Json, at);
  const is_special = part.flag("special", special);
  return {
    content: part.text("content"),
    single_word: part.flag("single_word", false),
    lstrip: part.flag("lstrip", false),
    rstrip: part.flag("rstrip", false),
    normalized: part.flag("normalized", !is_special),
    special: is_special,
  };
}

/** Added tokens by id. A token that the vocabulary has keeps its id; another gets the next, as in the `tokenizers` library. */
export class AddedVocabulary {
  readonly tokens = new Map<number, AddedToken>();
  /** Texts that were special once: they stay so. */
  readonly special = new Set<string>();
  private readonly ids = new Map<string, number>();

  private next: number;

  constructor(private readonly vocabulary: ReadonlyMap<string, number>) {
    this.next = vocabulary.size;
  }

  id(content: string): number | undefined {
    return this.ids.get(content) ?? this.vocabulary.get(content);
  }

  lists(content: string): boolean {
    return this.ids.has(content);
  }

  add(token: Token): number {
    if (token.content === "") return -1;
    const id = this.id(token.content) ?? this.next;
    this.next = Math.max(this.next, id + 1);
    this.ids.set(token.content, id);
    this.tokens.set(id, { ...token, id });
    if (token.special) this.special.add(token.content);
    return id;
  }
}

export interface SpecialTokens {
  added: AddedVocabulary;
  /** By role; a role of the model's own (`image_token`) too. */
  named: Record<string, string>;
  extra: string[];
}

interface Sources {
  vocabulary: ReadonlyMap<string, number>;
  /** `added_tokens` of tokenizer.json. */
  listed: readonly unknown[];
  config: Json;
  special_tokens_map: Json;
  added_tokens: Json;
  defaults: Readonly<Record<string, string>>;
  /**
   * Refuse a token whose stated id is not the next. Beside tokenizer.json the `tokenizers` library gives it the next all the
   * same; beside tokenizer.model one release of transformers does and another does not.
   */
  strict: boolean;
  dir: string;
}

/** @throws BimedixError bad_tokenizer */
export function special_tokens(sources: Sources): SpecialTokens {
  const { vocabulary, listed, config, defaults, dir } = sources;
  const added = new AddedVocabulary(vocabulary);
  for (const token of listed) added.add(read_listed(token, dir));
  // Beside added_tokens_decoder the older file of names counts for nothing.
  const decoder = (config.added_tokens_decoder ?? null) as Json | null;
  const settings: Json = { ...defaults, ...config, ...(decoder ? {} : sources.special_tokens_map) };
  const where = `${dir}/tokenizer_config.json`;
  const named: Record<string, Token> = {};
  const extra_tokens: Token[] = [];
  const name = (role: string, value: unknown) => {
    if (value !== null && value !== undefined) named[role] = read_token(value, `${where}: ${role}`, true);
  };
  for (const role of ROLES) name(role, settings[role]);
  for (const [role, value] of Object.entries(config))
    if (role.endsWith("_token") && typeof value === "string") name(role, value);
  const extra = settings.extra_special_tokens ?? settings.additional_special_tokens ?? [];
  if (Array.isArray(extra))
    extra_tokens.push(...extra.map((one) => read_token(one, `${where}: extra_special_tokens`, true)));
  else for (const [role, value] of Object.entries(extra as Json)) name(role, value);

  const contents = new Set([...Object.values(named), ...extra_tokens].map(({ content }) => content));
  const wanted = [
    ...older(sources, contents, decoder === null),
    ...Object.entries(decoder ?? {}).map(([id, one]): [unknown, Token] => [
      Number(id),
      read_token(one, `${where}: added_tokens_decoder`, false),
    ]),
  ];
  const roles = new Set(Object.values(named).map(({ content }) => content));
  for (const [id, token] of in_order(wanted, dir)) {
    const given = added.add(roles.has(token.content) ? { ...token, special: true } : token);
    if (sources.strict && given !== id)
      new Component({}, dir).refuse(`no token has id ${given}, and ${token.content} has ${id}`, "ids without a gap");
  }
  for (const [role, token] of Object.entries(named)) {
    // A class's own default is no token of a vocabulary that lacks it.
    if (token.content === defaults[role] && added.id(token.content) === undefined) delete named[role];
    else if (!added.lists(token.content)) added.add({ ...token, special: true });
  }
  for (const token of extra_tokens) if (!added.lists(token.content)) added.add(token);
  return {
    added,
    named: Object.fromEntries(Object.entries(named).map(([role, { content }]) => [role, content])),
    extra: extra_tokens.map(({ content }) => content),
  };
}

const read_listed = (token: unknown, dir: string): Token =>
  read_token(token, `${dir}/tokenizer.json: added_tokens`, false);

/** An id says no more than what comes first. */
function in_order(tokens: readonly (readonly [id: unknown, Token])[], dir: string): [number, Token][] {
  const ids = new Map<number, Token>();
  for (const [id, token] of tokens) {
    if (is_id(id)) ids.set(id, token);
    else
      new Component({}, dir).refuse(
        `id ${JSON.stringify(id)} of ${JSON.stringify(token.content)}`,
        "a small integer from 0",
      );
  }
  return [...ids].sort(([a], [b]) => a - b);
}

/** added_tokens.json has ids by text, and a token is special if it has a role; tokenizer.json says more. */
function older(
  { added_tokens, listed, dir }: Sources,
  special: ReadonlySet<string>,
  alone: boolean,
): [unknown, Token][] {
  const own = Object.entries(added_tokens).map(([content, id]): [unknown, Token] => {
    return [id, read_token({ content, special: special.has(content) }, `${dir}/added_tokens.json`, false)];
  });
  return alone ? [...own, ...listed.map((one): [unknown, Token] => [(one as Json).id, read_listed(one, dir)])] : own;
}
