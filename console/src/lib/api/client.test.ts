import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { ApiError, get, post, serverAnswers } from "./client";

const answer = (body: unknown, status = 200): Response => new Response(JSON.stringify(body), { status });
const nobody = (): Promise<Response> => Promise.reject(new TypeError("Failed to fetch"));
const fetched = vi.fn<() => Promise<Response>>();

beforeEach(() => {
    vi.useFakeTimers();
    vi.stubGlobal("fetch", fetched);
    fetched.mockReset();
});
afterEach(() => {
    vi.useRealTimers();
    vi.unstubAllGlobals();
});

test("what is asked while no server answers is answered when it is back", async () => {
    fetched
        .mockImplementationOnce(nobody)
        .mockResolvedValueOnce(new Response("<html>Bad gateway</html>", { status: 502 }))
        .mockResolvedValueOnce(answer({ n: 1 }));
    const asked = get("/thing");
    await vi.advanceTimersByTimeAsync(1_000); // by itself, should nobody say that the server is back
    expect(fetched).toHaveBeenCalledTimes(2);
    serverAnswers();
    await expect(asked).resolves.toEqual({ n: 1 });
});

test("an error of the server's own, and an action, are not repeated", async () => {
    fetched.mockResolvedValueOnce(answer({ error: { kind: "draining", message: "It stops." } }, 503));
    await expect(get("/thing")).rejects.toThrow("It stops.");
    fetched.mockImplementationOnce(nobody);
    await expect(post("/thing")).rejects.toBeInstanceOf(ApiError);
    fetched.mockImplementationOnce(nobody);
    await expect(get("/session", { once: true })).rejects.toThrow("does not answer");
    expect(fetched).toHaveBeenCalledTimes(3);
});

test("who goes elsewhere waits no longer", async () => {
    fetched.mockImplementation(nobody);
    const over = new AbortController();
    const asked = get("/thing", { signal: over.signal });
    const failed = expect(asked).rejects.toThrow();
    await vi.advanceTimersByTimeAsync(0);
    over.abort();
    await failed;
    await vi.advanceTimersByTimeAsync(60_000);
    expect(fetched).toHaveBeenCalledTimes(1);
});
