/** Conversations as tokens, with those marked that the model is to learn to write. */
import type { Lesson } from "../data/conversations.js";
import { DataProblem } from "../data/record.js";
import { BimedixError } from "../errors.js";
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

/** Written instead of a message to see where it stands. A noncharacter: no token of a text begins or ends with a part of it. */
const STAND_IN = "\ufdef";
/** So many tokens after a message may the token stand that ends it. */
const NEAR = 3;

/**
 * The tokens of a conversation in the model's chat format. A message is where the tokens change when another text stands in its
 * place, as Axolotl finds it: so a token in which the template's text and the message's have merged ("](" in "[/INST](B)") is
 * learnt, and a template may render a message otherwise when it is the last. What an answer begins with after the generation prompt
 * (a space), and the token that ends it, are learnt with it.
 *
 * @param messages with `learn`, or else the assistant's are learnt
 * @throws DataProblem for a message that the template leaves out; BimedixError bad_template
 */
export function encode_messages(
  messages: readonly (ChatMessage & { learn?: boolean })[],
  tokenizer: Tokenizer,
  train_on_inputs: boolean,
): Example {
  const render = (list: readonly ChatMessage[], add_generation_prompt = false) =>
    tokenizer.apply_chat_template(list, { add_generation_prompt });
  const ids = render(messages);
  const learnt = new Uint8Array(ids.length).fill(train_on_inputs ? 1 : 0);
  for (const [i, { role, learn = role === "assistant" }] of messages.entries()) {
    if (!learn || train_on_inputs) continue;
    const other = render(messages.with(i, { role, content: STAND_IN }));
    let start = common_start(ids, other);
    let end = ids.length - common_end(ids, other, start);
    if (start >= end) throw new DataProblem(`the chat template leaves message ${i} out`, "a template that writes it");
    if (role === "assistant") {
      const asked = i > 0 ? part_of(() => render(messages.slice(0, i), true)) : [];
      if (asked.length > 0 && common_start(ids, asked) === asked.length) start = Math.min(start, asked.length);
      end = Math.max(
        end,
        common_start(
          ids,
          part_of(() => render(messages.slice(0, i + 1))),
        ),
        end_token(ids, end, tokenizer),
      );
    }
    learnt.fill(1, start, end);
  }
  return { input_ids: Int32Array.from(ids), learnt };
}

/** The beginning of a conversation, which some templates refuse by itself. */
function part_of(render: () => number[]): number[] {
  try {
    return render();
  } catch (error) {
    if (error instanceof BimedixError) return [];
    throw error;
  }
}

/** Behind the control token that ends a message whose own tokens end at `end`. */
function end_token(ids: readonly number[], end: number, tokenizer: Tokenizer): number {
  const ends = (id: number) =>
    id === tokenizer.eos_token_id || (tokenizer.is_special(id) && id !== tokenizer.bos_token_id);
  return end + ids.slice(end, end + NEAR).findIndex(ends) + 1;
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

/** How many last tokens two lists share, besides `start` first ones. */
function common_end(a: readonly number[], b: readonly number[], start: number): number {
  const most = Math.min(a.length, b.length) - start;
  let i = 0;
  while (i < most && a[a.length - 1 - i] === b[b.length - 1 - i]) i++;
  return i;
}
