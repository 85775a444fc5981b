/**
 * The live state of all machines, fed by `/events` and patched by key: a heartbeat of one machine touches one
 * entry. Events are gathered and applied once a frame.
 */

import { SvelteMap } from "svelte/reactivity";

import { get, serverAnswers } from "$lib/api/client";
import { follow } from "$lib/api/sse";
import type { CampaignEvent } from "$lib/api/campaigns";
import type { RolloutEvent } from "$lib/api/rollouts";
import type { Agent, JobEvent } from "$lib/api/types";

/** Samples kept for a sparkline, one per heartbeat. */
const HISTORY = 40;

export interface History {
    cpu: (number | null)[];
    gpu: (number | null)[];
}

// One for the page: comparing by the locale anew each time takes ten times as long.
const collator = new Intl.Collator();

/** A rollout or a campaign with what changed of it, or that somebody removed it. */
export interface News {
    rollout: RolloutEvent | { gone: string };
    campaign: CampaignEvent | { gone: string };
}
type Listeners = { [K in keyof News]: Set<(news: News[K]) => void> };

type Change = { agent: Agent } | { gone: string };

class Fleet {
    readonly agents = new SvelteMap<string, Agent>();
    readonly history = new SvelteMap<string, History>();
    /** What each machine runs now, by its id, as the last event of the job told. */
    readonly running = new SvelteMap<string, JobEvent>();
    /** The stream is open; what is shown is current. */
    live = $state(false);
    /** All machines have been received once. */
    known = $state(false);
    /** All machines by name; another list only when a name changed, not with each heartbeat. */
    names = $state.raw<{ id: string; name: string }[]>([]);
    /** Counts changes of the set of machines or of anything that lists are sorted by. */
    version = $state(0);

    #pending = new Map<string, Change>();
    #frame = 0;
    #stop: () => void = () => undefined;
    #jobListeners = new Set<(event: JobEvent) => void>();
    #listeners: Listeners = { rollout: new Set(), campaign: new Set() };

    /** Begin to follow; what was known is kept until the server's own list replaces it. */
    start(): void {
        this.#stop();
        this.#stop = follow("/events", {
            event: (name, data) => this.#take(name, data),
            open: serverAnswers,
            lost: () => {
                this.live = false;
            },
        });
    }

    stop(): void {
        this.#stop();
        cancelAnimationFrame(this.#frame);
        this.#frame = 0;
        this.#pending.clear();
        this.agents.clear();
        this.history.clear();
        this.running.clear();
        this.names = [];
        this.live = this.known = false;
    }

    /** Call `listener` for each event of a job; returns what ends it. */
    onJob(listener: (event: JobEvent) => void): () => void {
        this.#jobListeners.add(listener);
        return () => this.#jobListeners.delete(listener);
    }

    /** Call `listener` for each event of rollouts or of campaigns; returns what ends it. */
    on<K extends keyof News>(what: K, listener: (news: News[K]) => void): () => void {
        this.#listeners[what].add(listener);
        return () => this.#listeners[what].delete(listener);
    }

    /** Fetch one machine again, for instance after it was renamed. */
    async refresh(id: string): Promise<void> {
        this.#change(id, { agent: await get<Agent>(`/agents/${encodeURIComponent(id)}`) });
    }

    #take(name: string, data: unknown): void {
        if (name === "agent") {
            const agent = data as Agent;
            this.#change(agent.id, { agent });
        } else if (name === "agent_gone") {
            const { id } = data as { id: string };
            this.#change(id, { gone: id });
        } else if (name === "current") {
            // The list is complete: machines that were forgotten while the link was down go now.
            this.#apply();
            const present = new Set((data as { agents: string[] }).agents);
            for (const id of [...this.agents.keys()]) if (!present.has(id)) this.#forget(id);
            if (this.names.length !== this.agents.size) this.#name();
            this.live = this.known = true;
            this.version += 1;
        } else if (name === "job") {
            const event = data as JobEvent;
            this.#noteJob(event);
            for (const listener of this.#jobListeners) listener(event);
        } else if (name === "rollout") this.#tell("rollout", data as RolloutEvent);
        else if (name === "campaign") this.#tell("campaign", data as CampaignEvent);
        else if (name === "rollout_gone") this.#tell("rollout", { gone: (data as { id: string }).id });
        else if (name === "campaign_gone") this.#tell("campaign", { gone: (data as { id: string }).id });
    }

    #tell<K extends keyof News>(what: K, news: News[K]): void {
        for (const listener of this.#listeners[what]) listener(news);
    }

    #noteJob(event: JobEvent): void {
        if (event.state === "running") this.running.set(event.agent_id, event);
        // A queued one of the same machine does not end what runs.
        else if (this.running.get(event.agent_id)?.job_id === event.job_id)
            this.running.delete(event.agent_id);
    }

    #change(id: string, change: Change): void {
        this.#pending.set(id, change);
        if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#apply());
    }

    #apply(): void {
        this.#frame = 0;
        const before = this.agents.size;
        let renamed = false;
        for (const [id, change] of this.#pending) {
            if ("gone" in change) this.#forget(id);
            else {
                renamed ||= this.agents.get(id)?.name !== change.agent.name;
                this.#put(id, change.agent);
            }
        }
        if (this.#pending.size > 0) this.version += 1;
        this.#pending.clear();
        if (renamed || this.agents.size !== before) this.#name();
    }

    #name(): void {
        const named = [...this.agents.values()].map(({ id, name }) => ({ id, name }));
        this.names = named.sort((a, b) => collator.compare(a.name, b.name));
    }

    #put(id: string, agent: Agent): void {
        const before = this.agents.get(id);
        this.agents.set(id, agent);
        if (agent.heartbeat_at === null || agent.heartbeat_at === before?.heartbeat_at) return;
        // What ended while the link to the machine was down sent no event here.
        if ((agent.jobs?.open ?? 0) === 0) this.running.delete(id);
        this.#remember(id, agent);
    }

    #remember(id: string, agent: Agent): void {
        const { hardware } = agent;
        const busy = (hardware?.gpus ?? [])
            .map((gpu) => gpu.utilization_ratio ?? null)
            .filter((one) => one !== null);
        const history = this.history.get(id) ?? { cpu: [], gpu: [] };
        this.history.set(id, {
            cpu: [...history.cpu, hardware?.cpu_utilization_ratio ?? null].slice(-HISTORY),
            gpu: [...history.gpu, busy.length > 0 ? Math.max(...busy) : null].slice(-HISTORY),
        });
    }

    #forget(id: string): void {
        this.agents.delete(id);
        this.history.delete(id);
        this.running.delete(id);
    }
}

export const fleet = new Fleet();

export const online = (agent: Agent | undefined): boolean => agent?.presence === "online";
