import { describe, expect, test } from "vitest";

import { modelsFrom, modelsText, parametersFrom } from "$lib/rollouts";

describe("parameters", () => {
    test("are numbers, words and lists, as a Modelfile has them", () => {
        const text = 'temperature 0.2\nstop "<|end|>"\nstop user:\n\nnum_ctx 8192\nuse_mmap true\nbare';
        expect(parametersFrom(text)).toEqual({
            temperature: 0.2,
            stop: ["<|end|>", "user:"],
            num_ctx: 8192,
            use_mmap: true,
        });
    });

    test("that are none are left out", () => expect(parametersFrom(" \n ")).toBeNull());
});

describe("a set's models", () => {
    test("stand one on a line, with a digest where one is wanted", () => {
        const models = [{ name: "a:1b" }, { name: "b:2b", digest: "d" }];
        expect(modelsFrom(" a:1b \n\nb:2b   d\n")).toEqual(models);
        expect(modelsFrom(modelsText(models))).toEqual(models);
    });
});
