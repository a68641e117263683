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

const KEY = "bimedix";
/** `crypto.randomUUID` is not there for a page that comes by http from another machine. */
export const new_id = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

function initial(): State {
  const language: Language = navigator.language.startsWith("ar") ? "ar" : "en";
  const first = { id: new_id(), messages: [] };
  const state: State = {
    conversations: [first],
    current: first.id,
    settings: { language, theme: "auto", digits: "written", model: "", temperature: 0.4, max_tokens: 256, system: "" },
    writing: new Map(),
    storage_full: false,
  };
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<State>;
    if (kept.conversations?.length && kept.settings) {
      const current = kept.conversations.some(({ id }) => id === kept.current)
        ? kept.current!
        : kept.conversations[0]!.id;
      return { ...state, ...kept, current, settings: { ...state.settings, ...kept.settings }, storage_full: false };
    }
  } catch {
    // What another version or a person wrote there is left alone until the next change.
  }
  return state;
}

let state = initial();
const listeners = new Set<() => void>();

export const get_state = (): State => state;

export function change(update: (state: State) => Partial<State>): void {
  state = { ...state, ...update(state) };
  // An answer ends with its message, whatever deleted it.
  for (const [id, controller] of state.writing)
    if (!state.conversations.some(({ messages }) => messages.some((one) => one.id === id))) controller.abort();
  try {
    const { conversations, current, settings } = state;
    localStorage.setItem(KEY, JSON.stringify({ conversations, current, settings }));
    state.storage_full = false;
  } catch {
    state.storage_full = true;
  }
  for (const listener of listeners) listener();
}

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
  const id = new_id();
  change(({ conversations }) => ({
    conversations: [{ id, messages: [] }, ...conversations.filter(({ messages }) => messages.length > 0)],
    current: id,
  }));
}

export function delete_conversation(id: string): void {
  change(({ conversations, current }) => {
    const left = conversations.filter((one) => one.id !== id);
    if (left.length === 0) left.push({ id: new_id(), messages: [] });
    return { conversations: left, current: current === id ? left[0]!.id : current };
  });
}

export function clear(): void {
  const id = new_id();
  change(() => ({ conversations: [{ id, messages: [] }], current: id }));
}
