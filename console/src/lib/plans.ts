/** Plans of benchmarks: from a form to the protocol's plan, and in words. Pure. */

import type { Plan } from "$lib/api/types";

export interface PlanForm {
    preset: string;
    /** "512:128 4096:256": prompt and answer tokens. */
    shapes: string;
    iterations: string;
    mostIterations: string;
    concurrency: string;
    contexts: string;
    sweepPrompts: string;
    coldLoad: boolean;
    cooldown: string;
    threads: string;
}

export const EMPTY: PlanForm = {
    preset: "quick",
    shapes: "",
    iterations: "",
    mostIterations: "",
    concurrency: "",
    contexts: "",
    sweepPrompts: "",
    coldLoad: false,
    cooldown: "",
    threads: "",
};

export class WrongForm extends Error {
    constructor(
        readonly field: keyof PlanForm,
        message: string,
    ) {
        super(message);
    }
}

type Fields = Record<string, unknown>;

function numbers(text: string, field: keyof PlanForm, what: string): number[] {
    const found = text
        .split(/[\s,]+/)
        .filter(Boolean)
        .map(Number);
    if (found.some((one) => !Number.isInteger(one) || one < 1))
        throw new WrongForm(field, `${what}: whole numbers above zero, separated by commas.`);
    return found;
}

/** The prompts of a text of shapes: "512:128, 4096:256". */
export function shapes(text: string): { prompt_tokens: number; completion_tokens: number }[] {
    return text
        .split(/[\s,]+/)
        .filter(Boolean)
        .map((one) => {
            const match = /^(\d+):(\d+)$/.exec(one);
            if (match === null)
                throw new WrongForm(
                    "shapes",
                    `"${one}" is no shape: write prompt:answer in tokens, as 512:128.`,
                );
            return { prompt_tokens: Number(match[1]), completion_tokens: Number(match[2]) };
        });
}

/** The plan of a form over a preset's fields. */
export function planOf(form: PlanForm, preset: Fields, model: string): Fields {
    const plan: Fields = { ...preset, model_name: model };
    if (form.shapes.trim() !== "") {
        delete plan.prompt_config;
        plan.prompts = shapes(form.shapes);
    }
    const single = (field: "iterations" | "mostIterations" | "threads", name: string, what: string): void => {
        if (form[field].trim() !== "") plan[name] = numbers(form[field], field, what)[0];
    };
    single("iterations", "num_iterations", "Iterations");
    single("mostIterations", "max_iterations", "Iterations at most");
    single("threads", "num_thread", "Threads");
    if (form.cooldown.trim() !== "") {
        const seconds = Number(form.cooldown);
        if (!(seconds >= 0)) throw new WrongForm("cooldown", "Cool-down: seconds, zero or more.");
        plan.cooldown_s = seconds;
    }
    const sweep: Fields = {};
    const contexts = numbers(form.contexts, "contexts", "Contexts");
    const concurrency = numbers(form.concurrency, "concurrency", "Concurrency");
    const prompts = numbers(form.sweepPrompts, "sweepPrompts", "Prompt lengths");
    if (contexts.length === 1) plan.num_ctx = contexts[0];
    else if (contexts.length > 1) sweep.num_ctx = contexts;
    if (concurrency.length > 0) sweep.concurrency = concurrency;
    if (prompts.length > 0) sweep.prompt_tokens = prompts;
    if (Object.keys(sweep).length > 0) plan.sweep = sweep;
    if (form.coldLoad) plan.cold_load = true;
    return plan;
}

/** A plan in words: its shapes, sweep, and how often. */
export function describe(plan: Partial<Plan> | Fields): string {
    const fields = plan as {
        prompts?: {
            prompt_tokens?: number | null;
            completion_tokens?: number;
            prompt_name?: string | null;
            prompt?: string | null;
        }[];
        prompt_config?: {
            prompt_tokens?: number | null;
            completion_tokens?: number;
            prompt_name?: string | null;
            prompt?: string | null;
        } | null;
        num_iterations?: number;
        max_iterations?: number | null;
        sweep?: { prompt_tokens?: number[]; num_ctx?: number[]; concurrency?: number[] };
        num_ctx?: number | null;
        cold_load?: boolean;
    };
    const prompts = fields.prompts?.length
        ? fields.prompts
        : fields.prompt_config
          ? [fields.prompt_config]
          : [{ prompt_tokens: 512, completion_tokens: 128 }];
    const words = [
        prompts
            .map((one) => `${one.prompt_tokens ?? one.prompt_name ?? "text"}:${one.completion_tokens ?? 100}`)
            .join(", "),
    ];
    const { sweep } = fields;
    if (sweep?.prompt_tokens?.length) words.push(`prompts of ${sweep.prompt_tokens.join(", ")}`);
    if (sweep?.num_ctx?.length) words.push(`contexts ${sweep.num_ctx.join(", ")}`);
    if (sweep?.concurrency?.length) words.push(`concurrency ${sweep.concurrency.join(", ")}`);
    if (fields.num_ctx) words.push(`context ${fields.num_ctx}`);
    const least = fields.num_iterations ?? 3;
    const most = Math.max(least, fields.max_iterations ?? 0);
    words.push(least === most ? `${least} iterations` : `${least} to ${most} iterations`);
    if (fields.cold_load) words.push("cold load");
    return words.join(" · ");
}
