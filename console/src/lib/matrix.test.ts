import { describe, expect, test } from "vitest";

import type { MatrixAgent, MatrixCell, ModelMatrix, TargetView } from "$lib/api/rollouts";
import {
    agentsFor,
    fitOf,
    gridOf,
    keyOf,
    listed,
    memoryFor,
    modelsFor,
    NOTHING,
    pairsOf,
    permissionFor,
    rolloutShare,
    targetView,
    toggled,
    usefulFor,
    withComing,
} from "$lib/matrix";

const GIB = 2 ** 30;
const allowed = { allowed: true, policy_key: null, remedy: null };
const forbidden = { allowed: false, policy_key: "policy.allow", remedy: 'allow = ["pull_model"]' };
const agent = (id: string, more: Partial<MatrixAgent> = {}): MatrixAgent => ({
    id,
    name: id,
    presence: "online",
    labels: [],
    allowed: {
        pull: allowed,
        create: allowed,
        copy: allowed,
        delete: allowed,
        load: allowed,
        unload: allowed,
    },
    free_bytes: 100 * GIB,
    vram_bytes: 24 * GIB,
    ram_bytes: 64 * GIB,
    ...more,
});
const cell = (id: string, more: Partial<MatrixCell> = {}): MatrixCell => ({
    agent_id: id,
    name: "m",
    digest: "d",
    size_bytes: GIB,
    quantization: "Q4_K_M",
    loaded: false,
    drift: false,
    last_seen: 1,
    ...more,
});
const rest = { capabilities: [], family: null, parameter_size: null, quantization: null, remote: false };
const matrix: ModelMatrix = {
    agents: [agent("beta"), agent("alpha", { labels: ["gpu"] }), agent("gone", { presence: "offline" })],
    models: [
        {
            ...rest,
            name: "small:1b",
            key: "small:1b",
            usual_digest: "d",
            drifted: false,
            digests: ["d"],
            cells: [cell("alpha", { loaded: true })],
            size_bytes: GIB,
            context_length: 8192,
        },
        {
            ...rest,
            name: "big:70b",
            key: "big:70b",
            usual_digest: "d",
            drifted: true,
            digests: ["d", "e"],
            cells: [cell("alpha"), cell("beta", { digest: "e", drift: true }), cell("gone")],
            size_bytes: 40 * GIB,
            context_length: null,
        },
    ],
};
const grid = gridOf(matrix);
const target = (state: TargetView["state"], more: Partial<TargetView> = {}): TargetView =>
    ({ agent_id: "alpha", state, completed_bytes: null, total_bytes: null, ...more }) as TargetView;

describe("the matrix", () => {
    test("finds a cell by model and machine", () => {
        expect(grid.at("small:1b", "alpha")?.loaded).toBe(true);
        expect(grid.at("small:1b", "beta")).toBeUndefined();
    });

    test("lists models by words, kind and order", () => {
        const names = (text: string, only: string, sort: "name" | "size" | "machines"): string[] =>
            modelsFor(grid.models, grid.agents.length, text, only, sort).map((one) => one.name);
        expect(names("", "", "name")).toEqual(["big:70b", "small:1b"]);
        expect(names("", "", "machines")).toEqual(["big:70b", "small:1b"]);
        expect(names("1B", "", "name")).toEqual(["small:1b"]);
        expect(names("", "drifted", "name")).toEqual(["big:70b"]);
        expect(names("", "missing", "name")).toEqual(["small:1b"]);
    });

    test("has a row for what comes just now, and one row for a name in another case", () => {
        const names = withComing(grid.models, ["new:7b", "Small:1B", "new:7b"]).map((one) => one.name);
        expect(names).toEqual(["small:1b", "big:70b", "new:7b"]);
    });

    test("lists machines that are online first, and those of a label alone", () => {
        expect(agentsFor(grid, "", "").map((one) => one.id)).toEqual(["alpha", "beta", "gone"]);
        expect(agentsFor(grid, "", "gpu").map((one) => one.id)).toEqual(["alpha"]);
    });
});

describe("what fits", () => {
    test("the estimate holds weights and the cache of the context", () => {
        expect(memoryFor(4.7 * GIB, 8192) / GIB).toBeCloseTo(6.1, 0);
        expect(memoryFor(4.7 * GIB, 131_072)).toBeGreaterThan(15 * GIB);
    });

    test("says disk, GPU, part on the CPU and too large", () => {
        const word = (size: number | null, one: MatrixAgent): string =>
            fitOf({ size_bytes: size, context_length: null }, one, 4096).word;
        expect(word(GIB, agent("a"))).toBe("fits");
        expect(word(GIB, agent("a", { free_bytes: GIB / 2 }))).toBe("disk full");
        expect(word(40 * GIB, agent("a"))).toBe("part on CPU");
        expect(word(90 * GIB, agent("a"))).toBe("too large");
        expect(word(GIB, agent("a", { vram_bytes: null }))).toBe("fits");
        expect(word(null, agent("a"))).toBe("");
        expect(word(GIB, agent("a", { vram_bytes: null, ram_bytes: null }))).toBe("");
    });
});

describe("a selection", () => {
    const selection = { ...NOTHING, agents: new Set(["alpha"]), cells: new Set([keyOf("big:70b", "beta")]) };
    const pairs = pairsOf(selection, grid.models, grid.agents);

    test("is the union of rows, columns and cells", () => {
        expect([...pairs]).toEqual([
            ["small:1b", ["alpha"]],
            ["big:70b", ["beta", "alpha"]],
        ]);
        expect(pairsOf(NOTHING, grid.models, grid.agents).size).toBe(0);
    });

    test("is narrowed to where an action does something", () => {
        expect([...usefulFor("unload", pairs, grid)]).toEqual([["small:1b", ["alpha"]]]);
        expect([...usefulFor("load", pairs, grid)]).toEqual([["big:70b", ["beta", "alpha"]]]);
        const absent = new Map([["small:1b", ["beta"]]]);
        expect(usefulFor("delete", absent, grid).size).toBe(0);
        expect(usefulFor("pull", absent, grid).size).toBe(1);
    });

    test("is turned as one: on unless all were on", () => {
        expect([...toggled(new Set(["a"]), ["a", "b"])]).toEqual(["a", "b"]);
        expect([...toggled(new Set(["a", "b"]), ["a", "b"])]).toEqual([]);
    });
});

describe("permissions", () => {
    const strict = agent("strict", {
        allowed: { ...(agent("x").allowed as object), pull: forbidden } as never,
    });

    test("an action that one owner allows can be asked for, and who forbids it is named", () => {
        const found = permissionFor("pull", [agent("a"), strict]);
        expect(found.some).toBe(true);
        expect(found.refusals).toEqual([
            { policyKey: "policy.allow", remedy: 'allow = ["pull_model"]', machines: ["strict"] },
        ]);
    });

    test("an action that every owner forbids cannot", () => {
        expect(permissionFor("pull", [strict]).some).toBe(false);
        expect(permissionFor("pull", [agent("old", { allowed: null })]).some).toBe(true);
    });
});

describe("progress", () => {
    test("a cell says what is under way, and nothing once it is done", () => {
        const view = (one: TargetView, endedAt = -Infinity) =>
            targetView({ rollout: "r", action: "pull", target: one, endedAt }, 10_000);
        expect(view(target("running", { completed_bytes: 45, total_bytes: 100 }))).toMatchObject({
            word: "pulling",
            detail: "45 %",
            share: 0.45,
        });
        expect(view(target("waiting"))?.word).toBe("waits");
        expect(view(target("refused"))).toMatchObject({ word: "refused", share: null });
        expect(view(target("done"))).toBeNull();
        // Until the machine's list comes, a cell does not fall back to "absent".
        expect(view(target("done"), 9_000)?.word).toBe("installed");
    });

    test("a rollout counts bytes where a pull has them, else machines", () => {
        const counts = {
            waiting: 1,
            starting: 0,
            running: 1,
            done: 2,
            failed: 0,
            refused: 0,
            cancelled: 0,
            skipped: 0,
        };
        const one = { action: "pull", counts, completed_bytes: null, total_bytes: null } as never;
        expect(rolloutShare(one)).toBe(0.5);
        expect(rolloutShare({ ...(one as object), completed_bytes: 10, total_bytes: 40 } as never)).toBe(
            0.25,
        );
    });

    test("long lists of names are cut", () => {
        expect(listed(["a", "b", "c", "d"])).toBe("a, b, c and 1 more");
    });
});
