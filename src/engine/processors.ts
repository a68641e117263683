/**
 * What changes the logits before a token is chosen, in the order and with the meaning of transformers' logits processors
 * (generation/logits_process.py), with OpenAI's penalties and bias in front.
 */
import type { GenerateOptions } from "./engine.js";

/** Changes the logits of the next token in place. `tokens` are the prompt's and those that were chosen. */
type Processor = (logits: Float32Array, tokens: readonly number[]) => void;

const forbid = (logits: Float32Array, ids: Iterable<number>) => {
  for (const id of ids) logits[id] = Number.NEGATIVE_INFINITY;
};

/** The processors that these options ask for, of which there may be none. @param prompt how many of the tokens are the prompt's */
export function create_processors(options: GenerateOptions, prompt: number): Processor[] {
  const { logit_bias, frequency_penalty = 0, presence_penalty = 0, sequence_bias, repetition_penalty = 1 } = options;
  const {
    no_repeat_ngram_size = 0,
    bad_words_ids,
    min_new_tokens = 0,
    suppress_tokens,
    begin_suppress_tokens,
  } = options;
  const eos = new Set([options.eos_token_id ?? []].flat());
  const all: (Processor | false)[] = [
    (frequency_penalty !== 0 || presence_penalty !== 0) && counted(frequency_penalty, presence_penalty, prompt),
    logit_bias !== undefined && biased(Object.entries(logit_bias).map(([id, bias]) => [[Number(id)], bias])),
    sequence_bias !== undefined && biased(sequence_bias),
    repetition_penalty !== 1 && repeated(repetition_penalty),
    no_repeat_ngram_size > 0 && without_repeats(no_repeat_ngram_size),
    // The end of a sequence is no bad word.
    bad_words_ids !== undefined &&
      biased(
        bad_words_ids
          .filter((ids) => ids.length > 1 || !eos.has(ids[0]!))
          .map((ids) => [ids, Number.NEGATIVE_INFINITY]),
      ),
    min_new_tokens > 0 && ((logits, tokens) => tokens.length - prompt < min_new_tokens && forbid(logits, eos)),
    suppress_tokens !== undefined && ((logits) => forbid(logits, [suppress_tokens].flat())),
    begin_suppress_tokens !== undefined &&
      ((logits, tokens) => tokens.length === prompt && forbid(logits, [begin_suppress_tokens].flat())),
  ];
  return all.filter((one) => one !== false);
}

/** Divides positive and multiplies negative logits of the tokens `seen`, in place. */
export function penalize(logits: Float32Array, seen: Iterable<number>, penalty: number): void {
  for (const token of seen) logits[token] = logits[token]! < 0 ? logits[token]! * penalty : logits[token]! / penalty;
}

function repeated(penalty: number): Processor {
  const seen = new Set<number>();
  let known = 0;
  return (logits, tokens) => {
    while (known < tokens.length) seen.add(tokens[known++]!);
    penalize(logits, seen, penalty);
  };
}

function counted(frequency: number, presence: number, prompt: number): Processor {
  const counts = new Map<number, number>();
  let known = prompt;
  return (logits, tokens) => {
    for (; known < tokens.length; known++) counts.set(tokens[known]!, (counts.get(tokens[known]!) ?? 0) + 1);
    for (const [id, count] of counts) logits[id]! -= frequency * count + presence;
  };
}

/** Of a sequence given twice the last bias holds. */
function biased(pairs: readonly (readonly [readonly number[], number])[]): Processor {
  const biases = [...new Map(pairs.map((pair) => [pair[0].join(), pair])).values()];
  return (logits, tokens) => {
    const added = new Map<number, number>();
    for (const [ids, bias] of biases) {
      const before = ids.length - 1;
      // A sequence as long as the text is one token too many for it.
      if (before > 0 && ids.length > tokens.length) continue;
      const from = tokens.length - before;
      const last = ids[before]!;
      if (ids.slice(0, -1).every((id, i) => tokens[from + i] === id)) added.set(last, (added.get(last) ?? 0) + bias);
    }
    for (const [id, bias] of added) logits[id]! += bias;
  };
}

/** What followed each run of `size - 1` tokens does not follow it again. */
function without_repeats(size: number): Processor {
  const after = new Map<string, number[]>();
  let known = 0;
  return (logits, tokens) => {
    for (; known + size <= tokens.length; known++) {
      const key = tokens.slice(known, known + size - 1).join();
      const next = tokens[known + size - 1]!;
      after.set(key, [...(after.get(key) ?? []), next]);
    }
    if (tokens.length + 1 >= size) forbid(logits, after.get(tokens.slice(tokens.length + 1 - size).join()) ?? []);
  };
}

/** Every token id that the options name, for whoever knows the vocabulary. */
export function named_tokens({ logit_bias = {}, sequence_bias = [], bad_words_ids = [] }: GenerateOptions): number[] {
  return [Object.keys(logit_bias).map(Number), sequence_bias.flatMap(([ids]) => ids), bad_words_ids].flat(2);
}
