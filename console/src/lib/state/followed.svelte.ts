/** What goes on for a while on the server and has parts: the list, and the parts of each that somebody reads. */

import { SvelteMap } from "svelte/reactivity";

import { get, part, query } from "$lib/api/client";

interface Named {
    id: string;
    state: string;
    created_at: number;
}

/** Rollouts, or campaigns: `S` is one of the list, `E` one with the parts that changed, `V` one with all its parts. */
export abstract class Followed<S extends Named, E extends S, V extends S> {
    /** The newest first. */
    list = $state.raw<S[] | null>(null);
    readonly views = new SvelteMap<string, V>();
    problem = $state("");
    #asked = new Set<string>();
    /** Changed while they were asked for: the answer may be older than the event. */
    #changed = new Set<string>();
    /** What events said while the list was asked for; null while nobody asks. */
    #meanwhile: Map<string, S> | null = null;

    constructor(
        private readonly path: string,
        /** Of the list: older ones have their own address. */
        protected readonly listed: number,
    ) {}

    /** A view with what an event says. */
    protected abstract merge(view: V, event: E): V;
    /** Which views are loaded with the list, besides those that are open. */
    protected needed(_found: S[]): string[] {
        return [];
    }
    /** An event of one whose parts nobody has read yet. */
    protected unread(_event: E): void {}

    /** Everything anew; also after the stream of events was interrupted. */
    async load(): Promise<void> {
        const meanwhile = (this.#meanwhile = new Map<string, S>());
        try {
            const found = await get<S[]>(`${this.path}${query({ limit: this.listed })}`);
            this.list = found.map((one) => meanwhile.get(one.id) ?? one);
            const ids = new Set([...this.needed(found), ...this.views.keys()]);
            await Promise.all([...ids].map((id) => this.open(id, true)));
            this.problem = "";
        } catch (error) {
            this.problem = error instanceof Error ? error.message : String(error);
        } finally {
            if (this.#meanwhile === meanwhile) this.#meanwhile = null;
        }
    }

    /** Have the parts of one, and keep them current. */
    async open(id: string, again = false): Promise<void> {
        if (this.#asked.has(id) || (this.views.has(id) && !again)) return;
        this.#asked.add(id);
        try {
            this.put(await get<V>(`${this.path}/${part(id)}`));
        } finally {
            this.#asked.delete(id);
        }
        if (this.#changed.delete(id)) await this.open(id, true);
    }

    /** Take a whole one, as an answer brings it. */
    put(view: V): void {
        this.views.set(view.id, view);
        this.#summarize(view);
    }

    forget(id: string): void {
        this.views.delete(id);
        this.list = this.list?.filter((one) => one.id !== id) ?? null;
    }

    protected take(event: E | { gone: string }): void {
        if ("gone" in event) {
            this.forget(event.gone);
            return;
        }
        this.#summarize(event);
        if (this.#asked.has(event.id)) this.#changed.add(event.id);
        const view = this.views.get(event.id);
        if (view === undefined) this.unread(event);
        else this.views.set(event.id, this.merge(view, event));
    }

    #summarize(one: S): void {
        this.#meanwhile?.set(one.id, one);
        const list = this.list ?? [];
        const known = list.some((other) => other.id === one.id);
        this.list = known ? list.map((other) => (other.id === one.id ? one : other)) : [one, ...list];
    }
}
