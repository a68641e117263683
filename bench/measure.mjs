// What the benchmarks share.
export const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
export const random_tokens = (count) => Array.from({ length: count }, () => 300 + Math.floor(Math.random() * 31000));
