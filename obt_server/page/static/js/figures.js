// The figures of benchmarks in tables and in words; what is known of each metric stands in metrics.js.

import { figure, percent, significant } from "./format.js";
import { h, table } from "./dom.js";
import metrics from "./metrics.js";

// By key, in the order of tables; those that no table shows are left out.
export const METRICS = Object.fromEntries(metrics.filter((one) => one.shown !== "detail").map((one) => [one.name, one]));

export const titled = (key) => `${METRICS[key].label}, ${METRICS[key].unit}`;
export const brief = (key) => `${METRICS[key].short || METRICS[key].label}, ${METRICS[key].unit}`;
// The interval is the mean's; where the median that is shown lies outside it, the mean is named.
const apart = ({ median, ci_low: low, ci_high: high }) => median < low || median > high;
export const interval = (summary, words = significant) => (summary?.ci_low === null || summary?.ci_low === undefined ? "–"
  : `${words(summary.ci_low)} … ${words(summary.ci_high)}${apart(summary) ? ` (mean ${words(summary.mean)})` : ""}`);

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
  const { better } = METRICS[key];
  if (!better) return "";
  const wins = (better === "higher") === (ratio > 1);
  return `${wins ? "first" : "second"} is better by ${percent((ratio > 1 ? ratio : 1 / ratio) - 1)}`;
}
