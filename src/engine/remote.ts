/**
 * Scoring on an OpenAI-compatible server: `/v1/completions` with token ids, `echo` and `logprobs`, as vLLM and others answer it
 * (https://platform.openai.com/docs/api-reference/completions). Every option is a prompt of its own; that they share their
 * beginning is for the server's prefix cache to use.
 */
import { aborted, BimedixError } from "../errors.js";
import type { Engine, Score, ScoreOptions, ScoreRequest } from "./engine.js";

export interface RemoteOptions {
  /** Sent as a bearer token; default: OPENAI_API_KEY. Never to another address than the server's own. */
  api_key?: string;
  /** Prompts in one request. Default 16. */
  batch?: number;
  /** Requests at one time. Default 4. */
  concurrency?: number;
  signal?: AbortSignal;
}

interface Choice {
  index?: number;
  logprobs?: {
    token_logprobs?: (number | null)[];
    top_logprobs?: (Record<string, number> | null)[] | null;
  } | null;
}

/** Tries of one request before its failure is reported; the waits between them double, from half a second. */
const TRIES = 4;

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
        next += batch;
        const part = await this.score_batch(requests.slice(from, from + batch), own).catch((error: unknown) => {
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
    const answer = (await request(`${this.base}/completions`, body, options)) as { choices?: Choice[] };
    const choices = [...(answer.choices ?? [])].sort((a, b) => (a.index ?? 0) - (b.index ?? 0));
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

async function find_model(
  url: string,
  options: RemoteOptions,
): Promise<{ base: string; id: string; max_model_len?: number }> {
  const { base, name } = split_url(url);
  const { data } = (await request(`${base}/models`, null, options)) as {
    data?: { id: string; max_model_len?: number }[];
  };
  const models = Array.isArray(data) ? data : [];
  const found = name ? models.find(({ id }) => id === name) : models.length === 1 ? models[0] : undefined;
  if (found) return { base, ...found };
  const ids = models.map(({ id }) => id).join(", ");
  throw refused(base, name ? `does not serve ${name}` : `serves ${models.length} models`, {
    expected: ids ? `one of: ${ids}` : "a server with a model",
    todo: name || !ids ? "check the name and the server" : "append #NAME to the URL",
  });
}

function split_url(url: string): { base: string; name: string } {
  try {
    const parsed = new URL(url);
    const name = decodeURIComponent(parsed.hash.slice(1));
    parsed.hash = "";
    return { base: parsed.href.replace(/\/+$/, ""), name };
  } catch {
    throw refused(url, "is not a URL", { expected: "https://HOST/v1", todo: "check it" });
  }
}

/** GET without a body, POST with one; JSON both ways. Failures of the moment are tried again. */
async function request(url: string, body: unknown, { api_key, signal }: RemoteOptions): Promise<unknown> {
  const key = api_key ?? process.env.OPENAI_API_KEY;
  for (let attempt = 1; ; attempt++) {
    let problem: string;
    try {
      const response = await fetch(url, {
        method: body === null ? "GET" : "POST",
        headers: { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) },
        ...(body === null ? {} : { body: JSON.stringify(body) }),
        redirect: "error",
        ...(signal ? { signal } : {}),
      });
      const text = await response.text();
      if (response.ok) {
        try {
          return JSON.parse(text);
        } catch {
          throw refused(url, "does not answer in JSON", {
            expected: "an OpenAI-compatible server",
            todo: "check the URL",
          });
        }
      }
      problem = `answered ${response.status} (${text.slice(0, 200)})`;
      if (response.status !== 429 && response.status < 500) {
        throw refused(url, problem, {
          expected: "an answer",
          todo: response.status === 401 ? "set OPENAI_API_KEY" : "check the URL and the server",
        });
      }
    } catch (error) {
      if (error instanceof BimedixError) throw error;
      if (signal?.aborted) throw aborted();
      const { message, cause } = error as Error & { cause?: Error };
      problem = `cannot be reached (${cause?.message || message})`;
    }
    if (attempt === TRIES)
      throw refused(url, problem, { expected: "a running server", todo: "start it or check the URL" });
    await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt));
  }
}

const refused = (where: string, what: string, parts: { expected: string; todo: string }) =>
  new BimedixError("server_refused", { given: `${where} ${what}`, ...parts });
