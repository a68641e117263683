/** Conversations as tokens, with those marked that the model is to learn to write. */
import type { Lesson } from "../data/conversations.js";
import { DataProblem } from "../data/record.js";
import type { ChatMessage } from "../text/chat.js";
import type { Tokenizer } from "../text/tokenizer.js";

/** One conversation: its tokens, and for each whether the model is to learn to write it. */
export interface Example {
  input_ids: Int32Array;
  learnt: Uint8Array;
}

/** @throws DataProblem, BimedixError bad_template */
export function encode_lesson(lesson: Lesson, tokenizer: Tokenizer, train_on_inputs: boolean): Example {
  return Array.isArray(lesson)
    ? encode_messages(lesson, tokenizer, train_on_inputs)
    : encode_completion(lesson, tokenizer, train_on_inputs);
}

/**
 * The tokens of a conversation in the model's chat format, rendered once. A token in which the template's text and an answer's have
 * merged ("](" in "[/INST](B)") is learnt, as transformers' `return_assistant_tokens_mask` has it.
 *
 * @param messages with `learn`, or else the assistant's are learnt
 * @throws DataProblem for a message that the template leaves out; BimedixError bad_template
 */
export function encode_messages(
  messages: readonly (ChatMessage & { learn?: boolean })[],
  tokenizer: Tokenizer,
  train_on_inputs: boolean,
): Example {
  const wanted = messages.map(({ role, learn = role === "assistant" }) => learn);
  const plain = messages.map(({ learn: _, ...message }) => message as ChatMessage);
  const { input_ids, answer_of } = tokenizer.encode_conversation(plain, { answers: wanted });
  const left_out = train_on_inputs ? -1 : wanted.findIndex((learn, i) => learn && !answer_of.includes(i));
  if (left_out >= 0)
    throw new DataProblem(`message ${left_out}, which the chat template leaves out`, "a template that writes it");
  return {
    input_ids: Int32Array.from(input_ids),
    learnt: Uint8Array.from(answer_of, (message) => Number(train_on_inputs || wanted[message] === true)),
  };
}

/** A text and what follows it, with `<s>` as the tokenizer has it and `</s>` at the end, as TRL encodes them: no template. */
function encode_completion(
  { prompt, completion }: { prompt: string; completion: string },
  tokenizer: Tokenizer,
  train_on_inputs: boolean,
): Example {
  const { eos_token_id } = tokenizer;
  const eos = eos_token_id === null ? "" : tokenizer.convert_ids_to_tokens(eos_token_id);
  const text = eos && completion.endsWith(eos) ? completion.slice(0, -eos.length) : completion;
  const ids = tokenizer.encode(prompt + text);
  const asked = tokenizer.encode(prompt);
  if (eos_token_id !== null && ids.at(-1) !== eos_token_id) ids.push(eos_token_id);
  const learnt = new Uint8Array(ids.length).fill(1);
  if (!train_on_inputs) learnt.fill(0, 0, common_start(ids, asked));
  return { input_ids: Int32Array.from(ids), learnt };
}

function common_start(a: readonly number[], b: readonly number[]): number {
  let i = 0;
  while (i < a.length && i < b.length && a[i] === b[i]) i++;
  return i;
}
