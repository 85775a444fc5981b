/** What a view asks for and shows: the answer, or why there is none. A later question drops the one before it. */

import { get } from "$lib/api/client";

export class Loaded<T> {
    value = $state.raw<T | null>(null);
    problem = $state("");
    #over: AbortController | null = null;

    /** Ask; what is shown stays until the answer is there. */
    async load(path: string): Promise<void> {
        this.#over?.abort();
        const over = (this.#over = new AbortController());
        try {
            this.value = await get<T>(path, { signal: over.signal });
            this.problem = "";
        } catch (error) {
            if (!over.signal.aborted) this.problem = error instanceof Error ? error.message : String(error);
        }
    }

    stop(): void {
        this.#over?.abort();
    }
}
