/** Rollouts as they run: those of the server's list, and the machines of each that runs or that somebody reads. */

import { SvelteMap } from "svelte/reactivity";

import type { RolloutEvent, RolloutSummary, RolloutView, TargetView } from "$lib/api/rollouts";
import { isOpenTarget, keyOf, type CellTarget } from "$lib/matrix";
import { fleet } from "$lib/state/fleet.svelte";
import { Followed } from "$lib/state/followed.svelte";

class Rollouts extends Followed<RolloutSummary, RolloutEvent, RolloutView> {
    /** By model and machine: what is under way there, or was tried last. */
    readonly cells = new SvelteMap<string, CellTarget>();
    /** Counts targets that are done: the list of what is installed is another then. */
    finished = $state(0);

    constructor() {
        super("/rollouts", 40);
    }

    /** Take events until the returned function is called; whoever follows loads what is there when the link is up. */
    follow(): () => void {
        const stop = fleet.on("rollout", (event) => this.take(event));
        return () => {
            stop();
            this.views.clear();
            this.cells.clear();
            this.list = null;
        };
    }

    override put(view: RolloutView): void {
        super.put(view);
        for (const target of view.targets) this.#cell(view, target);
    }

    override forget(id: string): void {
        super.forget(id);
        for (const [key, cell] of this.cells) if (cell.rollout === id) this.cells.delete(key);
    }

    protected override needed(found: RolloutSummary[]): string[] {
        return found.filter((one) => one.state === "running").map((one) => one.id);
    }

    protected override unread(event: RolloutEvent): void {
        // Begun elsewhere, or before this page knew of it: its other machines are not in the event.
        if (event.state === "running") void this.open(event.id).catch(() => undefined);
    }

    protected override merge(view: RolloutView, event: RolloutEvent): RolloutView {
        const changed = new Map(event.targets.map((one) => [one.agent_id, one]));
        for (const target of event.targets) this.#cell(event, target);
        return { ...view, ...event, targets: view.targets.map((one) => changed.get(one.agent_id) ?? one) };
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
