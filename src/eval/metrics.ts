/** Numbers about answers: lm-evaluation-harness's metrics by its definitions (api/task.py, api/metrics.py), and calibration. */

/** The first maximum. */
export const argmax = (values: readonly number[]): number => values.indexOf(Math.max(...values));

export function softmax(log_likelihoods: readonly number[]): number[] {
  const best = Math.max(...log_likelihoods);
  const weights = log_likelihoods.map((value) => Math.exp(value - best));
  const total = sum(weights);
  return weights.map((weight) => weight / total);
}

export const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
export const mean = (values: readonly number[]): number => sum(values) / values.length;

/** What each metric gives for one question: 1 where its choice is the right one. Lengths count characters, as Python does. */
export const per_question: Record<
  "acc" | "acc_norm",
  (log_likelihoods: readonly number[], choices: readonly string[], gold: number) => number
> = {
  acc: (values, _, gold) => Number(argmax(values) === gold),
  acc_norm: (values, choices, gold) =>
    Number(argmax(values.map((value, i) => value / [...choices[i]!].length)) === gold),
};

/** The standard error of a mean: the sample's standard deviation by the root of its size. "N/A" for a single value. */
export function mean_stderr(values: readonly number[]): number | "N/A" {
  if (values.length < 2) return "N/A";
  const center = mean(values);
  const variance = sum(values.map((value) => (value - center) ** 2)) / (values.length - 1);
  return Math.sqrt(variance) / Math.sqrt(values.length);
}

export interface GroupMember {
  value: number;
  stderr: number | "N/A";
  size: number;
}

/** A group's mean and standard error: weighted by size with the pooled error, or unweighted. */
export function group_mean(
  members: readonly GroupMember[],
  weight_by_size: boolean,
): { value: number; stderr: number | "N/A" } {
  const sizes = members.map(({ size }) => size);
  const total = sum(sizes);
  const value = weight_by_size
    ? sum(members.map((one) => one.value * one.size)) / total
    : mean(members.map((one) => one.value));
  const errors = members.map(({ stderr }) => stderr);
  if (!errors.every((error) => error !== "N/A")) return { value, stderr: "N/A" };
  if (!weight_by_size) return { value, stderr: Math.sqrt(sum(errors.map((error) => error ** 2))) / members.length };
  const pooled = sum(errors.map((error, i) => (sizes[i]! - 1) * error ** 2 * sizes[i]!)) / (total - members.length);
  return { value, stderr: Math.sqrt(pooled / total) };
}

export interface Calibration {
  /** Expected calibration error, over ten bins of equal width: https://arxiv.org/abs/1706.04599 */
  ece: number;
  /** The mean over questions of the summed squared distance of the options' probabilities from the truth; 0 to 2. */
  brier: number;
  bins: { from: number; to: number; count: number; confidence: number; accuracy: number }[];
}

const BINS = 10;

/** How far the probability of the chosen option is from how often it is right. */
export function calibration(answers: readonly { log_likelihoods: readonly number[]; gold: number }[]): Calibration {
  const scored = answers.map(({ log_likelihoods, gold }) => {
    const probabilities = softmax(log_likelihoods);
    const confidence = Math.max(...probabilities);
    const brier = sum(probabilities.map((p, i) => (p - Number(i === gold)) ** 2));
    return { confidence, right: Number(argmax(log_likelihoods) === gold), brier };
  });
  const bins = Array.from({ length: BINS }, (_, i) => {
    const [from, to] = [i / BINS, (i + 1) / BINS];
    const members = scored.filter(({ confidence }) => Math.min(BINS - 1, Math.floor(confidence * BINS)) === i);
    const of = (values: number[]) => (values.length > 0 ? mean(values) : 0);
    return {
      from,
      to,
      count: members.length,
      confidence: of(members.map((one) => one.confidence)),
      accuracy: of(members.map((one) => one.right)),
    };
  });
  const ece = sum(bins.map((bin) => (bin.count / scored.length) * Math.abs(bin.accuracy - bin.confidence)));
  return { ece, brier: mean(scored.map(({ brier }) => brier)), bins };
}
