/** The registry of metrics, as the agent has it: names, units, which way is better. Pure. */

import registry from "$lib/api/metrics.json";
import { DASH, significant, type Maybe } from "$lib/format";

export interface Metric {
    name: string;
    label: string;
    unit: string;
    better: "higher" | "lower" | null;
    clock: "agent" | "ollama" | "machine";
    description: string;
    short: string;
    headline: boolean;
    compared: boolean;
    shown: "always" | "thinking" | "concurrent" | "detail";
    values: "positive" | "percent" | "any";
}

export interface Summary {
    n: number;
    mean: number;
    median: number;
    cv: number | null;
    min: number;
    max: number;
    ci_low: number | null;
    ci_high: number | null;
}

export const METRICS = registry as Metric[];
const BY_NAME = new Map(METRICS.map((one) => [one.name, one]));
export const HEADLINE = METRICS.filter((one) => one.headline);

/** The metric of a name; one that this page does not know is shown by its name. */
export const metric = (name: string): Metric =>
    BY_NAME.get(name) ?? {
        name,
        label: name.replaceAll("_", " "),
        unit: "",
        better: null,
        clock: "agent",
        description: "",
        short: "",
        headline: false,
        compared: false,
        shown: "detail",
        values: "any",
    };

export const brief = (one: Metric): string => one.short || one.label;
export const titled = (one: Metric): string => (one.unit === "" ? one.label : `${one.label}, ${one.unit}`);
export const direction = (one: Metric): string => (one.better === null ? "" : `${one.better} is better`);
export const value = (one: Maybe): string => significant(one);

/** The least value that is possible: below it nothing is drawn. A time is never negative, not even a remainder. */
export const least = (one: Metric): number => (one.values === "any" && one.unit !== "ms" ? -Infinity : 0);

/** The interval of the mean, held to what the metric can be. */
export function bounds(
    one: Metric,
    summary: Summary | null | undefined,
): { low: number | null; high: number | null } {
    if (summary?.ci_low == null || summary.ci_high == null) return { low: null, high: null };
    const most = one.values === "percent" ? 100 : Infinity;
    return {
        // The mean of a remainder may be a little below zero, and lies in its interval all the same.
        low: Math.min(summary.mean, Math.max(least(one), summary.ci_low)),
        high: Math.min(most, summary.ci_high),
    };
}

/** The interval as text. */
export function interval(one: Metric, summary: Summary | null | undefined): string {
    const { low, high } = bounds(one, summary);
    return low === null || high === null ? DASH : `${significant(low)} … ${significant(high)}`;
}

/** Which interval it is, for whoever wants to know. */
export function kindOfInterval(one: Metric): string {
    if (one.values !== "any")
        return "95 % interval of the mean (Student’s t of the logarithm, which stays above zero)";
    const cut = least(one) === 0 ? ", cut at zero" : "";
    return `95 % interval of the mean (Student’s t${cut})`;
}

/** What a ratio a/b says, in words: no difference is shown where its interval holds 1. */
export function verdict(
    one: Metric,
    ratio: { ratio: number; ci_low: number | null; ci_high: number | null },
): string {
    const { ci_low: low, ci_high: high } = ratio;
    if (low === null || high === null) return "one value only";
    if (low <= 1 && high >= 1) return "no difference shown";
    const times = ratio.ratio > 1 ? ratio.ratio : 1 / ratio.ratio;
    const change = times - 1;
    const word =
        one.better === null
            ? ratio.ratio > 1
                ? "higher"
                : "lower"
            : (one.better === "higher") === ratio.ratio > 1
              ? "better"
              : "worse";
    // Hundreds of per cent are read wrongly.
    if (times >= 3) return `${word} by a factor of ${significant(times)}`;
    return `${word} by ${(change * 100).toFixed(change < 0.1 ? 1 : 0)} %`;
}
