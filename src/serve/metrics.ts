/** What Prometheus reads: https://prometheus.io/docs/instrumenting/exposition_formats/ */

/** Upper ends of the histogram's parts, in seconds. */
const SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

export class Metrics {
  private readonly counters = new Map<string, Map<string, number>>();
  private readonly first_token = { counts: new Array<number>(SECONDS.length + 1).fill(0), sum: 0 };

  count(name: keyof typeof counter_help, labels: Readonly<Record<string, string | number>> = {}, by = 1): void {
    const own = this.counters.get(name) ?? new Map<string, number>();
    this.counters.set(name, own);
    const key = Object.entries(labels)
      .map(([label, value]) => `${label}="${String(value).replace(/[\\"\n]/g, "_")}"`)
      .join(",");
    own.set(key, (own.get(key) ?? 0) + by);
  }

  time_to_first_token(seconds: number): void {
    const at = SECONDS.findIndex((end) => seconds <= end);
    this.first_token.counts[at < 0 ? SECONDS.length : at]!++;
    this.first_token.sum += seconds;
  }

  /** @param gauges values of this moment, with what they are */
  text(gauges: readonly { name: string; help: string; value: number }[]): string {
    const lines: string[] = [];
    const head = (name: string, help: string, type: string) =>
      lines.push(`# HELP bimedix_${name} ${help}`, `# TYPE bimedix_${name} ${type}`);
    for (const [name, help] of Object.entries(counter_help)) {
      head(name, help, "counter");
      const own = this.counters.get(name) ?? new Map([["", 0]]);
      for (const [labels, value] of own) lines.push(`bimedix_${name}${labels && `{${labels}}`} ${value}`);
    }
    const name = "time_to_first_token_seconds";
    head(name, "From the arrival of a request to its first token.", "histogram");
    let below = 0;
    for (const [i, end] of [...SECONDS, "+Inf"].entries())
      lines.push(`bimedix_${name}_bucket{le="${end}"} ${(below += this.first_token.counts[i]!)}`);
    lines.push(`bimedix_${name}_sum ${this.first_token.sum}`, `bimedix_${name}_count ${below}`);
    for (const { name, help, value } of gauges) {
      head(name, help, "gauge");
      lines.push(`bimedix_${name} ${value}`);
    }
    return `${lines.join("\n")}\n`;
  }
}

const counter_help = {
  requests_total: "Requests by route and status.",
  prompt_tokens_total: "Tokens of prompts.",
  generated_tokens_total: "Tokens that were written.",
} as const;
