/**
 * Conversations of the playground. They live outside the view, so that going elsewhere, a lost connection or a
 * machine that dies destroys no text.
 */

import { ApiError, base, errorOf, part, UNREACHABLE } from "$lib/api/client";
import { EventParser } from "$lib/api/sse";

export const MOST_COLUMNS = 4;

export interface Message {
    role: "user" | "assistant";
    content: string;
    thinking: string;
    /** Base64, without a data URL's beginning. */
    images: string[];
    /** How the answer ended; empty while it comes. */
    ended: string;
    /** What went wrong; the text that came stays. */
    error: string;
    figures: Figures | null;
}

export interface Figures {
    /** Milliseconds to the first text, by the agent's clock beside Ollama. */
    ttftMs: number | null;
    tokens: number | null;
    tokensPerSecond: number | null;
    /** While it runs: lines with text a second, by the agent's clock. */
    live: number | null;
    loadMs: number | null;
}

interface Chunk {
    message?: { content?: string; thinking?: string };
    done?: boolean;
    done_reason?: string;
    eval_count?: number;
    eval_duration?: number;
    load_duration?: number;
    error?: string;
}

export interface Options {
    system: string;
    temperature: string;
    num_predict: string;
    num_ctx: string;
    seed: string;
    think: "" | "true" | "false";
}

export class Column {
    agent = $state("");
    model = $state("");
    messages = $state<Message[]>([]);
    running = $state(false);
    #over: AbortController | null = null;

    constructor(agent = "", model = "") {
        this.agent = agent;
        this.model = model;
    }

    /** The request as Ollama takes it: what is asked now, and what was said before. */
    body(options: Options): Record<string, unknown> {
        const set = (["temperature", "num_predict", "num_ctx", "seed"] as const).filter(
            (key) => options[key] !== "",
        );
        const past = this.messages.filter((one) => one.role === "user" || one.content !== "");
        return {
            model: this.model,
            messages: [
                ...(options.system === "" ? [] : [{ role: "system", content: options.system }]),
                ...past.map(({ role, content, images }) => ({
                    role,
                    content,
                    ...(images.length > 0 ? { images } : {}),
                })),
            ],
            ...(options.think === "" ? {} : { think: options.think === "true" }),
            ...(set.length > 0
                ? { options: Object.fromEntries(set.map((key) => [key, Number(options[key])])) }
                : {}),
        };
    }

    async send(text: string, images: string[], options: Options): Promise<void> {
        if (this.running || this.agent === "" || this.model === "") return;
        this.messages.push({
            role: "user",
            content: text,
            thinking: "",
            images,
            ended: "",
            error: "",
            figures: null,
        });
        const body = this.body(options);
        this.messages.push({
            role: "assistant",
            content: "",
            thinking: "",
            images: [],
            ended: "",
            error: "",
            figures: { ttftMs: null, tokens: null, tokensPerSecond: null, live: null, loadMs: null },
        });
        const answer = this.messages.at(-1);
        if (answer === undefined) return;
        this.running = true;
        const over = new AbortController();
        this.#over = over;
        try {
            await stream(`/agents/${part(this.agent)}/commands/chat`, body, over.signal, answer);
        } catch (error) {
            if (over.signal.aborted) answer.ended = "stopped";
            else answer.error = error instanceof ApiError ? error.message : UNREACHABLE;
        } finally {
            if (answer.ended === "" && answer.error === "") answer.error = "The answer broke off.";
            this.running = false;
            this.#over = null;
        }
    }

    stop(): void {
        this.#over?.abort();
    }

    clear(): void {
        this.stop();
        this.messages = [];
    }
}

/** Lines with text in the last two seconds give the live rate. */
const WINDOW_US = 2_000_000;

async function stream(path: string, body: unknown, signal: AbortSignal, answer: Message): Promise<void> {
    const response = await fetch(base + path, {
        method: "POST",
        credentials: "same-origin",
        headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
        body: JSON.stringify(body),
        signal,
    });
    if (!response.ok) throw await errorOf(response);
    if (response.body === null) throw new ApiError(0);
    const reader = response.body
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
        .getReader();
    const parser = new EventParser();
    const arrivals: number[] = [];
    // Text is gathered and shown once a frame: a token must not cost a layout.
    const waiting = { content: "", thinking: "", rate: null as number | null };
    let frame = 0;
    const show = (): void => {
        frame = 0;
        answer.content += waiting.content;
        answer.thinking += waiting.thinking;
        if (answer.figures !== null) answer.figures.live = waiting.rate;
        waiting.content = waiting.thinking = "";
    };
    try {
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            for (const event of parser.push(value)) {
                if (event.name === "error")
                    throw new ApiError(200, (event.data as { error: { message: string } }).error);
                const item = event.data as { t_us: number; chunk?: Chunk; final?: Chunk };
                const chunk = item.chunk ?? item.final ?? {};
                const text = (chunk.message?.content ?? "") + (chunk.message?.thinking ?? "");
                if (text !== "") {
                    if (answer.figures !== null) answer.figures.ttftMs ??= item.t_us / 1000;
                    arrivals.push(item.t_us);
                    while ((arrivals[0] ?? 0) < item.t_us - WINDOW_US) arrivals.shift();
                    const span = item.t_us - (arrivals[0] ?? item.t_us);
                    waiting.rate = span > 200_000 ? ((arrivals.length - 1) * 1e6) / span : null;
                    waiting.content += chunk.message?.content ?? "";
                    waiting.thinking += chunk.message?.thinking ?? "";
                    if (frame === 0) frame = requestAnimationFrame(show);
                }
                if (event.name === "final") {
                    show();
                    finish(answer, chunk);
                }
            }
        }
    } finally {
        cancelAnimationFrame(frame);
        show();
    }
}

function finish(answer: Message, last: Chunk): void {
    answer.ended = last.done_reason ?? "stop";
    if (answer.figures === null) return;
    answer.figures.live = null;
    answer.figures.tokens = last.eval_count ?? null;
    answer.figures.loadMs = last.load_duration === undefined ? null : last.load_duration / 1e6;
    answer.figures.tokensPerSecond =
        last.eval_count !== undefined && last.eval_duration !== undefined && last.eval_duration > 0
            ? (last.eval_count / last.eval_duration) * 1e9
            : null;
}

class Playground {
    columns = $state<Column[]>([new Column()]);
    draft = $state("");
    images = $state<{ name: string; data: string }[]>([]);
    options = $state<Options>({
        system: "",
        temperature: "",
        num_predict: "",
        num_ctx: "",
        seed: "",
        think: "",
    });

    get running(): boolean {
        return this.columns.some((one) => one.running);
    }

    send(): void {
        const text = this.draft.trim();
        if (text === "" || this.running) return;
        const images = this.images.map((one) => one.data);
        this.draft = "";
        this.images = [];
        for (const column of this.columns) void column.send(text, images, this.options);
    }

    stop(): void {
        for (const column of this.columns) column.stop();
    }

    add(): void {
        if (this.columns.length < MOST_COLUMNS)
            this.columns.push(new Column(this.columns.at(-1)?.agent ?? ""));
    }

    remove(column: Column): void {
        column.stop();
        this.columns = this.columns.filter((one) => one !== column);
    }
}

export const playground = new Playground();
