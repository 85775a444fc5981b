/** What lists show of a machine, how they are sorted, and what needs attention. Pure. */

import type { Agent } from "$lib/api/types";

export type SortKey = "name" | "state" | "gpu" | "vram" | "temperature" | "power" | "cpu" | "models";

export interface GpuFigures {
    count: number;
    /** What they are: equal ones counted. */
    names: string;
    /** The busiest one's share, 0 to 1. */
    busy: number | null;
    used: number | null;
    total: number | null;
    /** The hottest. */
    celsius: number | null;
    /** All together. */
    watts: number | null;
}

const known = (values: (number | null | undefined)[]): number[] =>
    values.filter((one): one is number => typeof one === "number");
const most = (values: number[]): number | null => (values.length > 0 ? Math.max(...values) : null);
const sum = (values: number[]): number | null =>
    values.length > 0 ? values.reduce((a, b) => a + b, 0) : null;

/** The figures of a machine's GPUs, from its last heartbeat. */
export function gpuFigures(agent: Agent): GpuFigures {
    const gpus = agent.hardware?.gpus ?? [];
    const titles = agent.gpus;
    return {
        count: Math.max(gpus.length, titles.length),
        names: counted(titles.map((one) => one.name)),
        busy: most(known(gpus.map((one) => one.utilization_ratio))),
        used: sum(known(gpus.map((one) => one.memory_used_bytes))),
        total: sum(known(titles.map((one) => one.memory_total_bytes))),
        celsius: most(known(gpus.map((one) => one.temperature_celsius))),
        watts: sum(known(gpus.map((one) => one.power_watts))),
    };
}

/** Names with how often each is there: "2 × RTX 3090, GTX 1660". */
export function counted(names: string[]): string {
    const counts = new Map<string, number>();
    for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
    return [...counts].map(([name, times]) => (times > 1 ? `${times} × ${name}` : name)).join(", ");
}

/** The share of memory in use that models live in: the GPUs', else, on a machine without one, the system's. */
export function memoryShare(agent: Agent): number | null {
    const gpu = gpuFigures(agent);
    if (gpu.count > 0)
        return gpu.total !== null && gpu.used !== null && gpu.total > 0 ? gpu.used / gpu.total : null;
    const used = agent.hardware?.memory_used_bytes ?? null;
    const free = agent.hardware?.memory_available_bytes ?? null;
    return used !== null && free !== null && used + free > 0 ? used / (used + free) : null;
}

export interface MemoryPart {
    label: string;
    share: number;
    bytes: number;
}

/** Who takes that memory: each loaded model, as Ollama estimates it, and the rest that is in use. */
export function memoryParts(agent: Agent): MemoryPart[] {
    const gpu = gpuFigures(agent);
    const hardware = agent.hardware;
    const used = gpu.count > 0 ? gpu.used : (hardware?.memory_used_bytes ?? null);
    const total =
        gpu.count > 0 ? gpu.total : used === null ? null : used + (hardware?.memory_available_bytes ?? 0);
    if (used === null || total === null || total <= 0) return [];
    const models = agent.running
        .map((one) => ({
            label: one.name,
            bytes: gpu.count > 0 ? one.size_vram_bytes : one.size_bytes - one.size_vram_bytes,
        }))
        .filter((one) => one.bytes > 0);
    // An estimate may be more than what the driver counts: the models then share what is used.
    const estimated = models.reduce((all, one) => all + one.bytes, 0);
    const scale = estimated > used ? used / estimated : 1;
    const parts = models.map((one) => ({ label: one.label, bytes: one.bytes * scale }));
    const rest = used - Math.min(used, estimated);
    return [...parts, { label: "other", bytes: rest }]
        .filter((one) => one.bytes > 0)
        .map((one) => ({ ...one, share: one.bytes / total }));
}

export interface Alert {
    tone: "bad" | "warn";
    word: string;
    text: string;
}

const HOT_CELSIUS = 90;

/** What an operator should look at on this machine. */
export function attention(agent: Agent): Alert[] {
    if (agent.presence !== "online")
        return [{ tone: "bad", word: "offline", text: "the agent is not connected" }];
    const found: Alert[] = [];
    if (agent.ollama !== null && agent.ollama.reachable === false)
        found.push({
            tone: "warn",
            word: "no Ollama",
            text: agent.ollama.error ?? "Ollama does not answer on this machine",
        });
    for (const gpu of agent.hardware?.gpus ?? []) {
        if (gpu.state === "lost" || gpu.state === "stalled" || gpu.state === "degraded")
            found.push({ tone: "warn", word: `GPU ${gpu.state}`, text: gpu.id });
    }
    const hottest = gpuFigures(agent).celsius;
    if (hottest !== null && hottest >= HOT_CELSIUS)
        found.push({ tone: "warn", word: "hot", text: `a GPU has ${hottest.toFixed(0)} °C` });
    return found;
}

export interface Query {
    text: string;
    state: string;
    /** Machines that have this label, of whichever origin; empty for all. */
    label: string;
    sort: SortKey;
    down: boolean;
}

const RANK: Record<SortKey, (agent: Agent) => number | string> = {
    name: (agent) => agent.name.toLowerCase(),
    state: (agent) => (agent.presence === "online" ? 0 : 1),
    gpu: (agent) => gpuFigures(agent).busy ?? -1,
    vram: (agent) => memoryShare(agent) ?? -1,
    temperature: (agent) => gpuFigures(agent).celsius ?? -1,
    power: (agent) => gpuFigures(agent).watts ?? -1,
    cpu: (agent) => agent.hardware?.cpu_utilization_ratio ?? -1,
    models: (agent) => agent.model_count ?? -1,
};

/** The machines that match, in order; equal ones by name. */
export function sortMachines(agents: Agent[], { text, state, label, sort, down }: Query): Agent[] {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = agents.filter(
        (agent) =>
            words.every((word) => haystack(agent).includes(word)) &&
            (label === "" || labelsOf(agent).includes(label)) &&
            (state === "" ||
                (state === "attention"
                    ? attention(agent).length > 0
                    : state === "busy"
                      ? (agent.jobs?.open ?? 0) > 0
                      : agent.presence === state)),
    );
    const rank = RANK[sort] ?? RANK.name;
    const keyed = matches.map((agent) => ({ agent, rank: rank(agent), name: agent.name.toLowerCase() }));
    const sign = down ? -1 : 1;
    keyed.sort((a, b) =>
        a.rank < b.rank ? -sign : a.rank > b.rank ? sign : a.name < b.name ? -1 : a.name > b.name ? 1 : 0,
    );
    return keyed.map((one) => one.agent);
}

const haystack = (agent: Agent): string =>
    [
        agent.name,
        agent.id,
        agent.ollama?.version ?? "",
        ...agent.loaded,
        ...agent.gpus.map((one) => one.name),
        ...labelsOf(agent),
    ]
        .join(" ")
        .toLowerCase();

/** A machine's labels of both origins, each once, in order. */
export const labelsOf = (agent: Agent): string[] =>
    agent.labels.length === 0 && agent.own_labels.length === 0
        ? NONE
        : [...new Set([...agent.labels, ...agent.own_labels])].sort();
const NONE: string[] = [];

export interface Group {
    /** Empty for the machines that have none. */
    label: string;
    machines: Agent[];
}

/** Machines by label, those without one last. One with several labels stands under each of them. */
export function groupByLabel(machines: Agent[]): Group[] {
    const groups = new Map<string, Agent[]>();
    for (const agent of machines) {
        const labels = labelsOf(agent);
        for (const label of labels.length > 0 ? labels : [""]) {
            const group = groups.get(label);
            if (group === undefined) groups.set(label, [agent]);
            else group.push(agent);
        }
    }
    return [...groups]
        .map(([label, found]) => ({ label, machines: found }))
        .sort((a, b) => (a.label === "" ? 1 : b.label === "" ? -1 : a.label < b.label ? -1 : 1));
}

const LABEL = /^[a-z0-9]([a-z0-9._:=/-]*[a-z0-9])?$/;
const MOST_CHARS = 63;
export const MOST_LABELS = 16;

/** What a person typed, as a label; null where it is none. The server has the last word. */
export function labelFrom(text: string): string | null {
    const label = text.trim().toLowerCase();
    return label.length <= MOST_CHARS && LABEL.test(label) ? label : null;
}
