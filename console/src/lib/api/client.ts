/** The server's REST interface. Paths are relative to the page, so that it works under any path of a site. */

export const base = new URL("api/v1", document.baseURI).href;
export const part = encodeURIComponent;
export const UNREACHABLE = "The server does not answer.";

interface ErrorBody {
    kind?: string;
    message?: string;
    retryable?: boolean;
    retry_after_ms?: number;
}

/** An error as the server words it: `{"error": {kind, message, retryable, retry_after_ms}}`. */
export class ApiError extends Error {
    readonly kind: string | undefined;
    readonly retryable: boolean;
    readonly retryAfterMs: number;

    constructor(
        /** The HTTP status; 0 when there was no answer. */
        readonly status: number,
        body?: ErrorBody,
    ) {
        super(body?.message ?? (status === 0 ? UNREACHABLE : `The server answered ${status}.`));
        this.kind = body?.kind;
        this.retryable = body?.retryable ?? (status === 0 || status >= 500);
        this.retryAfterMs = body?.retry_after_ms ?? 0;
    }
}

let onSignedOut: () => void = () => undefined;

/** Register what happens when an answer says that nobody is signed in. */
export function whenSignedOut(handler: () => void): void {
    onSignedOut = handler;
}

export function signedOut(): void {
    onSignedOut();
}

/** The error of an answer that is not ok. */
export async function errorOf(response: Response): Promise<ApiError> {
    const body = (await response.json().catch(() => null)) as { error?: ErrorBody } | null; // null: a proxy's own page
    const error = new ApiError(response.status, body?.error);
    if (response.status === 401 && error.kind === "not_signed_in") onSignedOut();
    return error;
}

export interface Ask {
    body?: unknown;
    signal?: AbortSignal;
    /** Throw at once where no server answers, instead of asking again. */
    once?: boolean;
}

async function send(method: string, path: string, { body, signal }: Ask = {}): Promise<Response> {
    let response: Response;
    try {
        response = await fetch(base + path, {
            method,
            credentials: "same-origin",
            ...(signal === undefined ? {} : { signal }),
            ...(body === undefined
                ? {}
                : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
        });
    } catch (error) {
        if (error instanceof DOMException && error.name === "AbortError") throw error;
        throw new ApiError(0);
    }
    if (!response.ok) throw await errorOf(response);
    return response;
}

async function json<T>(response: Response): Promise<T> {
    const text = await response.text();
    return (text === "" ? null : JSON.parse(text)) as T;
}

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 10_000;
const waiting = new Set<() => void>();

/** The server answers: what waits for it is asked again now. */
export function serverAnswers(): void {
    for (const again of waiting) again();
}

/** Nobody answered, or a proxy said so in words of its own: the server's errors have a kind. */
const unanswered = (error: unknown): boolean =>
    error instanceof ApiError &&
    (error.status === 0 || (error.kind === undefined && [502, 503, 504].includes(error.status)));

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
    await new Promise<void>((resolve) => {
        // A hidden tab asks nothing: it goes on when the stream of events is open again.
        const timer = setTimeout(() => !document.hidden && end(), ms);
        const end = (): void => {
            clearTimeout(timer);
            waiting.delete(end);
            signal?.removeEventListener("abort", end);
            resolve();
        };
        waiting.add(end);
        signal?.addEventListener("abort", end);
    });
    signal?.throwIfAborted();
}

/**
 * Ask for something. While no server answers it is asked again: the page says that at its top, and an error in
 * a view would stay there after the server is back.
 */
export async function get<T>(path: string, ask: Ask = {}): Promise<T> {
    for (let wait = FIRST_WAIT_MS; ; wait = Math.min(wait * 2, LONGEST_WAIT_MS)) {
        try {
            return await json<T>(await send("GET", path, ask));
        } catch (error) {
            if (ask.once === true || !unanswered(error)) throw error;
        }
        await pause(wait, ask.signal);
    }
}
export const post = async <T>(path: string, body: unknown = {}, ask: Ask = {}): Promise<T> =>
    json<T>(await send("POST", path, { ...ask, body }));
export const put = async <T>(path: string, body: unknown, ask: Ask = {}): Promise<T> =>
    json<T>(await send("PUT", path, { ...ask, body }));
export const remove = async (path: string): Promise<void> => void (await send("DELETE", path));

/** A query string of what is set; `?` included. */
export function query(values: Record<string, string | number | boolean | null | undefined>): string {
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(values))
        if (value !== null && value !== undefined && value !== "") search.set(key, String(value));
    const text = search.toString();
    return text === "" ? "" : `?${text}`;
}
