// What the benchmarks share.
export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
export const random_tokens = (count) => Array.from({ length: count }, () => 300 + Math.floor(Math.random() * 31000));
export const seconds_since = (start) => (performance.now() - start) / 1000;
/** The most memory that this process has had, in MB; pages of mapped files count. */
export const peak_mb = () => Math.round((process.resourceUsage().maxRSS * 1024) / 1e6);

/** The median of what `measure` returns in `times` runs. */
export async function median_of(times, measure) {
  const values = [];
  for (let i = 0; i < times; i++) values.push(await measure());
  return median(values);
}
