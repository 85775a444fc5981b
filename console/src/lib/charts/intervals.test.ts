import { expect, test } from "vitest";

import { extent, linear, ticks } from "./intervals";

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
