/** Rollouts as they run: those of the server's list, and the machines of each that runs or that somebody reads. */

import { SvelteMap } from "svelte/reactivity";

import { get, part, query } from "$lib/api/client";
import type { RolloutSummary, RolloutView, TargetView } from "$lib/api/rollouts";
import { isOpenTarget, keyOf, type CellTarget } from "$lib/matrix";
import { fleet, type RolloutNews } from "$lib/state/fleet.svelte";

/** Of the list: older ones have their own address. */
const LISTED = 40;

class Rollouts {
    /** The newest first. */
    list = $state.raw<RolloutSummary[] | null>(null);
    readonly views = new SvelteMap<string, RolloutView>();
    /** By model and machine: what is under way there, or was tried last. */
    readonly cells = new SvelteMap<string, CellTarget>();
    problem = $state("");
    /** Counts targets that are done: the list of what is installed is another then. */
    finished = $state(0);
    #asked = new Set<string>();
    /** Changed while they were asked for: the answer may be older than the event. */
    #changed = new Set<string>();

    /** Take events until the returned function is called; whoever follows loads what is there when the link is up. */
    follow(): () => void {
        const stop = fleet.onRollout((event) => this.#take(event));
        return () => {
            stop();
            this.views.clear();
            this.cells.clear();
            this.list = null;
        };
    }

    /** Everything anew; also after the stream of events was interrupted. */
    async load(): Promise<void> {
        try {
            const found = await get<RolloutSummary[]>(`/rollouts${query({ limit: LISTED })}`);
            this.list = found;
            const open = found.filter((one) => one.state === "running").map((one) => one.id);
            await Promise.all([...new Set([...open, ...this.views.keys()])].map((id) => this.open(id, true)));
            this.problem = "";
        } catch (error) {
            this.problem = error instanceof Error ? error.message : String(error);
        }
    }

    /** Have the machines of a rollout, and keep them current. */
    async open(id: string, again = false): Promise<void> {
        if (this.#asked.has(id) || (this.views.has(id) && !again)) return;
        this.#asked.add(id);
        try {
            this.put(await get<RolloutView>(`/rollouts/${part(id)}`));
        } finally {
            this.#asked.delete(id);
        }
        if (this.#changed.delete(id)) await this.open(id, true);
    }

    /** Take a whole rollout, as an answer brings it. */
    put(view: RolloutView): void {
        this.views.set(view.id, view);
        this.#summarize(view);
        for (const target of view.targets) this.#cell(view, target);
    }

    forget(id: string): void {
        this.views.delete(id);
        this.list = (this.list ?? []).filter((one) => one.id !== id);
        for (const [key, cell] of this.cells) if (cell.rollout === id) this.cells.delete(key);
    }

    #take(event: RolloutNews): void {
        if ("gone" in event) {
            this.forget(event.gone);
            return;
        }
        const { targets, ...summary } = event;
        this.#summarize(summary);
        if (this.#asked.has(event.id)) this.#changed.add(event.id);
        const view = this.views.get(event.id);
        if (view === undefined) {
            // Begun elsewhere, or before this page knew of it: its other machines are not in the event.
            if (event.state === "running") void this.open(event.id).catch(() => undefined);
            return;
        }
        const changed = new Map(targets.map((one) => [one.agent_id, one]));
        const all = view.targets.map((one) => changed.get(one.agent_id) ?? one);
        this.views.set(event.id, { ...view, ...summary, targets: all });
        for (const target of targets) this.#cell(event, target);
    }

    #summarize(one: RolloutSummary): void {
        const list = this.list ?? [];
        const known = list.some((other) => other.id === one.id);
        this.list = known ? list.map((other) => (other.id === one.id ? one : other)) : [one, ...list];
    }

    #cell(one: RolloutSummary, target: TargetView): void {
        const key = keyOf(one.destination ?? one.model, target.agent_id);
        const before = this.cells.get(key);
        // An older rollout does not cover what a newer one does there.
        const older =
            before !== undefined && before.rollout !== one.id && this.#began(before.rollout) > one.created_at;
        if (older) return;
        const ended = target.state === "done" && before !== undefined && isOpenTarget(before.target.state);
        const endedAt = ended ? performance.now() : (before?.endedAt ?? -Infinity);
        this.cells.set(key, { rollout: one.id, action: one.action, target, endedAt });
        if (ended) this.finished += 1;
    }

    #began(id: string): number {
        return this.views.get(id)?.created_at ?? 0;
    }
}

export const rollouts = new Rollouts();
