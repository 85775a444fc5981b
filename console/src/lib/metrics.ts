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

/** An interval as text; a bound that cannot be is not shown as one. */
export function interval(summary: Summary | null | undefined): string {
    if (summary?.ci_low == null || summary.ci_high == null) return DASH;
    return `${significant(summary.ci_low)} … ${significant(summary.ci_high)}`;
}

/** What a ratio a/b says, in words: no difference is shown where its interval holds 1. */
export function verdict(
    one: Metric,
    ratio: { ratio: number; ci_low: number | null; ci_high: number | null },
): string {
    const { ci_low: low, ci_high: high } = ratio;
    if (low === null || high === null) return "one value only";
    if (low <= 1 && high >= 1) return "no difference shown";
    const change = (ratio.ratio > 1 ? ratio.ratio : 1 / ratio.ratio) - 1;
    const text = `${(change * 100).toFixed(change < 0.1 ? 1 : 0)} %`;
    if (one.better === null) return `${ratio.ratio > 1 ? "higher" : "lower"} by ${text}`;
    return `${(one.better === "higher") === ratio.ratio > 1 ? "better" : "worse"} by ${text}`;
}
