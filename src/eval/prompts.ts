/**
 * What a model is asked, character by character, and how it becomes tokens: lm-evaluation-harness's `fewshot_context`,
 * `construct_requests` (api/task.py) and `_encode_pair` (api/model.py).
 */
import type { ScoreRequest } from "../engine/engine.js";
import { common_length } from "../engine/tree.js";
import { BimedixError } from "../errors.js";
import type { ChatMessage } from "../text/chat.js";
import { rstrip } from "../text/python.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { PythonRandom } from "./python.js";
import type { Doc, Task } from "./tasks.js";

/** The seed of the harness's own default. */
export const FEWSHOT_SEED = 1234;

/** The question and what is scored after it. */
export interface Prompt {
  context: string;
  continuations: string[];
}

export interface PromptOptions {
  num_fewshot: number;
  /** The tokenizer whose chat template wraps the conversation; shots become turns. */
  chat?: Tokenizer;
}

/** The prompts of all documents, in order: a random choice of shots depends on how many were drawn before. */
export function build_prompts(
  task: Task,
  docs: readonly Doc[],
  shots: readonly Doc[],
  { num_fewshot, chat }: PromptOptions,
): Prompt[] {
  const random = new PythonRandom(FEWSHOT_SEED);
  return docs.map((doc) => {
    const chosen = task.sampler === "first_n" ? shots.slice(0, num_fewshot) : random.sample(shots, num_fewshot);
    const messages: ChatMessage[] = [];
    if (task.description) messages.push({ role: "system", content: task.description });
    for (const shot of chosen) {
      const target = task.doc_to_target(shot);
      const answer = typeof target === "number" ? task.doc_to_choice(shot)[target]! : target;
      messages.push({ role: "user", content: task.doc_to_text(shot) }, { role: "assistant", content: answer });
    }
    messages.push({ role: "user", content: task.doc_to_text(doc) });
    const choices = task.doc_to_choice(doc);
    if (chat) return { context: render(chat, messages), continuations: [...choices] };
    const context = messages.map(({ role, content }, i) => `${content}${delimiter(role, i + 1 === messages.length)}`);
    return { context: context.join(""), continuations: choices.map((choice) => ` ${choice}`) };
  });
}

const delimiter = (role: ChatMessage["role"], last: boolean): string =>
  role === "system" || last ? "" : role === "user" ? " " : "\n\n";

/** A template that refuses a system message gets the conversation without it, as in the harness. */
function render(tokenizer: Tokenizer, messages: ChatMessage[]): string {
  try {
    return tokenizer.apply_chat_template(messages, { tokenize: false });
  } catch (error) {
    if (messages[0]!.role !== "system" || !(error instanceof BimedixError)) throw error;
    return tokenizer.apply_chat_template(messages.slice(1), { tokenize: false });
  }
}

export interface EncodeOptions {
  tokenizer: Tokenizer;
  /** Put `<s>` first, unless the text begins with it; null: what the tokenizer's files put around a text, as the harness does. */
  add_bos: boolean | null;
  /** Tokens the model can see. Longer prompts lose their beginning. */
  max_length: number;
}

/**
 * Tokens of a context and of each continuation. Spaces at the context's end go to the continuation; a token that spans the
 * boundary belongs to neither, as the harness has it, except where nothing would be left to score.
 *
 * @returns the requests, and whether a context lost its beginning
 * @throws BimedixError context_length_exceeded for a continuation longer than `max_length`
 */
export function encode_prompt(
  { context, continuations }: Prompt,
  options: EncodeOptions,
): { requests: ScoreRequest[]; truncated: boolean } {
  const { max_length } = options;
  const body = rstrip(context);
  const spaces = context.slice(body.length);
  const start = encode(body, options);
  let truncated = false;
  const requests = continuations.map((text) => {
    const whole = encode(body + spaces + text, options);
    let [before, continuation] = [start, whole.slice(start.length)];
    if (continuation.length === 0) {
      const common = Math.min(common_length(whole, start), whole.length - 1);
      [before, continuation] = [whole.slice(0, common), whole.slice(common)];
    }
    if (continuation.length > max_length) {
      throw new BimedixError("context_length_exceeded", {
        given: `an option of ${continuation.length} tokens`,
        expected: `at most ${max_length}`,
        todo: "shorten the option or use a model with a longer context",
      });
    }
    // The last token is only predicted, so the model may see one more than its length.
    const room = max_length + 1 - continuation.length;
    truncated ||= before.length > room;
    return { context: before.length > room ? before.slice(-room) : before, continuation };
  });
  return { requests, truncated };
}

function encode(text: string, { tokenizer, add_bos }: EncodeOptions): number[] {
  const ids = tokenizer.encode(text, { add_special_tokens: false, split_special_tokens: false });
  const bos = tokenizer.bos_token_id;
  if (bos !== null && ids[0] === bos) return ids;
  if (add_bos === null) return tokenizer.encode(text, { split_special_tokens: false });
  return add_bos && bos !== null ? [bos, ...ids] : ids;
}
