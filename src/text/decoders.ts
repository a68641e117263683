/**
 * Decoders of tokenizer.json: one record each, by the library's name, as steps that tokens pass through one by one. So a text
 * that streams is the text of all its tokens, and nothing is shown before it is certain.
 */
import { byte_level_bytes } from "./byte_level.js";
import { type Component, make, type Table } from "./component.js";
import { read_pattern } from "./normalizers.js";
import { prepend_scheme } from "./pre_tokenizers.js";

type Emit = (token: string) => void;

/** The state of one text. */
interface Step {
  push(token: string, emit: Emit): void;
  end?(emit: Emit): void;
}

interface Decoder {
  start(): Step;
  /** A token by itself, inside of a text; bytes where it may be a part of a character. */
  alone(token: string): string | Uint8Array;
  /** Whether what it emits is one token in parts. */
  fuses?: true;
  /** Whether it changes the ends of a token alone. */
  edges?: true;
  /** The same for a token that comes in parts; without it the parts are joined first. */
  in_parts?(): Step;
}

const by_token = (change: (token: string) => string): Decoder => ({
  start: () => ({ push: (token, emit) => emit(change(token)) }),
  alone: change,
});

/** `change` knows whether a token is the first. */
const by_place = (change: (token: string, first: boolean) => string): Decoder => ({
  start: () => {
    let first = true;
    return {
      push(token, emit) {
        emit(change(token, first));
        first = false;
      },
    };
  },
  alone: (token) => change(token, false),
});

function byte_fallback(): Step {
  let bytes: number[] = [];
  const end = (emit: Emit): void => {
    if (bytes.length === 0) return;
    try {
      emit(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes)));
    } catch {
      // A run that is not UTF-8 as a whole is lost as a whole.
      emit("\ufffd".repeat(bytes.length));
    }
    bytes = [];
  };
  return {
    push(token, emit) {
      const byte = fallback_byte(token);
      if (byte !== null) bytes.push(byte);
      else {
        end(emit);
        emit(token);
      }
    },
    end,
  };
}

const fallback_byte = (token: string): number | null =>
  /^<0x[0-9a-fA-F]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : null;

function byte_level(): Step {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    push: (token, emit) => emit(utf8.decode(byte_level_bytes(token), { stream: true })),
    end: (emit) => emit(utf8.decode()),
  };
}

/** @returns what is left of a token without `start` and `stop` times `content` at its ends, as its parts come */
function strip(content: string, start: number, stop: number): Step {
  let [left, held] = [start, 0];
  return {
    push(token, emit) {
      let from = 0;
      for (; left > 0 && from < token.length; left--) {
        if (!token.startsWith(content, from)) left = 1;
        else from += content.length;
      }
      const all = content.repeat(held) + token.slice(from);
      let to = all.length;
      for (held = 0; held < stop && all.endsWith(content, to) && to > 0; held++) to -= content.length;
      emit(all.slice(0, to));
    },
  };
}

/** The library's `cleanup`. */
const CLEANUP: readonly (readonly [string, string])[] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" do not", " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

export const cleanup = (text: string, rules = CLEANUP): string =>
  rules.reduce((done, [from, to]) => done.replaceAll(from, to), text);

function ctc(part: Component): Decoder {
  const [pad, delimiter, clean] = [part.text("pad_token"), part.text("word_delimiter_token"), part.flag("cleanup")];
  const change = (token: string): string => {
    const text = token.replaceAll(pad, "");
    return clean ? cleanup(text).replaceAll(delimiter, " ") : text;
  };
  return {
    start: () => {
      let last: string | null = null;
      return {
        push(token, emit) {
          if (token !== last) emit(change(token));
          last = token;
        },
      };
    },
    alone: change,
  };
}

function bpe(part: Component): Decoder {
  const suffix = part.text("suffix");
  const start = (): Step => {
    let held: string | null = null;
    return {
      push(token, emit) {
        if (held !== null) emit(held.replaceAll(suffix, " "));
        held = token;
      },
      end: (emit) => emit((held ?? "").replaceAll(suffix, "")),
    };
  };
  return { start, alone: (token) => token.replaceAll(suffix, " ") };
}

const same = by_token((token) => token);
const FUSE: Decoder = { ...same, fuses: true, in_parts: same.start };

/** What transformers does to the whole text of a model that is not BPE: all of these but one. */
export const clean_up_tokenization: readonly Decoder[] = [
  FUSE,
  {
    ...by_token((text) =>
      cleanup(
        text,
        CLEANUP.filter(([from]) => from !== " do not"),
      ),
    ),
    alone: same.alone,
  },
];

const DECODERS: Table<Decoder[]> = {
  BPEDecoder: (part) => [bpe(part)],
  ByteFallback: () => [{ start: byte_fallback, alone: (token) => bytes_or_text(token) }],
  ByteLevel: () => [{ start: byte_level, alone: byte_level_bytes, fuses: true }],
  CTC: (part) => [ctc(part)],
  Fuse: () => [FUSE],
  Metaspace: (part) => {
    const [space, prefix] = [part.character("replacement"), prepend_scheme(part) !== "never"];
    return [by_place((token, first) => token.replaceAll(space, first && prefix ? "" : " "))];
  },
  Replace: (part) => {
    const [pattern, content] = [read_pattern(part), part.text("content")];
    const replace = by_token((token) => pattern.replace(token, content).text);
    const text = part.part("pattern")!.json.String;
    const one_character = typeof text === "string" && [...text].length === 1;
    return [one_character ? { ...replace, in_parts: replace.start } : replace];
  },
  Sequence: (part) => part.parts("decoders").flatMap(read_decoder),
  Strip: (part) => {
    const given = [part.character("content"), part.count("start"), part.count("stop")] as const;
    const whole = (token: string): string => {
      let out = "";
      strip(...given).push(token, (text) => (out = text));
      return out;
    };
    return [{ ...by_token(whole), edges: true, in_parts: () => strip(...given) }];
  },
  WordPiece: (part) => {
    const [prefix, clean] = [part.text("prefix"), part.flag("cleanup")];
    return [
      by_place((token, first) => {
        const text = first ? token : token.startsWith(prefix) ? token.slice(prefix.length) : ` ${token}`;
        return clean ? cleanup(text) : text;
      }),
    ];
  },
};

function bytes_or_text(token: string): string | Uint8Array {
  const byte = fallback_byte(token);
  return byte === null ? token : Uint8Array.of(byte);
}

/** Without a decoder the library puts spaces between tokens. */
const JOIN: Decoder = by_place((token, first) => (first ? token : ` ${token}`));

/** @throws BimedixError bad_tokenizer */
export function read_decoder(part: Component | null): Decoder[] {
  return part ? make(part, "the decoder", DECODERS) : [JOIN];
}

export type { Decoder };

/** A step for whole tokens, behind one that emits a single token in parts. */
function of_whole(step: Step): Step {
  let text = "";
  return {
    push: (token) => {
      text += token;
    },
    end(emit) {
      step.push(text, emit);
      step.end?.(emit);
    },
  };
}

/** The steps of a text. */
export class Decoding {
  private readonly steps: Step[];

  constructor(decoders: readonly Decoder[]) {
    const fused = decoders.findIndex(({ fuses }) => fuses);
    this.steps = decoders.map((one, i) => {
      if (fused < 0 || i <= fused) return one.start();
      return one.in_parts ? one.in_parts() : of_whole(one.start());
    });
  }

  /** The text that a token completes. */
  push(token: string): string {
    return this.run(token, 0);
  }

  /** What is left. */
  end(): string {
    return this.steps.map((step, i) => this.collect(i, (emit) => step.end?.(emit))).join("");
  }

  private run(token: string, at: number): string {
    const step = this.steps[at];
    return step ? this.collect(at, (emit) => step.push(token, emit)) : token;
  }

  private collect(at: number, work: (emit: Emit) => void): string {
    let out = "";
    work((token) => {
      out += this.run(token, at + 1);
    });
    return out;
  }
}

/** The bytes of a token inside of a text. */
export function bytes_alone(decoders: readonly Decoder[], token: string): Uint8Array {
  let text = token;
  let whole = false;
  for (const { alone, fuses, edges } of decoders) {
    // What changes the ends of the whole text leaves a token inside of it as it is.
    if (whole && edges) continue;
    whole ||= fuses === true;
    const changed = alone(text);
    if (typeof changed !== "string") return changed;
    text = changed;
  }
  return new TextEncoder().encode(text);
}
