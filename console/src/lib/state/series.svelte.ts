/** A live series in columns for charts: the last `keep` values of each key, with their times. */

import { follow } from "$lib/api/sse";
import type { SeriesItem } from "$lib/api/types";

export class LiveSeries<S> {
    /** Unix seconds: the agent's own spacing, set to this page's clock. */
    times = $state.raw<number[]>([]);
    columns = $state.raw<Record<string, (number | null)[]>>({});
    /** The newest sample. */
    last = $state.raw<S | null>(null);
    /** Why there are no samples now; empty while they come. */
    problem = $state("");
    missed = $state(0);

    #pending: { arrived: number; taken: number; sample: S }[] = [];
    /** From the agent's clock to this page's: the least that was seen, which is what came with the least delay. */
    #offset = Infinity;
    #frame = 0;
    #stop: () => void;

    constructor(
        path: string,
        private readonly pick: (sample: S) => Record<string, number | null>,
        private readonly keep = 300,
    ) {
        this.#stop = follow(path, {
            event: (name, data) => {
                if (name !== "sample") return;
                const item = data as SeriesItem<S>;
                this.missed += item.missed;
                // What was measured before this page asked comes in one burst: the agent's times keep it apart.
                this.#pending.push({
                    arrived: Date.now() / 1000,
                    taken: item.t_us / 1e6,
                    sample: item.sample,
                });
                if (this.#frame === 0) this.#frame = requestAnimationFrame(() => this.#apply());
            },
            open: () => {
                this.problem = "";
                // Another stream may count from another moment.
                this.#offset = Infinity;
            },
            lost: (error) => (this.problem = `${error.message} It is tried again.`),
            refused: (error) => (this.problem = error.message),
        });
    }

    close(): void {
        this.#stop();
        cancelAnimationFrame(this.#frame);
    }

    #apply(): void {
        this.#frame = 0;
        const taken = this.#pending.splice(0);
        for (const one of taken) this.#offset = Math.min(this.#offset, one.arrived - one.taken);
        const rows = taken.map(({ sample }) => this.pick(sample));
        const keys = new Set([...Object.keys(this.columns), ...rows.flatMap((row) => Object.keys(row))]);
        const before = this.times.length;
        const columns: Record<string, (number | null)[]> = {};
        for (const key of keys) {
            const old = this.columns[key] ?? new Array<null>(before).fill(null);
            columns[key] = [...old, ...rows.map((row) => row[key] ?? null)].slice(-this.keep);
        }
        // Charts need growing times, also where the offset shrank meanwhile.
        let last = this.times.at(-1) ?? 0;
        const times = taken.map((one) => (last = Math.max(last + 1e-3, one.taken + this.#offset)));
        this.times = [...this.times, ...times].slice(-this.keep);
        this.columns = columns;
        this.last = taken.at(-1)?.sample ?? this.last;
    }
}
