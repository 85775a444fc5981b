import { afterEach, expect, test, vi } from "vitest";

import * as format from "./format";
import { settings } from "./state/settings.svelte";

afterEach(() => {
    settings.bytes = "binary";
    settings.temperature = "celsius";
});

test("what is not known is a dash, and never a zero", () => {
    for (const show of [format.bytes, format.percent, format.watts, format.temperature, format.significant])
        for (const value of [null, undefined, NaN, Infinity]) expect(show(value)).toBe("–");
    expect(format.percent(0)).toBe("0 %");
});

test("bytes are in the unit that the person chose", () => {
    expect(format.bytes(24 * 2 ** 30)).toBe("24.0 GiB");
    expect(format.bytesOf(6 * 2 ** 30, 24 * 2 ** 30)).toBe("6.0 of 24.0 GiB");
    settings.bytes = "decimal";
    expect(format.bytes(24e9)).toBe("24.0 GB");
    expect(format.bytes(999)).toBe("999 B");
});

test("temperatures are in the unit that the person chose", () => {
    expect(format.temperature(52)).toBe("52 °C");
    settings.temperature = "fahrenheit";
    expect(format.temperature(100)).toBe("212 °F");
});

test("figures have three significant digits, and thousands in full", () => {
    expect([1234.5, 56.78, 0.012345, 0, -3.2751].map(format.significant)).toEqual([
        "1,235",
        "56.8",
        "0.0123",
        "0",
        "-3.28",
    ]);
});

test("times past and times that last are in one unit", () => {
    expect([5, 600, 7200, 400_000].map((past) => format.ago(0, past))).toEqual([
        "5 s ago",
        "10 min ago",
        "2 h ago",
        "5 days ago",
    ]);
    expect(format.ago(null, 5)).toBe("never");
    expect([5, 600, 7200, 400_000].map(format.lasts)).toEqual(["5 s", "10 min", "2.0 h", "5 days"]);
});

test("a time that no calendar has is a dash, and breaks no view", () => {
    for (const time of [8.7e12, 1e18, 1e300, -1e18, Infinity])
        expect([format.when(time), format.clockTime(time)]).toEqual([format.DASH, format.DASH]);
    expect(format.when(8.6e12)).not.toBe(format.DASH);
});

test("a stand-in is known by its version", () => {
    expect(format.isStandIn("0.9.0-standin")).toBe(true);
    expect(format.isStandIn("0.9.0")).toBe(false);
    expect(format.isStandIn(null)).toBe(false);
});

test("a thousand rows make no formatter: making one costs more than all its uses", () => {
    const made = [
        vi.spyOn(Intl, "NumberFormat"),
        vi.spyOn(Intl, "DateTimeFormat"),
        vi.spyOn(Number.prototype, "toLocaleString"),
        vi.spyOn(Date.prototype, "toLocaleString"),
    ];
    for (let row = 0; row < 1_000; row++) {
        for (const show of [format.integer, format.significant, format.when, format.clockTime, format.bytes])
            show(row * 1_234.5);
        format.count(row, "row");
    }
    for (const one of made) expect(one).not.toHaveBeenCalled();
    vi.restoreAllMocks();
});

test("a loaded model's time is counted down, and one that stays is not", () => {
    const now = Date.parse("2026-01-01T00:00:00Z") / 1000;
    expect(format.countdown("2026-01-01T00:04:05Z", now)).toBe("4:05 left");
    expect(format.countdown("2025-12-31T23:59:00Z", now)).toBe("0:00 left");
    expect(format.countdown("2026-01-01T05:00:00Z", now)).toBe("5 h left");
    expect(format.countdown("2318-01-01T00:00:00Z", now)).toBe("stays");
    expect(format.countdown(null, now)).toBe("");
});

test("free room on a disk that is not known is said to be so", () => {
    expect(format.freeDisk(null)).toBe("disk not known");
    expect(format.freeDisk(3 * 1024 ** 3)).toBe("3.0 GiB free");
});
