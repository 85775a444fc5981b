import { expect, test } from "vitest";

import { direction, HEADLINE, interval, metric, METRICS, titled, verdict } from "./metrics";

const ratio = (value: number, low: number | null, high: number | null): Parameters<typeof verdict>[1] => ({
    ratio: value,
    ci_low: low,
    ci_high: high,
});

test("the registry is the agent's", () => {
    expect(METRICS.length).toBeGreaterThan(HEADLINE.length);
    expect(HEADLINE.length).toBeGreaterThan(3);
    expect(titled(metric("first_token_ms"))).toBe("Time to first token, ms");
});

test("a metric that this page does not know is shown by its name", () => {
    expect(metric("new_thing")).toMatchObject({ label: "new thing", better: null });
    expect(direction(metric("new_thing"))).toBe("");
});

test("a ratio is a verdict in the metric's direction", () => {
    const tokens = metric("decode_tps_corrected");
    const wait = metric("first_token_ms");
    expect(verdict(tokens, ratio(2, 1.9, 2.1))).toBe("better by 100 %");
    expect(verdict(tokens, ratio(0.5, 0.4, 0.6))).toBe("worse by 100 %");
    expect(verdict(wait, ratio(2, 1.9, 2.1))).toBe("worse by 100 %");
    expect(verdict(wait, ratio(0.96, 0.95, 0.97))).toBe("better by 4.2 %");
});

test("no verdict where the interval holds one, or where there is none", () => {
    expect(verdict(metric("first_token_ms"), ratio(1.2, 0.9, 1.5))).toBe("no difference shown");
    expect(verdict(metric("first_token_ms"), ratio(1.2, null, null))).toBe("one value only");
});

test("an interval is two figures, or a dash", () => {
    expect(interval({ ci_low: 1.234, ci_high: 5 } as Parameters<typeof interval>[0])).toBe("1.23 … 5");
    expect(interval(null)).toBe("–");
});
