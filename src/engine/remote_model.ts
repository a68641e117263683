/** Which model of an OpenAI-compatible server a URL means. */
import { AnswerError, model_list, refused } from "./answers.js";
import { HttpError, type HttpOptions, join_url, request } from "./http.js";

export interface RemoteModel {
  /** The server's `/v1`, without a slash at the end. */
  base: string;
  id: string;
  /** Tokens of prompt and answer that the server allows, where it says so. */
  max_model_len?: number;
}

/** @param url of the server, or of its `/v1`; `#NAME` after it chooses among several models @throws BimedixError server_refused */
export async function find_model(url: string, options: HttpOptions): Promise<RemoteModel> {
  const { base, name } = split_url(url);
  const found = await list_models(base, options).catch(async (error: unknown) => {
    if (!is_elsewhere(error) || /\/v1$/.test(new URL(base).pathname)) throw error;
    return list_models(join_url(base, "/v1"), options).catch((second: unknown) => {
      throw is_elsewhere(second) ? error : second;
    });
  });
  const { models } = found;
  // Ollama lists a model under its name and tag.
  const named = models.find(({ id }) => id === name) ?? models.find(({ id }) => id === `${name}:latest`);
  const model = name ? named : models.length === 1 ? models[0] : undefined;
  if (model) return { ...model, base: found.base };
  const ids = models.map(({ id }) => id).join(", ");
  throw refused(base, name ? `does not serve ${name}` : `serves ${models.length} models`, {
    expected: ids ? `one of: ${ids}` : "a server with a model",
    todo: name || !ids ? "check the name and the server" : "append #NAME to the URL",
  });
}

async function list_models(base: string, options: HttpOptions) {
  const { data } = await request(base, "/models", null, model_list, options);
  const models = data.map(({ id, max_model_len }) => (max_model_len ? { id, max_model_len } : { id }));
  return { base, models };
}

/** Whether an answer came from something else than the API that was looked for. */
const is_elsewhere = (error: unknown) =>
  error instanceof HttpError ? [404, 405].includes(error.status) : error instanceof AnswerError;

function split_url(url: string): { base: string; name: string } {
  try {
    const parsed = new URL(url);
    const name = decodeURIComponent(parsed.hash.slice(1));
    parsed.hash = "";
    // People paste the whole address that a client library shows.
    parsed.pathname = parsed.pathname.replace(/\/+$/, "").replace(/\/(chat\/completions|completions|models)$/, "");
    return { base: parsed.href.replace(/\/$/, ""), name };
  } catch {
    throw refused(url, "is not a URL", { expected: "https://HOST/v1", todo: "check it" });
  }
}
