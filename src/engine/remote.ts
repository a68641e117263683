/**
 * Scoring on an OpenAI-compatible server: `/v1/completions` with token ids, `echo` and `logprobs`, as vLLM and others answer it
 * (https://platform.openai.com/docs/api-reference/completions). Every option is a prompt of its own; that they share their
 * beginning is for the server's prefix cache to use.
 */
import type { z } from "zod";
import { BimedixError } from "../errors.js";
import { echoed_completion, refused } from "./answers.js";
import type { Engine, Score, ScoreOptions, ScoreRequest } from "./engine.js";
import { type HttpOptions, request } from "./http.js";
import { find_model } from "./remote_model.js";

export interface RemoteOptions extends HttpOptions {
  /** Prompts in one request. Default 16. */
  batch?: number;
  /** Requests at one time. Default 4. */
  concurrency?: number;
}

type Choice = z.output<typeof echoed_completion>["choices"][number];

export class RemoteEngine implements Pick<Engine, "score"> {
  private constructor(
    private readonly base: string,
    readonly model: string,
    /** Tokens of prompt and answer that the server allows, where it says so. */
    readonly max_model_len: number | null,
    private readonly options: RemoteOptions,
  ) {}

  /** The name under which the server has the model. @throws BimedixError server_refused */
  static async model_id(url: string, options: RemoteOptions = {}): Promise<string> {
    return (await find_model(url, options)).id;
  }

  /**
   * @param url of the server's `/v1`; `#NAME` after it chooses among several models
   * @param probe a text's tokens, which are scored once to see that the server does it
   * @throws BimedixError server_refused when it cannot be reached, does not know the model or does not score prompts
   */
  static async connect(url: string, probe: readonly number[], options: RemoteOptions = {}): Promise<RemoteEngine> {
    const { base, id, max_model_len } = await find_model(url, options);
    const engine = new RemoteEngine(base, id, max_model_len ?? null, options);
    await engine.score([{ context: probe.slice(0, 1), continuation: probe.slice(1) }]);
    return engine;
  }

  async score(requests: readonly ScoreRequest[], { signal, adapter }: ScoreOptions = {}): Promise<Score[]> {
    if (adapter)
      throw new BimedixError("bad_option", {
        given: `adapter ${JSON.stringify(adapter)} for a model on a server`,
        expected: "none: a server gives each of its adapters a model name",
        todo: "choose it by #NAME in --model",
      });
    const { batch = 16, concurrency = 4 } = this.options;
    const scores: Score[] = new Array(requests.length);
    let next = 0;
    const own = signal instanceof AbortSignal ? { ...this.options, signal } : this.options;
    const work = async () => {
      while (next < requests.length) {
        const from = next;
        next = end_of_batch(requests, from, batch);
        const part = await this.score_batch(requests.slice(from, next), own).catch((error: unknown) => {
          // One failure ends the call: the others send no more.
          next = requests.length;
          throw error;
        });
        for (const [i, score] of part.entries()) scores[from + i] = score;
      }
    };
    await Promise.all(Array.from({ length: concurrency }, work));
    return scores;
  }

  private async score_batch(requests: readonly ScoreRequest[], options: RemoteOptions): Promise<Score[]> {
    // One token is generated and ignored: older servers do not accept max_tokens 0.
    const body = {
      model: this.model,
      prompt: requests.map(({ context, continuation }) => [...context, ...continuation]),
      max_tokens: 1,
      temperature: 0,
      logprobs: 1,
      echo: true,
    };
    const answer = await request(this.base, "/completions", body, echoed_completion, { retry: "always", ...options });
    const choices = [...answer.choices].sort((a, b) => (a.index ?? 0) - (b.index ?? 0));
    if (choices.length !== requests.length)
      throw this.no_echo(`${choices.length} choices for ${requests.length} prompts`);
    return requests.map(({ context, continuation }, i) => this.read(choices[i]!, context.length, continuation.length));
  }

  private read({ logprobs }: Choice, before: number, count: number): Score {
    const all = logprobs?.token_logprobs;
    const given = all?.length ?? 0;
    // With the one generated token, or without it where a server leaves it out.
    if (!all || (given !== before + count + 1 && given !== before + count))
      throw this.no_echo(`log-probabilities of ${given} tokens for a prompt of ${before + count}`);
    const own = all.slice(before, before + count);
    if (!own.every((value): value is number => typeof value === "number" && Number.isFinite(value) && value <= 1e-6))
      throw this.no_echo("log-probabilities that are missing or not numbers");
    const top = logprobs.top_logprobs?.slice(before, before + count);
    const is_greedy = own.every((value, i) => value >= Math.max(...Object.values(top?.[i] ?? { none: 0 })));
    return { logprob: own.reduce((sum, value) => sum + value, 0), is_greedy };
  }

  private no_echo(what: string): BimedixError {
    return refused(this.base, `answers echo with ${what}`, {
      expected: "/v1/completions with echo and the log-probabilities of a prompt of token ids",
      todo: "use a server that scores prompts, such as vLLM",
    });
  }
}

/** Tokens of one request, beyond which it holds one prompt: an answer has a number for each, and a server a bound for both. */
const BATCH_TOKENS = 2 ** 16;

function end_of_batch(requests: readonly ScoreRequest[], from: number, most: number): number {
  let [end, tokens] = [from, 0];
  for (; end < Math.min(requests.length, from + most); end++) {
    tokens += requests[end]!.context.length + requests[end]!.continuation.length;
    if (tokens > BATCH_TOKENS && end > from) break;
  }
  return end;
}
