/** What the page knows, kept in this browser alone: conversations and settings. */
import { useEffect, useState } from "preact/hooks";
import { type Conversation, conversation_in, type Message, type Settings, settings_in } from "./kept.js";
import type { Problem } from "./problems.js";

export type { Conversation, Message, Settings } from "./kept.js";

export interface State {
  conversations: Conversation[];
  current: string;
  settings: Settings;
  /** What ends the answers that are being written, by their ids, whichever conversation is shown. */
  writing: ReadonlyMap<string, AbortController>;
  /** What the last deletion or change took away, as it was. */
  undo: { kind: "deleted" | "replaced"; conversations: readonly Conversation[] } | null;
  models: readonly string[];
  /** Why the models are not known. */
  models_problem: Problem | null;
  /** Why nothing new is kept: the browser took no more, or keeps nothing. */
  storage_problem: "storage_full" | "storage_off" | null;
}

/** A key a conversation, so that a tab writes over no other's. */
const PREFIX = "bimedix.conversation.";
const SETTINGS = "bimedix.settings";
const CURRENT = "bimedix.current";
/** Under which all was kept before. */
const OLD = "bimedix";

/** Ids sort by time. `crypto.randomUUID` is not there for a page that comes by http from another machine. */
export const new_id = () => `${Date.now().toString(36)}-${crypto.getRandomValues(new Uint32Array(4)).join("-")}`;
const empty = (): Conversation => ({ id: new_id(), messages: [] });

/** What the browser keeps under each key, as this tab last read or wrote it. */
const kept = new Map<string, object>();

/** @param check makes of what stands there something that this page can show, or null */
function read<T extends object>(key: string, check: (value: unknown) => T | null): T | null {
  try {
    const value = check(JSON.parse(localStorage.getItem(key) ?? "null"));
    if (value) kept.set(key, value);
    return value;
  } catch {
    // What another version or a person wrote there is left alone.
    return null;
  }
}

const settings_or_null = (value: unknown) => (value ? settings_in(value) : null);
const read_conversation = (key: string) => read(key, (value) => conversation_in(value, key.slice(PREFIX.length)));

/** Writes what changed, and takes away what is no more; what finds no room does not keep the rest out. */
function keep({ conversations, current, settings }: State): void {
  const now = new Map<string, object>([[SETTINGS, settings]]);
  for (const one of conversations) if (one.messages.length > 0) now.set(PREFIX + one.id, one);
  for (const key of kept.keys()) {
    if (now.has(key)) continue;
    localStorage.removeItem(key);
    kept.delete(key);
  }
  let failed: unknown = null;
  for (const [key, value] of now) {
    if (kept.get(key) === value) continue;
    try {
      localStorage.setItem(key, JSON.stringify(value));
      kept.set(key, value);
    } catch (error) {
      failed = error;
    }
  }
  sessionStorage.setItem(CURRENT, current);
  if (failed) throw failed;
  localStorage.removeItem(OLD);
}

/** Newest first, one at least, and one of them shown. */
function in_order(state: State): State {
  const conversations = state.conversations.toSorted((a, b) => (a.id === b.id ? 0 : a.id < b.id ? 1 : -1));
  if (conversations.length === 0) conversations.push(empty());
  const current = conversations.some(({ id }) => id === state.current) ? state.current : conversations[0]!.id;
  return { ...state, conversations, current };
}

function initial(): State {
  const old = read(OLD, (value) => (typeof value === "object" ? (value as Partial<State> | null) : null));
  // Removed when all of it stands under keys of its own.
  kept.delete(OLD);
  const state: State = {
    conversations: [],
    current: "",
    settings: read(SETTINGS, settings_or_null) ?? settings_in(old?.settings),
    writing: new Map(),
    undo: null,
    models: [],
    models_problem: null,
    storage_problem: null,
  };
  try {
    state.current = sessionStorage.getItem(CURRENT) ?? "";
    for (const key of Object.keys(localStorage)) {
      const one = key.startsWith(PREFIX) ? read_conversation(key) : null;
      if (one) state.conversations.push(one);
    }
  } catch {
    // A browser that keeps nothing says so at the first change.
  }
  const known = new Set(state.conversations.map(({ id }) => id));
  const before = Array.isArray(old?.conversations) ? old.conversations : [];
  for (const [i, value] of before.toReversed().entries()) {
    // Newest first they were, and older than all ids of today.
    const one = conversation_in(value, `0-${String(i).padStart(6, "0")}`);
    if (one && !known.has(one.id)) state.conversations.push(one);
  }
  return in_order(state);
}

let state = initial();
const listeners = new Set<() => void>();

export const get_state = (): State => state;

export function change(update: (state: State) => Partial<State>): void {
  state = in_order({ ...state, ...update(state) });
  // An answer ends with its message, whatever deleted it.
  for (const [id, controller] of state.writing)
    if (!state.conversations.some(({ messages }) => messages.some((one) => one.id === id))) controller.abort();
  try {
    keep(state);
    state.storage_problem = null;
  } catch (error) {
    state.storage_problem = /quota/i.test((error as Error).name) ? "storage_full" : "storage_off";
  }
  for (const listener of listeners) listener();
}

/** What another tab changed. What it deleted stays so, even where this tab wrote an answer's next word meanwhile. */
addEventListener("storage", ({ key, newValue }) => {
  if (key === SETTINGS) {
    const settings = read(key, settings_or_null);
    if (settings) change(() => ({ settings }));
  } else if (key?.startsWith(PREFIX)) {
    const now = newValue === null ? null : read_conversation(key);
    const of_key = ({ id }: Conversation) => PREFIX + id === key;
    change(({ conversations, undo }) => {
      const gone = now ? undefined : conversations.find(of_key);
      const others = conversations.filter((one) => !of_key(one));
      const deleted = undo?.kind === "deleted" ? undo.conversations.filter((one) => !of_key(one)) : [];
      return {
        conversations: now ? [...others, now] : others,
        // It can be undone wherever a tab still knows it.
        ...(gone && gone.messages.length > 0 ? { undo: undo_of("deleted", [...deleted, gone]) } : {}),
        ...(now && undo?.kind === "deleted" ? { undo: undo_of("deleted", deleted) } : {}),
      };
    });
  }
});

const undo_of = (kind: "deleted" | "replaced", conversations: readonly Conversation[]): State["undo"] =>
  conversations.length > 0 ? { kind, conversations } : null;

export function use_state(): State {
  const [, draw] = useState(0);
  useEffect(() => {
    const listener = () => draw((n) => n + 1);
    listeners.add(listener);
    return () => void listeners.delete(listener);
  }, []);
  return state;
}

export const set = (settings: Partial<Settings>): void =>
  change((old) => ({ settings: { ...old.settings, ...settings } }));

/** Puts an answer that is to be written after what was said. What it replaces can be had back until more is said. */
export function begin_answer(conversation: string, said: Message[], id: string, controller: AbortController): void {
  // Until it has its end, whatever happens to this page.
  const answer: Message = { id, role: "assistant", content: "", problem: { kind: "unfinished" } };
  change(({ conversations, writing, undo }) => {
    const before = conversations.find((one) => one.id === conversation)!;
    const lost = before.messages.some((one) => one.content !== "" && !said.includes(one));
    const stale = undo?.conversations.some((one) => one.id === conversation);
    return {
      conversations: conversations.map((one) =>
        one === before ? { id: conversation, messages: [...said, answer] } : one,
      ),
      writing: new Map(writing).set(id, controller),
      undo: lost ? undo_of("replaced", [before]) : stale ? null : undo,
    };
  });
}

const with_answer = (conversation: string, id: string, update: (message: Message) => Message) => (old: State) => ({
  conversations: old.conversations.map((one) =>
    one.id === conversation
      ? { ...one, messages: one.messages.map((message) => (message.id === id ? update(message) : message)) }
      : one,
  ),
});

export const set_answer = (conversation: string, id: string, answer: Partial<Message>): void =>
  change(with_answer(conversation, id, (message) => ({ ...message, ...answer })));

/** @param problem why the answer has no end; null where it has one */
export const end_answer = (conversation: string, id: string, problem: Problem | null): void =>
  change((old) => ({
    ...with_answer(conversation, id, ({ problem: _, ...message }) => (problem ? { ...message, problem } : message))(
      old,
    ),
    writing: new Map([...old.writing].filter(([one]) => one !== id)),
  }));

export function new_conversation(): void {
  const one = empty();
  change(({ conversations }) => ({
    conversations: [one, ...conversations.filter(({ messages }) => messages.length > 0)],
    current: one.id,
  }));
}

const without = (gone: (one: Conversation) => boolean): void =>
  change(({ conversations, undo }) => ({
    conversations: conversations.filter((one) => !gone(one)),
    undo:
      undo_of(
        "deleted",
        conversations.filter((one) => gone(one) && one.messages.length > 0),
      ) ?? undo,
  }));

export const delete_conversation = (id: string): void => without((one) => one.id === id);

export const clear = (): void => without(() => true);

export const undo = (): void =>
  change(({ conversations, current, undo }) => {
    const back = undo?.conversations ?? [];
    const others = conversations.filter(({ id }) => !back.some((one) => one.id === id));
    return { conversations: [...others, ...back], current: back[0]?.id ?? current, undo: null };
  });

export const forget_undo = (): void => change(() => ({ undo: null }));
