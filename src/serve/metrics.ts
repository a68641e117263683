/** What Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats/ */

/** Upper ends of a histogram's parts, in seconds. */
const SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600];

const counters = {
  requests_total: "Requests by route and status; 499 where the client left before its answer was whole.",
  answers_total: "Requests to the model by what became of them: completed, aborted by the client, failed, or refused.",
  prompt_tokens_total: "Tokens of prompts of chats and completions.",
  generated_tokens_total: "Tokens that were written, also where nobody waited for the last.",
} as const;

const histograms = {
  time_to_first_token_seconds: "From the arrival of a request to its first text, waiting included.",
  answer_seconds: "From the arrival of a request to the end of its answer.",
} as const;

export class Metrics {
  private readonly counts = new Map<keyof typeof counters, Map<string, number>>();
  private readonly times = new Map<keyof typeof histograms, { counts: number[]; sum: number }>();

  count(name: keyof typeof counters, labels: Readonly<Record<string, string | number>> = {}, by = 1): void {
    const own = this.counts.get(name) ?? new Map<string, number>();
    this.counts.set(name, own);
    const key = Object.entries(labels)
      .map(([label, value]) => `${label}="${String(value).replace(/[\\"\n]/g, "_")}"`)
      .join(",");
    own.set(key, (own.get(key) ?? 0) + by);
  }

  observe(name: keyof typeof histograms, seconds: number): void {
    const own = this.times.get(name) ?? { counts: new Array<number>(SECONDS.length + 1).fill(0), sum: 0 };
    this.times.set(name, own);
    const at = SECONDS.findIndex((end) => seconds <= end);
    own.counts[at < 0 ? SECONDS.length : at]!++;
    own.sum += seconds;
  }

  /** @param gauges values of this moment, with what they are */
  text(gauges: readonly { name: string; help: string; value: number }[]): string {
    const lines: string[] = [];
    const head = (name: string, help: string, type: string) =>
      lines.push(`# HELP bimedix_${name} ${help}`, `# TYPE bimedix_${name} ${type}`);
    for (const [name, help] of Object.entries(counters)) {
      head(name, help, "counter");
      const own = this.counts.get(name as keyof typeof counters) ?? new Map([["", 0]]);
      for (const [labels, value] of own) lines.push(`bimedix_${name}${labels && `{${labels}}`} ${value}`);
    }
    for (const [name, help] of Object.entries(histograms)) {
      head(name, help, "histogram");
      const { counts = [], sum = 0 } = this.times.get(name as keyof typeof histograms) ?? {};
      let below = 0;
      for (const [i, end] of [...SECONDS, "+Inf"].entries())
        lines.push(`bimedix_${name}_bucket{le="${end}"} ${(below += counts[i] ?? 0)}`);
      lines.push(`bimedix_${name}_sum ${sum}`, `bimedix_${name}_count ${below}`);
    }
    for (const { name, help, value } of gauges) {
      head(name, help, "gauge");
      lines.push(`bimedix_${name} ${value}`);
    }
    return `${lines.join("\n")}\n`;
  }
}
