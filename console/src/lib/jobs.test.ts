import { expect, test } from "vitest";

import type { Progress } from "$lib/api/types";
import { isOpen, progressShare, stateTone, waitsFor } from "./jobs";

const running = (progress: Partial<Progress>): { state: string; progress: Progress } => ({
    state: "running",
    progress: { phase: "iteration", ...progress },
});

test("an iteration that runs is not done yet", () => {
    expect(progressShare(running({ iteration: 1, iterations_planned: 4 }))).toBe(0);
    expect(progressShare(running({ iteration: 3, iterations_planned: 4 }))).toBe(0.5);
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
