// The figures of benchmarks: their names, units, and which way is better.

import { figure, percent, significant } from "./format.js";
import { h, table } from "./dom.js";

// key: [name, unit, "more" or "less" of it is better, or "" where neither]
export const METRICS = {
  decode_tps_corrected: ["Decode", "tokens/s", "more"],
  tokens_per_second: ["Decode, as Ollama counts", "tokens/s", "more"],
  output_tps_total: ["All requests together", "tokens/s", "more"],
  prefill_tps: ["Prefill, as Ollama counts", "tokens/s", "more"],
  prefill_tps_ttft: ["Prefill", "tokens/s", "more"],
  first_token_ms: ["TTFT", "ms", "less"],
  average_token_ms: ["TPOT", "ms", "less"],
  total_duration_ms: ["End to end", "ms", "less"],
  output_tps_wall: ["Output over wall time", "tokens/s", "more"],
  ttft_answer_ms: ["TTFT of the answer, after thinking", "ms", "less"],
  cpu_usage_percent: ["CPU", "%", ""],
  gpu_usage_percent: ["GPU utilisation", "%", ""],
  memory_usage_mb: ["Memory of Ollama", "MiB", "less"],
  gpu_memory_usage_mb: ["GPU memory", "MiB", "less"],
  gpu_temperature: ["GPU temperature", "°C", "less"],
  power_usage_watts: ["Power", "W", "less"],
  joules_per_output_token: ["Energy", "J/token", "less"],
};

export const titled = (key) => `${METRICS[key][0]}, ${METRICS[key][1]}`;
export const interval = (summary, words = significant) => (summary?.ci_low === null || summary?.ci_low === undefined ? "–" : `${words(summary.ci_low)} … ${words(summary.ci_high)}`);

export function summaryTable(summary, standIn) {
  const rows = Object.keys(METRICS).filter((key) => summary[key]).map((key) => ({ key, ...summary[key] }));
  return table([
    { title: standIn ? "Figure (stand-in)" : "Figure", of: (row) => titled(row.key) },
    { title: "Median", number: true, of: (row) => h("strong", {}, significant(row.median)) },
    { title: "Mean", number: true, of: (row) => significant(row.mean) },
    { title: "95 % interval of the mean", number: true, of: (row) => interval(row) },
    { title: "Spread (cv)", number: true, hint: "Standard deviation over the mean", of: (row) => (row.cv === null || row.cv === undefined ? "–" : `${figure(row.cv * 100, 1)} %`) },
    { title: "n", number: true, of: (row) => String(row.n) },
  ], rows, "Nothing was measured.", "Figures");
}

// What a ratio a/b means, in words; "the same" where its interval holds 1.
export function verdict(key, { ratio, ci_low: low, ci_high: high }) {
  if (low !== null && low !== undefined && low <= 1 && high >= 1) return "no difference shown";
  const better = METRICS[key][2];
  if (!better) return "";
  const wins = (better === "more") === (ratio > 1);
  return `${wins ? "first" : "second"} is better by ${percent((ratio > 1 ? ratio : 1 / ratio) - 1)}`;
}
