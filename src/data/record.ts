/** A record of a data file, and what may be wrong with it. */
import { BimedixError } from "../errors.js";

/** What is wrong with one record. Whoever reads decides whether it ends the work. */
export class DataProblem extends Error {
  constructor(
    readonly given: string,
    readonly expected: string,
  ) {
    super(`${given}; expected ${expected}`);
  }
}

export interface DataRecord {
  /** "FILE line N", "FILE row N" or "FILE record N" */
  where: string;
  /** The N. */
  line: number;
  value: unknown;
}

/** A record, or what is wrong with it. */
export type DataEntry = DataRecord | { where: string; line: number; problem: DataProblem };

/** @throws BimedixError bad_data */
export function bad_data(where: string, what: string, expected: string, todo = "correct the file"): never {
  throw new BimedixError("bad_data", { given: `${where}: ${what}`, expected, todo });
}
