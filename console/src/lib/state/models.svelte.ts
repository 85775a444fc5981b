/** The installed models of machines, fetched when a form first needs them and again when a machine's list changed. */

import { SvelteMap } from "svelte/reactivity";

import { get, part } from "$lib/api/client";
import type { InstalledModel } from "$lib/api/types";
import { fleet } from "$lib/state/fleet.svelte";

const lists = new SvelteMap<string, InstalledModel[]>();
const asked = new Map<string, string>();

/** The models of a machine as known now; fetches them when they are not, or may have changed. */
export function modelsOf(agent: string): InstalledModel[] {
    const known = fleet.agents.get(agent);
    const stamp = `${known?.session ?? ""}/${known?.model_count ?? ""}`;
    if (agent !== "" && known !== undefined && asked.get(agent) !== stamp) {
        asked.set(agent, stamp);
        get<InstalledModel[]>(`/agents/${part(agent)}/models`).then(
            (found) => lists.set(agent, found),
            () => asked.delete(agent),
        );
    }
    return lists.get(agent) ?? [];
}

/** Whether a model answers prompts, as far as Ollama says: one that only embeds does not. */
export const completes = (capabilities: readonly string[] | null | undefined): boolean =>
    capabilities == null || capabilities.length === 0 || capabilities.includes("completion");
