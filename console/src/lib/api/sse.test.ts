import { expect, test } from "vitest";

import { EventParser } from "./sse";

test("events come whole, however they are cut", () => {
    const text = ': hello\n\nid: 7\nevent: agent\ndata: {"id":"a","note":"x: y"}\n\nevent: end\ndata: {}\n\n';
    for (const size of [1, 2, 7, text.length]) {
        const parser = new EventParser();
        const found = [];
        for (let at = 0; at < text.length; at += size) found.push(...parser.push(text.slice(at, at + size)));
        expect(found).toEqual([
            { name: "agent", data: { id: "a", note: "x: y" }, id: "7" },
            { name: "end", data: {}, id: null },
        ]);
    }
});

test("comments and what is not whole are no events", () => {
    expect(new EventParser().push(": still here\n\nevent: agent\ndata: {}\n")).toEqual([]);
});
