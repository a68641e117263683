/**
 * What scoring has to compute. The requests of one context, such as the options of a question, are one tree of tokens: what they
 * share occurs once. Contexts share a beginning only where it is long or the caller names it, and each is otherwise
 * computed on its own: what stands beside a question in a batch then cannot change its scores, not even by rounding.
 */
import type { Score, ScoreRequest } from "./engine.js";
import { log_sum_exp, token_logprobs } from "./sampler.js";

/** A log-probability that is read from the logits at a node. */
interface Reader {
  request: number;
  /** Which token of the request's continuation it is. */
  place: number;
  target: number;
}

export interface TokenNode {
  token_id: number;
  /** Its index in the list, or -1: a parent comes before its children, and all of a child's before the next. */
  parent: number;
  readers: Reader[];
}

/** The requests of one context. */
export interface Group {
  /** All tokens that are computed for it; the continuations' branch off at its end. */
  nodes: TokenNode[];
  /** So many of the first nodes may come from a cache: they are one chain, and nothing is read there. */
  chain: readonly number[];
}

/** A beginning that several groups share is computed on its own from this length on. */
const WORTHWHILE = 64;

export interface Step {
  /** Tokens to have in the cache, and no others after them. */
  path: readonly number[];
  /** What to compute after them; null where only the path itself is wanted. */
  group: Group | null;
}

/** The steps that score all groups, each after the first `start` tokens, which all of them share. */
export function* plan(groups: readonly Group[], start: number): Generator<Step> {
  const beginning = shared_beginning(groups);
  if (groups.length === 1) return yield { path: beginning.slice(0, start), group: groups[0]! };
  const common = beginning.length;
  const from = common - start >= WORTHWHILE ? common : start;
  if (from > start) yield { path: beginning, group: null };
  const by_next = new Map<number | undefined, Group[]>();
  for (const group of groups) {
    const next = group.chain[common];
    by_next.set(next, [...(by_next.get(next) ?? []), group]);
  }
  for (const [next, members] of by_next) {
    // Groups that end here differ from each other in what they ask, not in what they share.
    if (next === undefined) for (const member of members) yield* plan([member], from);
    else yield* plan(members, from);
  }
}

/** The longest chain that begins all of these, of which there is at least one. */
export function shared_beginning([first, ...rest]: readonly Group[]): readonly number[] {
  const { chain } = first!;
  return chain.slice(
    0,
    rest.reduce((length, other) => Math.min(length, common_length(chain, other.chain)), chain.length),
  );
}

/** Requests by their context, in the order of first appearance. */
export function group_requests(requests: readonly ScoreRequest[]): Group[] {
  const groups = new Map<string, number[]>();
  for (const [i, { context }] of requests.entries()) {
    const key = context.join();
    const members = groups.get(key);
    if (members) members.push(i);
    else groups.set(key, [i]);
  }
  return [...groups.values()].map((members) => {
    const { context } = requests[members[0]!]!;
    const nodes: TokenNode[] = context.map((token_id, i) => ({ token_id, parent: i - 1, readers: [] }));
    const children = new Map<string, number>();
    for (const request of members) {
      let at = context.length - 1;
      for (const [i, target] of requests[request]!.continuation.entries()) {
        nodes[at]!.readers.push({ request, place: i, target });
        if (i + 1 === requests[request]!.continuation.length) break;
        const key = `${at} ${target}`;
        let child = children.get(key);
        if (child === undefined) {
          child = nodes.length;
          nodes.push({ token_id: target, parent: at, readers: [] });
          children.set(key, child);
        }
        at = child;
      }
    }
    return { nodes, chain: context.slice(0, -1) };
  });
}

/** Adds what the logits after a node say to the scores of the requests that read there. */
export function read_logits(
  logits: Float32Array,
  readers: readonly Reader[],
  scores: Score[],
  top_logprobs?: number,
): void {
  const { best, total } = log_sum_exp(logits);
  for (const { request, place, target } of readers) {
    const score = scores[request]!;
    score.logprob += logits[target]! - total;
    score.is_greedy &&= best === target;
    if (top_logprobs !== undefined) (score.tokens ??= [])[place] = token_logprobs(logits, target, top_logprobs);
  }
}

export function common_length(a: readonly number[], b: readonly number[]): number {
  const end = Math.min(a.length, b.length);
  let at = 0;
  while (at < end && a[at] === b[at]) at++;
  return at;
}
