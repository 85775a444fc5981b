import { expect, test } from "vitest";

import {
    bounds,
    direction,
    HEADLINE,
    interval,
    kindOfInterval,
    metric,
    METRICS,
    titled,
    verdict,
} from "./metrics";
import type { Summary } from "./metrics";

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
    expect(verdict(wait, ratio(22.04, 16, 30))).toBe("worse by a factor of 22");
});

test("no verdict where the interval holds one, or where there is none", () => {
    expect(verdict(metric("first_token_ms"), ratio(1.2, 0.9, 1.5))).toBe("no difference shown");
    expect(verdict(metric("first_token_ms"), ratio(1.2, null, null))).toBe("one value only");
});

test("an interval is two figures, or a dash", () => {
    expect(interval(metric("first_token_ms"), of(1.234, 5))).toBe("1.23 … 5");
    expect(interval(metric("first_token_ms"), null)).toBe("–");
});

const of = (ci_low: number, ci_high: number, mean = (ci_low + ci_high) / 2): Summary =>
    ({ ci_low, ci_high, mean }) as Summary;

test("an interval does not hold what the metric cannot be, and says which it is", () => {
    expect(interval(metric("first_token_ms"), of(-3.27, 78.7))).toBe("0 … 78.7");
    expect(interval(metric("queue_ms_max"), of(-0.55, 5.4))).toBe("0 … 5.4");
    expect(bounds(metric("queue_ms_max"), of(-0.5, 0.1, -0.2)).low).toBe(-0.2);
    expect(bounds(metric("cpu_usage_percent"), of(-4, 104))).toEqual({ low: 0, high: 100 });
    expect(bounds(metric("energy_net_joules"), of(-4, 104))).toEqual({ low: -4, high: 104 });
    expect(kindOfInterval(metric("first_token_ms"))).toContain("stays above zero");
    expect(kindOfInterval(metric("queue_ms_max"))).toContain("cut at zero");
    expect(kindOfInterval(metric("energy_net_joules"))).not.toContain("zero");
});
