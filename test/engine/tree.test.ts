/** What scoring computes, counted: options share their context, and long beginnings are computed once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { group_requests, plan, shared_beginning } from "../../src/engine/tree.js";

const run = (from: number, length: number) => Array.from({ length }, (_, i) => from + i);

/** Tokens that the steps compute: each path as far as the one before does not hold it, and each group beyond its path. */
function computed(steps: ReturnType<typeof plan>): number {
  let cached: readonly number[] = [];
  let count = 0;
  for (const { path, group } of steps) {
    const held = path.findIndex((token, i) => cached[i] !== token);
    count += held < 0 ? 0 : path.length - held;
    cached = path;
    if (group) count += group.nodes.length - path.length;
  }
  return count;
}

test("options share their context and what they begin with", () => {
  const context = run(0, 10);
  const [group, ...others] = group_requests([
    { context, continuation: [50, 60, 70] },
    { context, continuation: [50, 61] },
    { context, continuation: [80] },
  ]);
  assert.equal(others.length, 0);
  // The context, 50 after it and 60 after that; last tokens are only predicted.
  assert.deepEqual(
    group!.nodes.slice(10).map(({ token_id, parent }) => [token_id, parent]),
    [
      [50, 9],
      [60, 10],
    ],
  );
  assert.deepEqual(group!.nodes.map(({ readers }) => readers.length).slice(8), [0, 3, 2, 1]);
  assert.deepEqual(group!.chain, run(0, 9));
});

test("several questions about one abstract compute it once; short common beginnings are not worth a run", () => {
  const abstract = run(1000, 200);
  const other = [...run(1000, 20), ...run(5000, 200)];
  const requests = [
    ...[1, 2, 3].map((n) => ({ context: [...abstract, ...run(n * 100, 30)], continuation: [9] })),
    { context: [...other, 7], continuation: [9] },
  ];
  const groups = group_requests(requests);
  assert.equal(shared_beginning(groups).length, 20);
  const steps = [...plan(groups, 0)];
  assert.deepEqual(
    steps.map(({ path, group }) => [path.length, group?.nodes.length ?? 0]),
    [
      [200, 0],
      [200, 230],
      [200, 230],
      [200, 230],
      [0, 221],
    ],
  );
  assert.equal(computed(plan(groups, 0)), 200 + 3 * 30 + 221);
});

test("every request is scored exactly once, whatever they share", () => {
  const requests = run(0, 40).map((n) => ({
    context: [...run(1, 1 + (n % 3) * 70), ...run(n % 5, 1 + (n % 7))],
    continuation: run(n, 1 + (n % 4)),
  }));
  const groups = group_requests(requests);
  const seen = [...plan(groups, 0)].flatMap(({ path, group }) => {
    if (group) assert.deepEqual(group.chain.slice(0, path.length), [...path]);
    return group ? group.nodes.flatMap(({ readers }) => readers.map(({ request }) => request)) : [];
  });
  const expected = requests.flatMap(({ continuation }, i) => continuation.map(() => i));
  assert.deepEqual(
    seen.sort((a, b) => a - b),
    expected,
  );
});
