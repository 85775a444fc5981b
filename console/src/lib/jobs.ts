/** What lists show of a job. Pure. */

import type { Progress } from "$lib/api/types";

const OPEN = new Set(["starting", "accepted", "queued", "running"]);

export const isOpen = (state: string): boolean => OPEN.has(state);

export function stateTone(state: string): "good" | "warn" | "bad" | "quiet" | "accent" {
    if (state === "completed") return "good";
    if (state === "failed" || state === "interrupted") return "bad";
    if (state === "cancelled") return "warn";
    return state === "running" ? "accent" : "quiet";
}

/**
 * How much of a whole job is done, 0 to 1. An agent counts the iterations of the cell that it measures: of several
 * cells (their labels in order) those before it are done.
 */
export function progressShare(
    job: { state: string; progress?: Progress | null },
    cells: string[] = [],
): number | null {
    const progress = job.progress;
    if (progress === null || progress === undefined) return null;
    if (progress.total_bytes != null && progress.total_bytes > 0)
        return Math.min(1, (progress.completed_bytes ?? 0) / progress.total_bytes);
    const planned = progress.iterations_planned ?? 0;
    const here = planned <= 0 ? null : Math.min(1, Math.max(0, (progress.iteration ?? 0) - 1) / planned);
    if (cells.length < 2) return here;
    const before = cells.indexOf(progress.cell ?? "");
    return before < 0 ? null : (before + (here ?? 0)) / cells.length;
}

/** For whom a queued job waits, in words; empty when it does not. */
export function waitsFor(job: { state: string; progress?: Progress | null }): string {
    if (job.state !== "queued" && job.state !== "running") return "";
    const progress = job.progress;
    if (progress?.waiting_for != null && progress.waiting_for !== "")
        return `waits for ${progress.waiting_for}`;
    if (progress?.position != null && progress.position > 0) return `${progress.position} before it`;
    return "";
}

/** Whether a plan has one cell, so that an iteration's number says how far it is. */
export function singleCell(params: Record<string, unknown>): boolean {
    const plan = (params.plan ?? params) as {
        prompts?: unknown[];
        cache_mode?: string;
        sweep?: Record<string, unknown[]>;
    };
    const swept = Object.values(plan.sweep ?? {}).some((one) => one.length > 1);
    return (plan.prompts ?? []).length < 2 && plan.cache_mode !== "pair" && !swept;
}

/** A running job's place in words: its cell where there are several, and the iteration. */
export function placeOf(job: { progress?: Progress | null }, several: boolean): string {
    const progress = job.progress;
    if (progress === null || progress === undefined) return "";
    const words = several && progress.cell ? [progress.cell] : [];
    if (progress.iteration != null && progress.iterations_planned != null)
        words.push(`iteration ${progress.iteration} of ${progress.iterations_planned}`);
    else words.push(progress.phase);
    return words.join(", ");
}
