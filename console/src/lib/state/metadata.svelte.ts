/** What rarely changes: presets and saved plans. */

import { get } from "$lib/api/client";

export interface NamedPlan {
    name: string;
    /** Shipped with the program; others were saved here. */
    builtin: boolean;
    plan_hash: string | null;
    /** The fields that it sets; the model is chosen when it is run. */
    plan: Record<string, unknown>;
    /** How many stored results have this plan. */
    results: number;
}

/** A plan that results have, named or not. */
export interface MeasuredPlan {
    plan_hash: string;
    name: string | null;
    results: number;
}

export const planLabel = (plan: MeasuredPlan): string =>
    `${plan.name ?? plan.plan_hash.slice(0, 8)} (${plan.results})`;

class Plans {
    /** Those that completed results have, the most measured first. */
    measured = $state.raw<MeasuredPlan[]>([]);
    list = $state.raw<NamedPlan[]>([]);
    problem = $state("");

    async load(): Promise<void> {
        try {
            [this.list, this.measured] = await Promise.all([
                get<NamedPlan[]>("/plans"),
                get<MeasuredPlan[]>("/results/plans"),
            ]);
            this.problem = "";
        } catch (error) {
            this.problem = error instanceof Error ? error.message : String(error);
        }
    }

    /** What people call the plan of this hash; nothing where it has no name. */
    nameOf(hash: string | null | undefined): string | undefined {
        return this.list.find((one) => one.plan_hash === hash && hash != null)?.name;
    }

    named(name: string): NamedPlan | undefined {
        return this.list.find((one) => one.name === name);
    }
}

export const plans = new Plans();
