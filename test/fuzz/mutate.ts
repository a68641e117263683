/** Seeded damage to bytes and to JSON. */

export { generator as seeded } from "../../src/train/data.js";

/** Numbers from 0 to below 1. */
export type Random = () => number;

export const below = (random: Random, end: number): number => Math.floor(random() * end);
export const pick = <T>(random: Random, list: readonly T[]): T => list[below(random, list.length)]!;

/** Something damaged, and in words what was done to it. */
export interface Mutated<T> {
  value: T;
  detail: string;
}

/** Values that readers have not thought of. */
const NASTY: readonly unknown[] = [
  null, true, false, "", "x", "\u0000", "__proto__", "\ud800", "../../etc/passwd", "9".repeat(30), "x".repeat(70_000),
  -1, 0, 1, 2, 3, 7, 255, 256, 1.5, -0.5, 1e-320, 1e308, -1e308, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 63,
  [], {}, [[]], [null], [1], ["a", "b"], { a: 1 }, Array(1000).fill(0),
]; // biome-ignore format: a list
const KEYS = ["__proto__", "constructor", "", "x".repeat(300), "length", "toString"];

type Branch = Record<string, unknown>;
type Path = readonly string[];

const is_branch = (value: unknown): value is Branch => typeof value === "object" && value !== null;
const value_at = (root: unknown, path: Path): unknown =>
  path.reduce<unknown>((value, key) => (is_branch(value) ? value[key] : undefined), root);

/** Places in a value: all of a small one, some of a large one. */
function places(value: unknown, random: Random, path: Path = [], found: Path[] = []): Path[] {
  found.push(path);
  if (!is_branch(value) || path.length > 8) return found;
  const keys = Object.keys(value);
  const most = Array.isArray(value) ? 12 : 40;
  const some = keys.length > most ? Array.from({ length: most }, () => pick(random, keys)) : keys;
  for (const key of some) places(value[key], random, [...path, key], found);
  return found;
}

/** A copy of a JSON value with one or two things wrong. */
export function mutate_json(value: unknown, random: Random): Mutated<unknown> {
  // structuredClone would copy large vocabularies more slowly.
  const copy: unknown = JSON.parse(JSON.stringify(value));
  if (random() < 0.01) {
    const other = pick(random, NASTY);
    return { value: other, detail: `all = ${shown(other)}` };
  }
  const details = Array.from({ length: 1 + below(random, 2) }, () => mutate_place(copy, random));
  return { value: copy, detail: details.join("; ") };
}

const shown = (value: unknown): string => JSON.stringify(value)?.slice(0, 40) ?? "undefined";

function mutate_place(root: unknown, random: Random): string {
  const all = places(root, random);
  const path = pick(random, all);
  const [key, at] = [path.at(-1), value_at(root, path.slice(0, -1))];
  if (key === undefined || !is_branch(at)) return "nothing";
  const [place, old, kind] = [path.join("."), at[key], random()];
  const set = (next: unknown, what = `= ${shown(next)}`): string => {
    at[key] = next;
    return `${place} ${what}`;
  };
  if (kind < 0.5) return set(JSON.parse(JSON.stringify(pick(random, NASTY))));
  if (kind < 0.6) {
    if (Array.isArray(at)) at.splice(Number(key), 1);
    else delete at[key];
    return `${place} left out`;
  }
  if (kind < 0.7) {
    const other = pick(random, all);
    return set(JSON.parse(JSON.stringify(value_at(root, other) ?? null)), `= what ${other.join(".")} is`);
  }
  if (kind < 0.75 && !Array.isArray(at)) {
    const name = pick(random, KEYS);
    delete at[key];
    Object.defineProperty(at, name, { value: old, enumerable: true, configurable: true, writable: true });
    return `${place} renamed ${name.slice(0, 20)}`;
  }
  if (typeof old === "number")
    return set(pick(random, [old + 1, old - 1, -old, old * 2, old / 2, old * 1e9, old + 0.5]));
  if (typeof old === "string" && old !== "") {
    const i = below(random, old.length);
    return set(
      old.slice(0, i) + pick(random, ["", "\u0000", "\ufffd", "A", "/", " ", "(", "*"]) + old.slice(i + 1),
      "edited",
    );
  }
  if (Array.isArray(old)) return set(random() < 0.5 ? old.toReversed() : [...old, ...old], "reversed or doubled");
  return set(JSON.stringify(old));
}

/** A copy of bytes that was cut, spliced or changed in a few places between `from` and `to`. */
export function mutate_bytes(
  bytes: Uint8Array,
  random: Random,
  { from = 0, to = bytes.length } = {},
): Mutated<Uint8Array> {
  const copy = Uint8Array.from(bytes);
  const place = (): number => from + below(random, to - from);
  const kind = random();
  if (kind < 0.12) {
    const length = below(random, bytes.length);
    return { value: copy.subarray(0, length), detail: `cut to ${length} bytes` };
  }
  if (kind < 0.24) {
    const [at, length, other] = [place(), 1 + below(random, 64), below(random, bytes.length)];
    const gone = kind < 0.18;
    const middle = gone ? new Uint8Array(0) : copy.subarray(other, other + length);
    const value = Buffer.concat([copy.subarray(0, at), middle, copy.subarray(gone ? at + length : at)]);
    return { value, detail: `${gone ? "cut out" : "put in"} ${length} bytes at ${at}` };
  }
  const details = Array.from({ length: 1 + below(random, 4) }, () => {
    const [at, how] = [place(), random()];
    if (how < 0.5) copy[at]! ^= 1 << below(random, 8);
    else if (how < 0.8) copy[at] = pick(random, [0, 255, 127, 128, 1]);
    else copy.fill(pick(random, [0, 255]), at, Math.min(at + 8, to));
    return `byte ${at}`;
  });
  return { value: copy, detail: details.join(", ") };
}
