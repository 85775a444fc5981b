import { describe, expect, test } from "vitest";

import type {
    CampaignCell,
    CampaignMatrix,
    CampaignPreview,
    CampaignView,
    CellState,
    MatrixCell,
} from "$lib/api/campaigns";
import {
    change,
    changeText,
    countsText,
    endedOf,
    groupOf,
    heatScale,
    hindrances,
    inZone,
    matrixRows,
    measured,
    merged,
    missing,
    pointText,
    pullText,
    runGrid,
    stateOf,
    STEPS,
    verdictKey,
    wordsOf,
} from "$lib/campaigns";
import { csvOf } from "$lib/results";

const counts = (some: Partial<Record<CellState, number>> = {}): Record<CellState, number> => ({
    waiting: 0,
    pulling: 0,
    starting: 0,
    running: 0,
    done: 0,
    failed: 0,
    refused: 0,
    cancelled: 0,
    skipped: 0,
    ...some,
});
const cell = (id: string, more: Partial<CampaignCell> = {}): CampaignCell => ({
    id,
    agent_id: "a",
    agent_name: "alpha",
    model: "small:1b",
    plan_hash: "h",
    repeat: 1,
    state: "waiting",
    attempt: 1,
    job_id: null,
    reason: null,
    waiting_for: null,
    cancelling: false,
    remaining_s: null,
    error: null,
    policy_key: null,
    remedy: null,
    retry_helps: null,
    progress: null,
    completed_bytes: null,
    total_bytes: null,
    bytes_per_second: null,
    estimate_s: null,
    started_at: null,
    finished_at: null,
    value: null,
    low: null,
    high: null,
    flags: [],
    digest: null,
    ...more,
});
const view = (cells: CampaignCell[], more: Partial<CampaignView> = {}): CampaignView => ({
    id: "c1",
    name: null,
    schedule: null,
    state: "running",
    created_at: 1,
    created_by: "admin",
    finished_at: null,
    counts: counts({ waiting: cells.length }),
    total: cells.length,
    remaining_s: null,
    verdicts: null,
    plans: [{ name: "quick", version: null, hash: "h", label: "quick", plan: {} }],
    models: ["small:1b"],
    agents: [{ id: "a", name: "alpha", not_before: null }],
    cells,
    order: "model",
    repeat: 1,
    not_after: null,
    on_offline: "wait",
    pull_missing: false,
    metric: "headline",
    quiet_hours: null,
    settle: null,
    baseline: { mode: "rolling", last: 7, results: [] },
    ...more,
});

describe("a campaign in words", () => {
    test("what is done is counted first, what is not there not at all", () => {
        expect(countsText(counts({ waiting: 2, failed: 1, done: 48 }))).toBe("48 done, 2 waiting, 1 failed");
        expect(countsText(counts())).toBe("no cell");
    });
    test("cells without a result are not hidden behind the campaign's end", () => {
        const ended = view([], { state: "done", counts: counts({ done: 3, refused: 1 }) });
        expect(stateOf(ended)).toEqual({ tone: "warn", text: "1 without a result" });
        expect(stateOf({ ...ended, counts: counts({ done: 4 }) }).tone).toBe("good");
    });
    test("what ended, well or not, is progress", () => {
        expect(endedOf(view([], { counts: counts({ done: 3, failed: 1, running: 2, waiting: 4 }) }))).toBe(4);
    });
});

describe("an event", () => {
    const before = view([cell("c1"), cell("c2")]);
    test("replaces the cells that it names and leaves the others", () => {
        const after = merged(before, {
            ...before,
            state: "done",
            changed: [cell("c2", { state: "done", value: 40 })],
        });
        expect(after.state).toBe("done");
        expect(after.cells.map((one) => one.state)).toEqual(["waiting", "done"]);
        expect(after.cells[0]).toBe(before.cells[0]);
        expect(after).not.toHaveProperty("changed");
    });
    test("brings cells of machines that were added later", () => {
        const added = cell("c3", { agent_id: "b", agent_name: "beta" });
        const after = merged(before, { ...before, total: 3, changed: [added] });
        expect(after.cells).toHaveLength(3);
        expect(after.agents).toEqual([
            { id: "a", name: "alpha", not_before: null },
            { id: "b", name: "beta", not_before: null },
        ]);
        const grid = runGrid(after);
        expect(grid.columns.map((column) => grid.at("b", column)?.state)).toEqual(["waiting"]);
    });
});

describe("the grid", () => {
    test("repeats of one cell are one place, which shows what needs attention", () => {
        const cells = [
            cell("c1", { state: "done" }),
            cell("c2", { repeat: 2, state: "failed", reason: "out of memory" }),
            cell("c3", { repeat: 3, state: "cancelled" }),
        ];
        const group = groupOf("k", cells);
        expect(group).toMatchObject({
            state: "failed",
            detail: "3 of 3",
            reason: "out of memory",
            share: null,
        });
    });
    test("what runs counts with its share", () => {
        const group = groupOf("k", [
            cell("c1", { state: "done" }),
            cell("c2", { state: "running", progress: 0.5 }),
        ]);
        expect(group).toMatchObject({ state: "running", share: 0.75 });
        expect(groupOf("k", [cell("c1", { state: "running", progress: 0.4 })]).detail).toBe("40 %");
    });
    test("a pull says how far it is, once for all repeats", () => {
        const pulling = cell("c1", {
            state: "pulling",
            progress: 0.75,
            completed_bytes: 3e9,
            total_bytes: 4e9,
            bytes_per_second: 2e7,
            remaining_s: 90,
        });
        const group = groupOf("k", [pulling, cell("c2", { repeat: 2 })]);
        expect(group).toMatchObject({ state: "pulling", share: 0.75, detail: "75 %" });
        expect(pullText(pulling)).toMatch(/^2\.8 of 3\.7 GiB · 19 MiB\/s · .* left, with its measurement$/);
        expect(pullText({ ...pulling, bytes_per_second: null, remaining_s: null })).toBe("2.8 of 3.7 GiB");
        expect(pullText(cell("c1", { state: "pulling" }))).toBe("");
        expect(groupOf("k", [cell("c1", { state: "pulling" })])).toMatchObject({ share: null, detail: "" });
    });
    test("a place says in words where it is, how it is and why", () => {
        const grid = runGrid(
            view([cell("c1", { state: "refused", reason: "Its owner forbids benchmarks." })]),
        );
        expect(grid.columns.map((one) => wordsOf(grid.at("a", one), "alpha", one))).toEqual([
            "small:1b, quick on alpha: refused, Its owner forbids benchmarks.",
        ]);
        expect(grid.columns.map((one) => wordsOf(undefined, "alpha", one))[0]).toContain(
            "not part of this campaign",
        );
    });
    test("an error is the reason where no other is given", () => {
        expect(
            groupOf("k", [cell("c1", { state: "failed", error: { code: -32000, message: "It broke." } })])
                .reason,
        ).toBe("It broke.");
    });
});

describe("the heat map", () => {
    test("the better a value, the stronger its colour, whichever way is better", () => {
        const higher = heatScale([1, 10, 100, null], "higher");
        expect([higher(1), higher(100), higher(null)]).toEqual([0, STEPS - 1, null]);
        const lower = heatScale([1, 10, 100], "lower");
        expect([lower(1), lower(100)]).toEqual([STEPS - 1, 0]);
    });
    test("values that differ by factors are told apart; one value alone is in the middle", () => {
        const scale = heatScale([1, 10, 100, 1000], "higher");
        expect(new Set([1, 10, 100, 1000].map(scale)).size).toBe(4);
        expect(heatScale([5], "higher")(5)).toBe(Math.round(0.5 * (STEPS - 1)));
        expect(heatScale([-1, 0, 1], "higher")(-1)).toBe(0);
        expect(heatScale([], null)(null)).toBeNull();
    });
    test("a ratio is a change, and hundreds of per cent a factor", () => {
        expect([change(0.948), change(1.2), change(1), change(4), change(null)]).toEqual([
            "−5.2 %",
            "+20 %",
            "0.0 %",
            "×4",
            "–",
        ]);
        expect(changeText({ ratio: 0.95, ratio_low: 0.93, ratio_high: 0.97 })).toBe(
            "−5.0 % (−7.0 % to −3.0 %)",
        );
    });
    const one: MatrixCell = {
        agent_id: "a",
        model: "small:1b",
        plan_hash: "h",
        state: "done",
        reason: null,
        value: 40,
        low: 39,
        high: 41,
        n: 5,
        job_id: "j",
        flags: ["used_meanwhile"],
        ratio: null,
        ratio_low: null,
        ratio_high: null,
        verdict: null,
    };
    test("a point says what became slower there, and has a verdict of its own", () => {
        expect(pointText({ label: "2048:128", slower: 2 })).toBe("2048:128: 2 slower");
        expect(pointText({ label: "512:128", slower: 0 })).toBe("512:128");
        const verdict = { agent_id: "a", model: "m", plan_hash: "h", metric: "t", point_index: 0 };
        expect(verdictKey(verdict)).not.toBe(verdictKey({ ...verdict, point_index: 1 }));
    });
    const matrix: CampaignMatrix = {
        point: null,
        sweep: [],
        metric: { name: "decode_tps_corrected", label: "Decode", unit: "tokens/s", direction: "higher" },
        agents: [
            { id: "a", name: "=alpha" },
            { id: "b", name: "beta" },
        ],
        rows: [{ model: "small:1b", plan_hash: "h", plan: "quick" }],
        cells: [
            one,
            { ...one, agent_id: "b", state: "refused", reason: "forbidden", value: null, flags: [] },
        ],
    };
    test("a cell without a value says why", () => {
        expect(missing(matrix.cells[1])).toBe("forbidden");
        expect(missing({ state: "waiting", reason: null })).toBe("waiting");
        expect(missing(undefined)).toBe("not part of this campaign");
    });
    test("its file has every cell, and runs no formula", () => {
        const lines = csvOf(matrixRows(matrix)).split("\r\n");
        expect(lines[1]).toBe("'=alpha,small:1b,quick,done,40,39,41,5,,,,,,used_meanwhile");
        expect(lines[2]).toBe("beta,small:1b,quick,refused,,39,41,5,,,,,forbidden,");
    });
});

describe("a preview", () => {
    const preview: CampaignPreview = {
        cells: ["a", "b", "c"].flatMap((name) => [
            {
                agent_id: name,
                agent_name: name,
                model: "m",
                plan: "quick",
                plan_hash: "h",
                repeat: 1,
                policy_key: null,
                would: "run" as const,
                reason: null,
                remedy: null,
                estimate_s: 10,
            },
            {
                agent_id: name,
                agent_name: name,
                model: "n",
                plan: "quick",
                plan_hash: "h",
                repeat: 1,
                policy_key: null,
                would: name === "c" ? ("wait" as const) : ("refused" as const),
                reason: name === "c" ? "offline" : "forbidden",
                remedy: name === "c" ? null : "policy.commands.deny",
                estimate_s: null,
            },
        ]),
        machines: [],
        estimate_s: null,
    };
    test("cells with one reason are said once, with their machines and the remedy, refusals first", () => {
        expect(hindrances(preview)).toEqual([
            {
                would: "refused",
                reason: "forbidden",
                remedy: "policy.commands.deny",
                machines: ["a", "b"],
                cells: 2,
            },
            { would: "wait", reason: "offline", remedy: null, machines: ["c"], cells: 1 },
        ]);
    });
    test("what waits is measured, what is refused is not", () => {
        expect(measured(preview)).toBe(4);
    });
});

test("a moment of a schedule is said in the schedule's zone, on both sides of a change of the clock", () => {
    const before = Date.UTC(2026, 9, 24, 0, 30) / 1000;
    expect(inZone(before, "Europe/Berlin")).toMatch(/24 Oct.*02:30/);
    expect(inZone(before + 86_400, "Europe/Berlin")).toMatch(/25 Oct.*02:30/);
    expect(inZone(before + 2 * 86_400, "Europe/Berlin")).toMatch(/26 Oct.*01:30/);
});
