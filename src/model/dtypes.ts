/** The precisions that a model is stored in. */
import { BimedixError } from "../errors.js";

/** What a model runs in. `bnb4` is NF4, QLoRA's format of a base that is trained on. */
export const dtypes = ["fp32", "q8", "q4", "bnb4"] as const;
export type Dtype = (typeof dtypes)[number];
/**
 * And what it is trained on besides: NF4 with the magnitudes of its blocks quantised again; `int8`, with a scale a row and not a block,
 * whose products are fast with many rows and slow with one.
 */
export type StoredDtype = Dtype | "bnb4_double" | "int8";

const suffixes: Record<StoredDtype, string> = {
  fp32: "",
  q8: "_quantized",
  q4: "_q4",
  bnb4: "_bnb4",
  bnb4_double: "_bnb4_double",
  int8: "_int8",
};

/** The graph file of a dtype, in the names of Transformers.js; its weights are in the same name with `_data`. */
export const model_file = (dtype: StoredDtype) => `model${suffixes[dtype]}.onnx`;

/** @throws BimedixError bad_option */
export function parse_dtype(dtype: string): Dtype {
  const known = dtypes.find((known) => known === dtype);
  if (known) return known;
  throw new BimedixError("bad_option", {
    given: `dtype ${JSON.stringify(dtype)}`,
    expected: dtypes.join(", "),
    todo: "choose one of them",
  });
}
