import { expect, test } from "vitest";

import { extent, fitting, linear, logTicks, ticks } from "./intervals";

test("ticks are round and inside", () => {
    expect(ticks(0, 1)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
    expect(ticks(0, 97, 5)).toEqual([0, 20, 40, 60, 80]);
    expect(ticks(-3, 3, 3)).toEqual([-2, 0, 2]);
    expect(ticks(5, 5)).toEqual([5]);
});

test("a scale takes the domain to the range, and a point to its middle or start", () => {
    const scale = linear([10, 20], [0, 100]);
    expect([10, 15, 20].map(scale)).toEqual([0, 50, 100]);
    expect(linear([5, 5], [0, 100])(5)).toBe(0);
});

test("an extent holds what is known, with a margin, and begins at zero where told", () => {
    const [low, high] = extent([1, null, 3, undefined, NaN]);
    expect(low).toBeLessThan(1);
    expect(high).toBeGreaterThan(3);
    expect(extent([1, 3], { zero: true })[0]).toBe(0);
    expect(extent([-1, 3], { zero: true })[0]).toBeLessThan(-1);
    expect(extent([])).toEqual([0, 1]);
});

test("a margin does not go below what can be", () => {
    expect(extent([0.1, 40], { least: 0 })[0]).toBe(0);
    expect(extent([30, 40], { least: 0 })[0]).toBeGreaterThan(20);
    expect(extent([-2, 40], { least: 0 })[0]).toBe(-2);
});

test("a name that does not fit is cut with an ellipsis", () => {
    expect(fitting("llama3.2:1b, box", 200)).toBe("llama3.2:1b, box");
    expect(fitting("a-very-long-model-name:70b-instruct", 100)).toBe("a-very-long-m…");
});

test("ticks of a logarithmic scale are few and round", () => {
    expect(logTicks(0.4, 2.5)).toEqual([0.5, 1, 2]);
    expect(logTicks(0.03, 40)).toEqual([0.03, 0.1, 0.3, 1, 3, 10, 30]);
    expect(logTicks(0.03, 40, 4)).toEqual([0.1, 1, 10]);
    expect(logTicks(0.9, 1.1, 4)).toEqual([0.9, 1, 1.1]);
});
