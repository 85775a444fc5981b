/** Which model is on which machine, fetched again when machines say that their list changed. */

import { untrack } from "svelte";

import { get } from "$lib/api/client";
import type { ModelMatrix } from "$lib/api/rollouts";
import { gridOf, type Grid } from "$lib/matrix";
import { fleet } from "$lib/state/fleet.svelte";
import { rollouts } from "$lib/state/rollouts.svelte";

/** Changes within this time are fetched together. */
const GATHER_MS = 400;
/** Of the time, at most this share is spent on fetching: 50,000 cells take a while. */
const SHARE = 5;
/** Nobody is kept from a change for longer, however slow the server is at the moment. */
const MOST_MS = 5_000;

class Matrix {
    grid = $state.raw<Grid | null>(null);
    problem = $state("");
    #stamps = new Map<string, string>();
    #timer = 0;
    #took = 0;
    #fetching = false;
    #again = false;
    #seen = 0;

    /** Fetch now, and again on each change, until the returned function is called. */
    follow(): () => void {
        void this.load();
        const stop = $effect.root(() => {
            $effect(() => {
                void fleet.version;
                void rollouts.finished;
                untrack(() => this.#changed());
            });
        });
        return () => {
            stop();
            clearTimeout(this.#timer);
            this.#timer = 0;
        };
    }

    async load(): Promise<void> {
        if (this.#fetching) {
            this.#again = true;
            return;
        }
        this.#fetching = true;
        const began = performance.now();
        try {
            this.grid = gridOf(await get<ModelMatrix>("/models/matrix"));
            this.problem = "";
        } catch (error) {
            this.problem = error instanceof Error ? error.message : String(error);
        } finally {
            this.#fetching = false;
            this.#took = performance.now() - began;
        }
        if (this.#again) {
            this.#again = false;
            this.#soon();
        }
    }

    /** What a heartbeat says of a machine's list: how many models, and which are loaded. */
    #changed(): void {
        let changed = false;
        for (const agent of fleet.agents.values()) {
            const loaded = agent.running.map((one) => one.name).join(" ");
            const stamp = `${agent.presence} ${agent.session} ${agent.model_count} ${loaded}`;
            if (this.#stamps.get(agent.id) === stamp) continue;
            changed = true;
            this.#stamps.set(agent.id, stamp);
        }
        if (this.#seen !== rollouts.finished) {
            this.#seen = rollouts.finished;
            changed = true;
        }
        if (changed && this.grid !== null) this.#soon();
    }

    #soon(): void {
        // Not put off by the next change: on a large fleet one comes every half second.
        if (this.#timer !== 0) return;
        const wait = Math.min(Math.max(GATHER_MS, this.#took * SHARE), MOST_MS);
        this.#timer = window.setTimeout(() => {
            this.#timer = 0;
            void this.load();
        }, wait);
    }
}

export const matrix = new Matrix();
