/** The matrix of models and machines: what a cell shows, what fits where, what a selection can be used for. Pure. */

import type {
    MatrixAgent,
    MatrixCell,
    MatrixModel,
    ModelMatrix,
    RolloutAction,
    RolloutSummary,
    TargetState,
    TargetView,
} from "$lib/api/rollouts";

export type Tone = "good" | "warn" | "bad" | "quiet" | "accent";

/** One key for a model on a machine: Ollama takes names in any case, and none has a line break. */
export const keyOf = (model: string, agent: string): string => `${model.toLowerCase()}\n${agent}`;

/** A row: a model that machines have, or one that comes just now and that none has yet. */
export type Row = Pick<MatrixModel, "name" | "drifted" | "cells"> & {
    size_bytes: number | null;
    context_length: number | null;
};

/** A matrix with its cells by model and machine: 500 machines and 100 models are 50,000 of them. */
export interface Grid {
    models: Row[];
    agents: MatrixAgent[];
    at: (model: string, agent: string) => MatrixCell | undefined;
    agent: (id: string) => MatrixAgent | undefined;
    model: (name: string) => Row | undefined;
}

export function gridOf(matrix: ModelMatrix): Grid {
    const cells = new Map(
        matrix.models.map((one) => [one.name, new Map(one.cells.map((cell) => [cell.agent_id, cell]))]),
    );
    const agents = new Map(matrix.agents.map((one) => [one.id, one]));
    const models = new Map(matrix.models.map((one) => [one.name, one]));
    return {
        ...matrix,
        at: (model, agent) => cells.get(model)?.get(agent),
        agent: (id) => agents.get(id),
        model: (name) => models.get(name),
    };
}

/** The rows, with one for each name that comes just now. */
export function withComing(rows: Row[], names: string[]): Row[] {
    const known = new Set(rows.map((one) => one.name.toLowerCase()));
    const coming = [...new Set(names)].filter((name) => !known.has(name.toLowerCase()));
    const empty = { drifted: false, cells: [], size_bytes: null, context_length: null };
    return coming.length === 0 ? rows : [...rows, ...coming.map((name) => ({ ...empty, name }))];
}

export type ModelSort = "name" | "size" | "machines";

/** The models whose name has every word; `only` narrows them to those that drifted or are missing somewhere. */
export function modelsFor(rows: Row[], machines: number, text: string, only: string, sort: ModelSort): Row[] {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter(
        (one) =>
            words.every((word) => one.name.toLowerCase().includes(word)) &&
            (only === "" || (only === "drifted" ? one.drifted : one.cells.length < machines)),
    );
    const rank = (one: Row): number =>
        sort === "size" ? -(one.size_bytes ?? 0) : sort === "machines" ? -one.cells.length : 0;
    return found.sort((a, b) => rank(a) - rank(b) || (a.name < b.name ? -1 : 1));
}

/** The machines by name, those that are online first. */
export function agentsFor(grid: Grid, text: string, label: string): MatrixAgent[] {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const rank = (one: MatrixAgent): number => (one.presence === "online" ? 0 : 1);
    return grid.agents
        .filter(
            (one) =>
                words.every((word) => one.name.toLowerCase().includes(word)) &&
                (label === "" || one.labels.includes(label)),
        )
        .sort((a, b) => rank(a) - rank(b) || (a.name.toLowerCase() < b.name.toLowerCase() ? -1 : 1));
}

const GIB = 2 ** 30;
/** Ollama's runner and its compute buffers, whatever the model. */
const RUNNER_BYTES = GIB / 2;

/**
 * About how much memory a model takes while it is loaded, from the size of its file: its weights, and the cache of
 * keys and values for that context. A token's share of that cache grows with about the square root of the size
 * (Llama at four bits: 32 KiB with 1B, 128 KiB with 8B, 320 KiB with 70B). What Ollama really takes is known once
 * the model is loaded.
 */
export function memoryFor(sizeBytes: number, context: number): number {
    const perToken = 45 * 1024 * Math.sqrt(sizeBytes / (0.75 * GIB));
    return sizeBytes + context * perToken + RUNNER_BYTES;
}

export interface Fit {
    /** Empty where nothing is known. */
    word: "" | "fits" | "disk full" | "part on CPU" | "too large";
    tone: Tone;
    text: string;
}

const UNKNOWN: Fit = {
    word: "",
    tone: "quiet",
    text: "Its size, or the machine's free memory, is not known.",
};

/** Whether a model would fit a machine: the disk by its size, the memory by an estimate. */
export function fitOf(
    model: Pick<Row, "size_bytes" | "context_length"> | undefined,
    agent: MatrixAgent,
    context: number,
): Fit {
    const size = model?.size_bytes ?? null;
    if (size === null) return UNKNOWN;
    if (agent.free_bytes !== null && agent.free_bytes < size)
        return { word: "disk full", tone: "bad", text: "The disk that holds Ollama's models has less free." };
    // A model takes no longer context than it was made for.
    const need = memoryFor(size, Math.min(context, model?.context_length ?? context));
    const gpu = agent.vram_bytes ?? 0;
    if (gpu >= need) return { word: "fits", tone: "good", text: "By estimate it fits the GPUs' memory." };
    if (agent.ram_bytes === null && agent.vram_bytes === null) return UNKNOWN;
    if (gpu + (agent.ram_bytes ?? 0) < need)
        return { word: "too large", tone: "bad", text: "By estimate the machine has too little memory." };
    return gpu > 0
        ? { word: "part on CPU", tone: "warn", text: "By estimate a part of it runs on the CPU." }
        : { word: "fits", tone: "good", text: "By estimate it fits the system's memory; there is no GPU." };
}

export interface CellView {
    /** What one reads; empty where the detail says all. */
    word: string;
    tone: Tone;
    detail: string;
    /** Of what is under way, 0 to 1; null where there is nothing to draw. */
    share: number | null;
}

const DOING: Record<RolloutAction, string> = {
    pull: "pulling",
    create: "creating",
    copy: "copying",
    delete: "deleting",
    load: "loading",
    unload: "unloading",
};

export const isOpenTarget = (state: TargetState): boolean =>
    state === "waiting" || state === "starting" || state === "running";

/** Ended without what was asked for. */
export const isMissed = (state: TargetState): boolean =>
    state === "failed" || state === "refused" || state === "skipped" || state === "cancelled";

export function targetTone(state: TargetState): Tone {
    if (state === "done") return "good";
    if (state === "failed") return "bad";
    if (state === "refused" || state === "cancelled" || state === "skipped") return "warn";
    return state === "waiting" ? "quiet" : "accent";
}

/** How much of it is done, 0 to 1; null where no bytes are counted. */
export const shareOf = (one: {
    completed_bytes: number | null;
    total_bytes: number | null;
}): number | null =>
    one.total_bytes === null || one.total_bytes <= 0
        ? null
        : Math.min(1, Math.max(0, (one.completed_bytes ?? 0) / one.total_bytes));

/** What is done to a model on a machine now, or was tried last. */
export interface CellTarget {
    rollout: string;
    action: RolloutAction;
    target: TargetView;
    /** When this page saw it succeed, by `performance.now()`; before all time where it did not. */
    endedAt: number;
}

/** A machine lists its models within five seconds of a change. */
const LISTED_MS = 8_000;

/** What a cell says of a target; null once the machine's own list says it. `now` is `performance.now()`. */
export function targetView({ action, target, endedAt }: CellTarget, now: number): CellView | null {
    if (target.state === "failed" || target.state === "refused")
        return { word: target.state, tone: targetTone(target.state), detail: action, share: null };
    if (target.state === "done" && now - endedAt < LISTED_MS) {
        const word =
            action === "delete"
                ? "deleted"
                : action === "unload"
                  ? "unloaded"
                  : action === "load"
                    ? "loaded"
                    : "installed";
        return { word, tone: action === "delete" ? "quiet" : "good", detail: "just now", share: null };
    }
    if (!isOpenTarget(target.state)) return null;
    const share = shareOf(target);
    const word = target.state === "waiting" ? "waits" : DOING[action];
    return {
        word,
        tone: "accent",
        detail: target.state === "waiting" ? action : share === null ? "" : `${Math.floor(share * 100)} %`,
        share: target.state === "waiting" ? null : (share ?? 0),
    };
}

/** The rollout's whole, as one number: bytes where they are counted, else machines. */
export function rolloutShare(one: RolloutSummary): number {
    const counts = one.counts;
    const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
    const open = counts.waiting + counts.starting + counts.running;
    if (open === 0 || all === 0) return 1;
    const bytes = shareOf(one);
    return bytes !== null && one.action === "pull" ? bytes : (all - open) / all;
}

export interface Selection {
    models: ReadonlySet<string>;
    agents: ReadonlySet<string>;
    cells: ReadonlySet<string>;
}

export const NOTHING: Selection = { models: new Set(), agents: new Set(), cells: new Set() };

export const isSelected = (one: Selection, model: string, agent: string): boolean =>
    one.models.has(model) || one.agents.has(agent) || one.cells.has(keyOf(model, agent));

export const isEmpty = (one: Selection): boolean =>
    one.models.size === 0 && one.agents.size === 0 && one.cells.size === 0;

/** The set with these turned: all on, unless all were on before. */
export function toggled(before: ReadonlySet<string>, names: string[]): Set<string> {
    const after = new Set(before);
    const on = names.some((one) => !before.has(one));
    for (const name of names) {
        if (on) after.add(name);
        else after.delete(name);
    }
    return after;
}

/** The selected machines of each selected model, of those that are shown. */
export function pairsOf(
    one: Selection,
    models: readonly { name: string }[],
    agents: readonly { id: string }[],
): Map<string, string[]> {
    const pairs = new Map<string, string[]>();
    if (isEmpty(one)) return pairs;
    for (const model of models) {
        const found = agents
            .filter((agent) => isSelected(one, model.name, agent.id))
            .map((agent) => agent.id);
        if (found.length > 0) pairs.set(model.name, found);
    }
    return pairs;
}

/** Of these, the machines where an action does something: nothing is deleted where nothing is. */
export function usefulFor(
    action: RolloutAction,
    pairs: Map<string, string[]>,
    grid: Grid,
): Map<string, string[]> {
    const useful = (model: string, agent: string): boolean => {
        const cell = grid.at(model, agent);
        if (action === "pull" || action === "create") return true;
        if (cell === undefined) return false;
        return action === "load" ? !cell.loaded : action === "unload" ? cell.loaded : true;
    };
    return new Map(
        [...pairs]
            .map(([model, agents]): [string, string[]] => [model, agents.filter((one) => useful(model, one))])
            .filter(([, agents]) => agents.length > 0),
    );
}

export interface Refusal {
    policyKey: string;
    remedy: string;
    machines: string[];
}

/** Whether anybody's owner allows an action, and who forbids it by which line of the configuration. */
export function permissionFor(
    action: RolloutAction,
    agents: readonly (MatrixAgent | undefined)[],
): { some: boolean; refusals: Refusal[] } {
    const refusals = new Map<string, Refusal>();
    let some = agents.length === 0;
    for (const agent of agents) {
        const permission = agent?.allowed?.[action];
        // Of a machine that never said what its owner allows nothing is known: the agent decides.
        if (permission === undefined || permission.allowed) {
            some = true;
            continue;
        }
        const key = permission.policy_key ?? "policy";
        const remedy = permission.remedy ?? "";
        const known = refusals.get(`${key}\n${remedy}`);
        if (known === undefined)
            refusals.set(`${key}\n${remedy}`, { policyKey: key, remedy, machines: [agent?.name ?? ""] });
        else known.machines.push(agent?.name ?? "");
    }
    return { some, refusals: [...refusals.values()] };
}

/** Names for a list, the first few in full. */
export function listed(names: string[], most = 3): string {
    return names.length <= most
        ? names.join(", ")
        : `${names.slice(0, most).join(", ")} and ${names.length - most} more`;
}
