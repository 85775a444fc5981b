/** Stored results as lists show them, and files made of them. Pure. */

import type { ResultLine } from "$lib/api/types";
import { HEADLINE, titled, type Metric, type Summary } from "$lib/metrics";

export type Line = ResultLine;
export type ResultsPage = { total: number; results: Line[] };

export const keyOf = (line: Line): string => `${line.agent_id}/${line.job_id}`;

/** The summary of a metric in a line's first cell, or in the cell of that index. */
export const summaryOf = (line: Line, name: string, cell = 0): Summary | null =>
    line.cells.find((one) => one.index === cell)?.summary[name] ?? null;

/**
 * A row's number for each line. A line that stays keeps its row, and with it the focus; another one takes a row whose
 * line went: a table that is sorted anew is filled, and not made again.
 */
export function slotsFor(before: ReadonlyMap<string, number>, keys: string[]): Map<string, number> {
    const wanted = new Set(keys);
    const free = [...before].filter(([key]) => !wanted.has(key)).map(([, slot]) => slot);
    let next = Math.max(-1, ...before.values()) + 1;
    return new Map(keys.map((key) => [key, before.get(key) ?? free.shift() ?? next++]));
}

const header = (metrics: Metric[]): string[] => [
    "machine",
    "model",
    "digest",
    "quantization",
    "plan",
    "cell",
    "finished",
    ...metrics.flatMap((one) => [one.name, `${one.name}_ci_low`, `${one.name}_ci_high`, `${one.name}_n`]),
];

function rows(lines: Line[], metrics: Metric[]): (string | number | null)[][] {
    return lines.flatMap((line) =>
        line.cells.map((cell) => [
            line.agent_name,
            line.model,
            line.model_digest,
            line.quantization,
            line.plan_name ?? line.plan_hash,
            cell.label,
            line.finished_at === null ? null : new Date(line.finished_at * 1000).toISOString(),
            ...metrics.flatMap((one) => {
                const found = cell.summary[one.name];
                return found === undefined
                    ? [null, null, null, null]
                    : [found.median, found.ci_low, found.ci_high, found.n];
            }),
        ]),
    );
}

/** RFC 4180; text that a spreadsheet would run as a formula is quoted with an apostrophe. */
export function csvOf(table: (string | number | null)[][]): string {
    const cell = (one: string | number | null): string => {
        if (one === null) return "";
        const text = typeof one === "string" && /^[=+\-@\t\r]/.test(one) ? `'${one}` : String(one);
        return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return table.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

export const csv = (lines: Line[], metrics: Metric[] = HEADLINE): string =>
    csvOf([header(metrics), ...rows(lines, metrics)]);

/** A table of medians with their intervals. */
export function markdown(lines: Line[], metrics: Metric[] = HEADLINE): string {
    const safe = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");
    const figure = (found: Summary | undefined): string =>
        found === undefined
            ? "–"
            : `${short(found.median)}${found.ci_low === null || found.ci_high === null ? "" : ` (${short(found.ci_low)} to ${short(found.ci_high)}${mean(found)})`}`;
    // Of a skewed sample the interval is of another figure than the median, and is named with it.
    const mean = (found: Summary): string =>
        found.median < (found.ci_low ?? -Infinity) || found.median > (found.ci_high ?? Infinity)
            ? `, mean ${short(found.mean)}`
            : "";
    const short = (one: number): number => Number(one.toPrecision(4));
    const head = ["Machine", "Model", "Cell", ...metrics.map(titled)];
    const body = lines.flatMap((line) =>
        line.cells.map((cell) => [
            safe(line.agent_name),
            safe(line.model ?? "–"),
            safe(cell.label),
            ...metrics.map((one) => figure(cell.summary[one.name])),
        ]),
    );
    return [head, head.map(() => "---"), ...body].map((row) => `| ${row.join(" | ")} |`).join("\n") + "\n";
}
