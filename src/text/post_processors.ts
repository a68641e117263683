/** Post-processors of tokenizer.json: what is put around the tokens of one text. */
import { type Component, make, type Table } from "./component.js";

/** Ids, and null where the text's own stand. */
export type PostProcessor = readonly (number | null)[];

export const NOTHING_ADDED: PostProcessor = [null];

/** `["[SEP]", 102]` */
function pair(part: Component, field: string): number {
  const [text, id] = part.list(field);
  return typeof text === "string" && Number.isSafeInteger(id)
    ? (id as number)
    : part.refuse(field, "a token and its id");
}

/** One text alone is ever given, so the template for two has no part here. */
function template(part: Component): PostProcessor {
  const special = part.part("special_tokens");
  return part.parts("single").flatMap((piece): (number | null)[] => {
    const sequence = piece.part("Sequence");
    if (sequence) return sequence.text("id") === "A" ? [null] : sequence.refuse("sequence B in single", "A");
    const id = (piece.part("SpecialToken") ?? piece.refuse("neither Sequence nor SpecialToken", "one")).text("id");
    const ids = (special && Object.hasOwn(special.json, id) && special.part(id)?.list("ids")) || [];
    return ids.length > 0 && ids.every(Number.isSafeInteger)
      ? (ids as number[])
      : part.refuse(`${id} is not among special_tokens`, "a token with its ids");
  });
}

const around = (part: Component): PostProcessor => [pair(part, "cls"), null, pair(part, "sep")];

const POST_PROCESSORS: Table<PostProcessor> = {
  BertProcessing: around,
  // It moves offsets alone.
  ByteLevel: () => NOTHING_ADDED,
  RobertaProcessing: around,
  // Each puts its own around what the one before it made.
  Sequence: (part) =>
    part
      .parts("processors")
      .map(read_post_processor)
      .reduce((inner, outer) => outer.flatMap((one) => (one === null ? inner : one)), NOTHING_ADDED),
  TemplateProcessing: template,
};

/** @throws BimedixError bad_tokenizer */
export function read_post_processor(part: Component | null): PostProcessor {
  return part ? make(part, "the post-processor", POST_PROCESSORS) : NOTHING_ADDED;
}

export const post_process = (ids: readonly number[], processor: PostProcessor): number[] =>
  processor.flatMap((one) => (one === null ? ids : one));
