import { expect, test } from "vitest";

import { metric } from "./metrics";
import { csv, keyOf, markdown, slotsFor, summaryOf, type Line } from "./results";

const summary = { n: 3, mean: 41, median: 40.123, cv: 0.1, min: 38, max: 42, ci_low: 38.5, ci_high: 42.5 };
const line = (more: object = {}): Line =>
    ({
        agent_id: "a",
        agent_name: "box",
        job_id: "j",
        model: "m:1b",
        model_digest: "d",
        quantization: "Q4",
        plan_name: "quick",
        plan_hash: "h",
        finished_at: 0,
        cells: [{ index: 0, label: "512:128", summary: { decode_tps_corrected: summary } }],
        ...more,
    }) as unknown as Line;
const decode = [metric("decode_tps_corrected")];

test("CSV has a row for each cell, with interval and n", () => {
    expect(csv([line()], decode).split("\r\n")).toEqual([
        "machine,model,digest,quantization,plan,cell,finished,decode_tps_corrected,decode_tps_corrected_ci_low,decode_tps_corrected_ci_high,decode_tps_corrected_n",
        "box,m:1b,d,Q4,quick,512:128,1970-01-01T00:00:00.000Z,40.123,38.5,42.5,3",
        "",
    ]);
});

test("no text of a machine is a formula, and none breaks a row", () => {
    const text = csv([line({ agent_name: '=cmd|"x",1', model: "two\nlines" })], decode);
    expect(text).toContain(`"'=cmd|""x"",1","two\nlines",`);
});

test("Markdown has medians with their intervals, and escapes the bar", () => {
    const rows = markdown([line({ agent_name: "a|b" })], decode).split("\n");
    expect(rows[2]).toBe("| a\\|b | m:1b | 512:128 | 40.12 (38.5 to 42.5) |");
});

test("the mean is named where the median lies outside its interval", () => {
    const skewed = { ...summary, median: 50, mean: 68.67, ci_low: 58, ci_high: 81 };
    const cells = [{ index: 0, label: "512:128", summary: { decode_tps_corrected: skewed } }];
    expect(markdown([line({ cells })], decode)).toContain("| 50 (58 to 81, mean 68.67) |");
});

test("a figure that was not measured is empty", () => {
    expect(csv([line()], [metric("first_token_ms")])).toContain("1970-01-01T00:00:00.000Z,,,,\r\n");
    expect(markdown([line()], [metric("first_token_ms")])).toContain("| – |");
    expect(summaryOf(line(), "first_token_ms")).toBeNull();
    expect(summaryOf(line(), "decode_tps_corrected")?.n).toBe(3);
    expect(keyOf(line())).toBe("a/j");
});

test("a line keeps its row, and others fill those whose lines went", () => {
    const before = slotsFor(new Map(), ["a", "b", "c"]);
    expect([...before]).toEqual([
        ["a", 0],
        ["b", 1],
        ["c", 2],
    ]);
    expect([...slotsFor(before, ["d", "c", "e", "f"])]).toEqual([
        ["d", 0],
        ["c", 2],
        ["e", 1],
        ["f", 3],
    ]);
});
