/** Campaigns as they run: those of the server's list, and the cells of each that somebody reads. */

import { get, query } from "$lib/api/client";
import type { CampaignEvent, CampaignSummary, CampaignView } from "$lib/api/campaigns";
import { merged } from "$lib/campaigns";
import { fleet } from "$lib/state/fleet.svelte";
import { Followed } from "$lib/state/followed.svelte";

/** What of a campaign matters to others: whether it runs, and what it found. */
const stampOf = (one: CampaignSummary | undefined): string => JSON.stringify([one?.state, one?.verdicts]);

class Campaigns extends Followed<CampaignSummary, CampaignEvent, CampaignView> {
    /** There are older ones than those of the list. */
    more = $state(false);
    /** Counts changes of which campaigns run and of what was found: schedules and verdicts are others then. */
    ended = $state(0);

    constructor() {
        super("/campaigns", 50);
    }

    /** How many views take events: one is made while the one before still ends. */
    #followers = 0;

    /**
     * Take events until the returned function is called, for the list and for the cells of one campaign; whoever
     * follows loads what is there when the link is up.
     */
    follow(id: string): () => void {
        this.#followers += 1;
        for (const other of [...this.views.keys()]) if (other !== id) this.views.delete(other);
        const stop = fleet.on("campaign", (event) => {
            const before = "gone" in event ? undefined : this.list?.find((one) => one.id === event.id);
            this.take(event);
            if ("gone" in event || stampOf(event) !== stampOf(before)) this.ended += 1;
        });
        return () => {
            stop();
            this.#followers -= 1;
            queueMicrotask(() => {
                // What the next view has taken over is shown there.
                if (this.#followers > 0) return;
                this.views.clear();
                this.list = null;
            });
        };
    }

    override async load(): Promise<void> {
        await super.load();
        this.more = (this.list?.length ?? 0) >= this.listed;
    }

    /** Add those that began before the last of the list. */
    async older(): Promise<void> {
        const last = this.list?.at(-1);
        const after = { before: last?.created_at, before_id: last?.id };
        const found = await get<CampaignSummary[]>(`/campaigns${query({ limit: this.listed, ...after })}`);
        const known = new Set(this.list?.map((one) => one.id));
        this.list = [...(this.list ?? []), ...found.filter((one) => !known.has(one.id))];
        this.more = found.length >= this.listed;
    }

    protected override merge(view: CampaignView, event: CampaignEvent): CampaignView {
        return merged(view, event);
    }
}

export const campaigns = new Campaigns();
