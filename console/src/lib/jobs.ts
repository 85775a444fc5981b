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

/** How much of a whole job is done, 0 to 1: over all cells, so that it never falls back at a new cell. */
export function progressShare(job: { state: string; progress?: Progress | null }): number | null {
    const progress = job.progress;
    if (progress === null || progress === undefined) return null;
    if (progress.total_bytes != null && progress.total_bytes > 0)
        return Math.min(1, (progress.completed_bytes ?? 0) / progress.total_bytes);
    const planned = progress.iterations_planned ?? 0;
    if (planned <= 0) return null;
    return Math.min(1, Math.max(0, (progress.iteration ?? 0) - 1) / planned);
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
