import { expect, test } from "vitest";

import { href, parse } from "./router.svelte";

test("an address is a view, its parts and a query", () => {
    const { view, parts, query } = parse("#/jobs/agent%2F1/job?q=a%20b&sort=-created");
    expect([view, parts]).toEqual(["jobs", ["agent/1", "job"]]);
    expect([query.get("q"), query.get("sort")]).toEqual(["a b", "-created"]);
});

test("what is written is read back", () => {
    const address = href("machine", ["ä/ö ?#"], { tab: "models", none: null, empty: "", off: false, n: 0 });
    const { view, parts, query } = parse(address);
    expect([view, parts]).toEqual(["machine", ["ä/ö ?#"]]);
    expect([...query]).toEqual([
        ["tab", "models"],
        ["n", "0"],
    ]);
});

test("no address, and one that is no valid escape, are views too", () => {
    expect(parse("")).toMatchObject({ view: "", parts: [] });
    expect(parse("#/a/%zz")).toMatchObject({ view: "a", parts: ["%zz"] });
});
