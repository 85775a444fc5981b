import { describe, expect, test } from "vitest";

import type { NewCampaign } from "$lib/api/campaigns";
import { again, bodyOf, queryOf } from "$lib/campaign_form";

const query = (values: Record<string, string | null>): URLSearchParams =>
    new URLSearchParams(Object.entries(values).filter((one): one is [string, string] => one[1] !== null));

describe("the builder's address", () => {
    test("means nothing until machines, a model and a plan are chosen", () => {
        expect(bodyOf(query({ models: "m" }), [])).toBeNull();
        expect(bodyOf(query({ plans: "quick" }), [])).toBeNull();
        expect(bodyOf(query({ models: "m", plans: "quick", on: "machines" }), [])).toBeNull();
    });
    test("names all machines unless some are chosen", () => {
        expect(bodyOf(query({ models: "m,n", plans: "quick" }), [])).toEqual({
            models: ["m", "n"],
            plans: [{ name: "quick" }],
            targets: { all: true },
            repeat: 1,
            on_offline: "wait",
            pull_missing: false,
        });
        const some = query({ models: "m", plans: "quick", on: "labels", labels: "gpu" });
        expect(bodyOf(some, [])?.targets).toEqual({ labels: ["gpu"] });
    });
    test("holds a campaign whole: there and back it is the same", () => {
        const campaign: NewCampaign = {
            name: "nightly",
            plans: [
                { name: "quick" },
                { name: "ours", version: 2 },
                { plan: { num_iterations: 5 }, label: "five" },
            ],
            metric: "first_token_ms",
            models: ["m"],
            targets: { agents: ["a", "b"] },
            repeat: 3,
            order: "random",
            on_offline: "skip",
            pull_missing: true,
            not_after: 1_800_000_000,
            quiet_hours: { from: "08:00", to: "18:00", time_zone: "Asia/Tokyo" },
            settle: { idle_for_s: 10, max_wait_s: 60 },
            baseline: { mode: "rolling", last: 14 },
        };
        const address = query(queryOf(campaign));
        const own = JSON.parse(address.get("own") ?? "[]") as NewCampaign["plans"];
        expect(bodyOf(address, own)).toEqual(campaign);
    });
    test("holds pinned results, and a machine that is waited for not at all", () => {
        const campaign: NewCampaign = {
            plans: [{ name: "quick" }],
            models: ["m"],
            targets: { all: true },
            repeat: 1,
            on_offline: "wait",
            pull_missing: false,
            settle: { idle_for_s: 0, max_wait_s: 0 },
            baseline: { mode: "pinned", results: ["j1", "j2"] },
        };
        expect(bodyOf(query(queryOf(campaign)), [])).toEqual(campaign);
    });
    test("does not take what is no hour and no number", () => {
        const body = bodyOf(query({ models: "m", plans: "p", quiet: "late", repeat: "99", after: "?" }), []);
        expect(body).toMatchObject({ repeat: 20 });
        expect(body).not.toHaveProperty("quiet_hours");
        expect(body).not.toHaveProperty("not_after");
    });
    test("another campaign like one that began measures the same on the same machines", () => {
        const plans = [
            { name: null, version: null, hash: "h", label: "made", plan: { num_iterations: 2 } },
            { name: "quick", version: 1, hash: "i", label: "quick", plan: {} },
        ];
        const address = again({
            name: null,
            plans,
            models: ["m"],
            agents: [{ id: "a", name: "alpha" }],
            repeat: 1,
            order: "model",
            on_offline: "wait",
            pull_missing: false,
            metric: "headline",
            quiet_hours: { from: "08:00", to: "18:00", time_zone: "Asia/Tokyo" },
            settle: { idle_for_s: 30, max_wait_s: 600 },
            baseline: { mode: "pinned", last: 7, results: [] },
        } as never);
        expect(address).toMatchObject({ on: "machines", machines: "a", plans: "quick", repeat: null });
        const how = { quiet: "08:00-18:00", idle: "30", settle: "600", baseline: "pinned", metric: null };
        expect(address).toMatchObject(how);
        expect(JSON.parse(address.own ?? "")).toEqual([{ plan: { num_iterations: 2 }, label: "made" }]);
    });
});
