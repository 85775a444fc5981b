import { expect, test } from "vitest";

import type { Progress } from "$lib/api/types";
import { isOpen, placeOf, progressShare, singleCell, stateTone, waitsFor } from "./jobs";

const running = (progress: Partial<Progress>): { state: string; progress: Progress } => ({
    state: "running",
    progress: { phase: "iteration", ...progress },
});

test("an iteration that runs is not done yet", () => {
    expect(progressShare(running({ iteration: 1, iterations_planned: 4 }))).toBe(0);
    expect(progressShare(running({ iteration: 3, iterations_planned: 4 }))).toBe(0.5);
});

test("of several cells those before the one that is measured are done", () => {
    const cells = ["128:32 x1", "128:32 x2", "128:32 x4", "128:32 x8"];
    const at = (cell: string, iteration: number | null): number | null =>
        progressShare(running({ cell, iteration, iterations_planned: 4 }), cells);
    expect([at("128:32 x1", 1), at("128:32 x1", 4), at("128:32 x2", null), at("128:32 x4", 3)]).toEqual([
        0, 0.1875, 0.25, 0.625,
    ]);
    expect(at("another", 1)).toBeNull();
});

test("a plan has one cell unless it names several", () => {
    expect(singleCell({ plan: { sweep: { concurrency: [1] } } })).toBe(true);
    expect(singleCell({ plan: { sweep: { concurrency: [1, 2] } } })).toBe(false);
    expect(singleCell({ prompts: [{}, {}] })).toBe(false);
    expect(singleCell({ plan: { cache_mode: "pair" } })).toBe(false);
});

test("the place of a running job is its cell and iteration, or its phase", () => {
    const job = running({ cell: "128:32 x2", iteration: 3, iterations_planned: 5 });
    expect(placeOf(job, true)).toBe("128:32 x2, iteration 3 of 5");
    expect(placeOf(job, false)).toBe("iteration 3 of 5");
    expect(placeOf(running({ phase: "warmup", cell: "128:32 x2" }), true)).toBe("128:32 x2, warmup");
    expect(placeOf({ progress: null }, true)).toBe("");
});

test("a pull's share is of its bytes", () => {
    expect(progressShare(running({ completed_bytes: 25, total_bytes: 100 }))).toBe(0.25);
});

test("what is not known has no share", () => {
    expect(progressShare({ state: "running", progress: null })).toBeNull();
    expect(progressShare(running({}))).toBeNull();
});

test("a job that waits says for what", () => {
    expect(waitsFor({ state: "queued", progress: { phase: "queued", position: 2 } })).toBe("2 before it");
    expect(waitsFor(running({ waiting_for: "quiet hours" }))).toBe("waits for quiet hours");
    expect(waitsFor({ state: "completed", progress: { phase: "queued", position: 2 } })).toBe("");
});

test("states have their tones", () => {
    expect(["completed", "failed", "cancelled", "running", "queued"].map(stateTone)).toEqual([
        "good",
        "bad",
        "warn",
        "accent",
        "quiet",
    ]);
    expect(["queued", "running", "completed", "interrupted"].map(isOpen)).toEqual([true, true, false, false]);
});
