/** What a recipe asks of the machine, estimated from below: what cannot be had is refused by name, before anything is allocated. */
import { totalmem } from "node:os";
import { BimedixError } from "../errors.js";
import { expected_tensors } from "../model/checkpoint.js";
import type { ModelConfig } from "../model/config.js";
import type { Example } from "./data.js";
import type { AdapterShape } from "./graphs.js";
import type { Recipe } from "./recipe.js";

/** A learnt parameter in float32, its gradient and AdamW's two means. */
const BYTES_OF_PARAMETER = 16;
/** Places in the order of an epoch. */
const MOST_EXAMPLES = 2 ** 26;
/** Places in the orders of all epochs, each of which is packed to know the number of steps. */
const MOST_VISITS = 2 ** 32;

/** Bytes that a process may have: twice the memory, as some of it may be on a disk. */
function memory(): number {
  const limit = process.constrainedMemory?.() ?? 0;
  return 2 * (limit > 0 ? Math.min(limit, totalmem()) : totalmem());
}

function check_memory(given: string, bytes: number, todo: string): void {
  if (bytes <= memory()) return;
  const size = (n: number) => `${(n / 2 ** 30).toPrecision(3)} GiB`;
  throw new BimedixError("bad_recipe", {
    given: `${given}, for which ${size(bytes)} of memory are needed at least`,
    expected: `what fits into this machine's ${size(memory() / 2)}`,
    todo,
  });
}

const product = (shape: readonly number[]) => shape.reduce((all, dim) => all * dim, 1);

/** @throws BimedixError bad_recipe */
export function check_parameters(adapter: AdapterShape | null, config: ModelConfig): void {
  let parameters = 0;
  if (adapter) for (const [rows, columns] of adapter.tensors.values()) parameters += adapter.rank * (rows + columns);
  else for (const { shape } of expected_tensors(config)) parameters += product(shape);
  const what = adapter ? `adapter.r ${adapter.rank}` : "adapter none";
  const todo = adapter ? "choose a smaller adapter.r or fewer adapter.targets" : "train an adapter";
  check_memory(`${what} with ${parameters.toLocaleString("en")} parameters`, parameters * BYTES_OF_PARAMETER, todo);
}

/** @throws BimedixError bad_recipe */
export function check_data(
  { datasets, num_epochs = 0, micro_batch_size }: Recipe,
  learnt: readonly (readonly Example[])[],
  { hidden_size, num_hidden_layers }: ModelConfig,
): void {
  const examples = learnt.reduce((all, list, i) => all + list.length * datasets[i]!.repeat, 0);
  const most = Math.max(...datasets.map(({ repeat }) => repeat));
  const too_many = (given: string, most: number, todo: string) =>
    new BimedixError("bad_recipe", { given, expected: `at most ${most.toLocaleString("en")}`, todo });
  const count = `${examples.toLocaleString("en")} examples`;
  if (examples > MOST_EXAMPLES)
    throw too_many(
      `an epoch of ${count} (datasets' repeat ${most})`,
      MOST_EXAMPLES,
      "lower repeat, and set num_epochs",
    );
  if (examples * num_epochs > MOST_VISITS)
    throw too_many(`num_epochs ${num_epochs} of ${count}`, MOST_VISITS, "lower num_epochs, or set max_steps");
  let longest = 0;
  for (const list of learnt) for (const { input_ids } of list) longest = Math.max(longest, input_ids.length);
  const tokens = micro_batch_size * longest;
  check_memory(
    `micro_batch_size ${micro_batch_size} with rows of ${longest} tokens and more`,
    // Each layer's input, which the backward pass begins from.
    tokens * num_hidden_layers * hidden_size * 4,
    "lower micro_batch_size, and raise gradient_accumulation_steps",
  );
}
