/** Server-sent events read with fetch: a refusal's reason is known, a dead link is noticed, and it reconnects. */

import { ApiError, base, errorOf, signedOut, UNREACHABLE } from "./client";

/** The server sends a comment at least every 15 s. */
const SILENT_MS = 45_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

export interface ServerEvent {
    name: string;
    data: unknown;
    id: string | null;
}

export interface Handlers {
    /** An event of the stream. */
    event(name: string, data: unknown): void;
    /** The stream is open; also after each interruption. */
    open?(): void;
    /** The stream broke; it is tried again. */
    lost?(error: Error): void;
    /** The server refuses for good; the stream is over. */
    refused?(error: ApiError): void;
    /** The server ended the stream. */
    ended?(): void;
}

/** Split text into events; what is incomplete stays in the parser. Pure. */
export class EventParser {
    #rest = "";

    push(text: string): ServerEvent[] {
        const blocks = (this.#rest + text).split("\n\n");
        this.#rest = blocks.pop() ?? "";
        return blocks.map(parseBlock).filter((one): one is ServerEvent => one !== null);
    }
}

function parseBlock(block: string): ServerEvent | null {
    let name: string | null = null;
    let data: unknown = null;
    let id: string | null = null;
    for (const line of block.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon <= 0) continue;
        const value = line.slice(colon + 2);
        if (line.startsWith("event")) name = value;
        else if (line.startsWith("data")) data = JSON.parse(value);
        else if (line.startsWith("id")) id = value;
    }
    return name === null ? null : { name, data, id };
}

/**
 * Follow a path until the returned function is called, the server says `end`, or it refuses for good.
 * Paused while the page is hidden: a hidden tab asks nothing.
 */
export function follow(path: string, handlers: Handlers): () => void {
    let current: AbortController | null = null;
    let timer = 0;
    let wait = FIRST_WAIT_MS;
    let lastId: string | null = null;
    let closed = false;

    async function open(): Promise<void> {
        const mine = new AbortController();
        current = mine;
        try {
            const response = await fetch(base + path, {
                headers: lastId === null ? {} : { "Last-Event-ID": lastId },
                signal: mine.signal,
                credentials: "same-origin",
                cache: "no-store",
            });
            if (!response.ok) throw await errorOf(response);
            if (current !== mine || response.body === null) return;
            wait = FIRST_WAIT_MS;
            handlers.open?.();
            await read(response.body, mine, take);
            throw new ApiError(0);
        } catch (error) {
            if (!closed && current === mine) failed(error);
        }
    }

    function take({ name, data, id }: ServerEvent): void {
        if (closed) return;
        if (id !== null) lastId = id;
        if (name === "end") {
            handlers.event(name, data);
            close();
            handlers.ended?.();
            return;
        }
        if (name === "error") throw new ApiError(200, (data as { error: { message: string } }).error);
        handlers.event(name, data);
    }

    function failed(error: unknown): void {
        const known = error instanceof ApiError ? error : null;
        if (known !== null && !known.retryable) {
            close();
            if (known.kind === "not_signed_in") signedOut();
            else handlers.refused?.(known);
            return;
        }
        handlers.lost?.(known ?? new Error(UNREACHABLE));
        timer = window.setTimeout(() => void open(), Math.max(wait, known?.retryAfterMs ?? 0));
        wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }

    function pause(): void {
        const before = current;
        current = null;
        window.clearTimeout(timer);
        before?.abort();
    }

    function visibility(): void {
        if (document.hidden) pause();
        else if (current === null) void open();
    }

    function close(): void {
        closed = true;
        document.removeEventListener("visibilitychange", visibility);
        pause();
    }

    document.addEventListener("visibilitychange", visibility);
    visibility();
    return close;
}

async function read(
    body: ReadableStream<Uint8Array>,
    over: AbortController,
    take: (event: ServerEvent) => void,
): Promise<void> {
    const reader = body
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
        .getReader();
    const parser = new EventParser();
    for (;;) {
        const watchdog = window.setTimeout(() => over.abort(), SILENT_MS);
        const { done, value } = await reader.read().finally(() => window.clearTimeout(watchdog));
        if (done) return;
        for (const event of parser.push(value)) take(event);
    }
}
