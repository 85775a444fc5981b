import { expect, test } from "vitest";

import { describe as inWords, EMPTY, planOf, shapes, WrongForm } from "./plans";

test("shapes are prompt and answer tokens", () => {
    expect(shapes("512:128, 4096:256")).toEqual([
        { prompt_tokens: 512, completion_tokens: 128 },
        { prompt_tokens: 4096, completion_tokens: 256 },
    ]);
    expect(() => shapes("512")).toThrow(WrongForm);
});

test("an empty form is its preset for the model", () => {
    expect(planOf(EMPTY, { num_iterations: 5 }, "a:1b")).toEqual({ num_iterations: 5, model_name: "a:1b" });
});

test("a form changes what it names and nothing else", () => {
    const form = {
        ...EMPTY,
        shapes: "64:8",
        iterations: "2",
        contexts: "4096",
        coldLoad: true,
        cooldown: "0",
    };
    expect(planOf(form, { prompt_config: { prompt_tokens: 1 }, keep_alive: "5m" }, "a:1b")).toEqual({
        model_name: "a:1b",
        keep_alive: "5m",
        prompts: [{ prompt_tokens: 64, completion_tokens: 8 }],
        num_iterations: 2,
        num_ctx: 4096,
        cold_load: true,
        cooldown_s: 0,
    });
});

test("several values are a sweep", () => {
    const form = { ...EMPTY, contexts: "2048 4096", concurrency: "1,2", sweepPrompts: "128" };
    expect(planOf(form, {}, "a:1b").sweep).toEqual({
        num_ctx: [2048, 4096],
        concurrency: [1, 2],
        prompt_tokens: [128],
    });
});

test.each([
    ["iterations", "0"],
    ["iterations", "1.5"],
    ["concurrency", "two"],
    ["cooldown", "-1"],
    ["shapes", "512x128"],
] as const)("%s of %s is refused at its field", (field, text) => {
    try {
        planOf({ ...EMPTY, [field]: text }, {}, "a:1b");
        expect.unreachable();
    } catch (error) {
        expect(error).toBeInstanceOf(WrongForm);
        expect((error as WrongForm).field).toBe(field);
    }
});

test("a plan is said in words", () => {
    expect(
        inWords({
            prompts: [{ prompt_tokens: 512, completion_tokens: 128 }],
            num_iterations: 3,
            max_iterations: 10,
            sweep: { concurrency: [1, 2] },
            cold_load: true,
        }),
    ).toBe("512:128 · concurrency 1, 2 · 3 to 10 iterations · cold load");
});
