/** What the page knows, kept in this browser alone: conversations and settings. */
import { useEffect, useState } from "preact/hooks";
import type { Digits, Language } from "./texts.js";

export interface Message {
  /** An answer's, by which it is found while it is being written. */
  id?: string;
  role: "user" | "assistant";
  content: string;
  /** Why an answer has no end. */
  problem?: string;
}

export interface Conversation {
  id: string;
  messages: Message[];
}

export interface Settings {
  language: Language;
  theme: "auto" | "light" | "dark";
  digits: Digits;
  model: string;
  temperature: number;
  max_tokens: number;
  system: string;
}

export interface State {
  conversations: Conversation[];
  current: string;
  settings: Settings;
  /** What ends the answers that are being written, by their ids, whichever conversation is shown. */
  writing: ReadonlyMap<string, AbortController>;
  /** The browser took no more. */
  storage_full: boolean;
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

function read<T extends object>(key: string): T | null {
  try {
    const value = JSON.parse(localStorage.getItem(key) ?? "null") as T | null;
    if (value) kept.set(key, value);
    return value;
  } catch {
    // What another version or a person wrote there is left alone.
    return null;
  }
}

/** Writes what changed, and takes away what is no more. */
function keep({ conversations, current, settings }: State): void {
  const now = new Map<string, object>([[SETTINGS, settings]]);
  for (const one of conversations) if (one.messages.length > 0) now.set(PREFIX + one.id, one);
  for (const key of kept.keys()) {
    if (now.has(key)) continue;
    localStorage.removeItem(key);
    kept.delete(key);
  }
  for (const [key, value] of now) {
    if (kept.get(key) === value) continue;
    localStorage.setItem(key, JSON.stringify(value));
    kept.set(key, value);
  }
  sessionStorage.setItem(CURRENT, current);
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
  const language: Language = navigator.language.startsWith("ar") ? "ar" : "en";
  const state: State = {
    conversations: [],
    current: "",
    settings: { language, theme: "auto", digits: "written", model: "", temperature: 0.4, max_tokens: 256, system: "" },
    writing: new Map(),
    storage_full: false,
  };
  const old = read<Partial<State>>(OLD);
  // Removed when all of it stands under keys of its own.
  kept.delete(OLD);
  state.settings = { ...state.settings, ...old?.settings, ...read<Settings>(SETTINGS) };
  try {
    state.current = sessionStorage.getItem(CURRENT) ?? "";
    for (const key of Object.keys(localStorage)) {
      const one = key.startsWith(PREFIX) ? read<Conversation>(key) : null;
      if (one) state.conversations.push(one);
    }
  } catch {
    // A browser that keeps nothing says so at the first change.
  }
  const known = new Set(state.conversations.map(({ id }) => id));
  for (const [i, one] of (old?.conversations ?? []).toReversed().entries()) {
    // Newest first they were, and older than all ids of today.
    const id = `0-${String(i).padStart(6, "0")}`;
    if (!known.has(id)) state.conversations.push({ ...one, id });
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
    state.storage_full = false;
  } catch {
    state.storage_full = true;
  }
  for (const listener of listeners) listener();
}

/** What another tab changed. What it deleted stays so, even where this tab wrote an answer's next word meanwhile. */
addEventListener("storage", ({ key, newValue }) => {
  if (key === SETTINGS) {
    const settings = read<Settings>(key);
    if (settings) change(() => ({ settings }));
  } else if (key?.startsWith(PREFIX)) {
    const one = newValue === null ? null : read<Conversation>(key);
    const others = state.conversations.filter(({ id }) => PREFIX + id !== key);
    change(() => ({ conversations: one ? [...others, one] : others }));
  }
});

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

/** Puts an answer that is to be written after what was said. */
export function begin_answer(conversation: string, said: Message[], id: string, controller: AbortController): void {
  const messages: Message[] = [...said, { id, role: "assistant", content: "" }];
  change(({ conversations, writing }) => ({
    conversations: conversations.map((one) => (one.id === conversation ? { ...one, messages } : one)),
    writing: new Map(writing).set(id, controller),
  }));
}

export function set_answer(conversation: string, id: string, answer: Partial<Message>): void {
  const update = (message: Message) => (message.id === id ? { ...message, ...answer } : message);
  change(({ conversations }) => ({
    conversations: conversations.map((one) =>
      one.id === conversation ? { ...one, messages: one.messages.map(update) } : one,
    ),
  }));
}

export const end_answer = (id: string): void =>
  change(({ writing }) => ({ writing: new Map([...writing].filter(([one]) => one !== id)) }));

export function new_conversation(): void {
  const one = empty();
  change(({ conversations }) => ({
    conversations: [one, ...conversations.filter(({ messages }) => messages.length > 0)],
    current: one.id,
  }));
}

export const delete_conversation = (id: string): void =>
  change(({ conversations }) => ({ conversations: conversations.filter((one) => one.id !== id) }));

export const clear = (): void => change(() => ({ conversations: [] }));
