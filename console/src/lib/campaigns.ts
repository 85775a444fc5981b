/** Campaigns in words, as grids and as heat maps: what a cell shows, what is missing and why. Pure. */

import type {
    CampaignCell,
    CampaignEvent,
    CampaignMatrix,
    CampaignPreview,
    CampaignSummary,
    CampaignView,
    CellState,
    MatrixCell,
    PreviewCell,
    Verdict,
    VerdictWord,
} from "$lib/api/campaigns";
import { bytesOf, DASH, lasts, rate, significant } from "$lib/format";
import { listed, type Tone } from "$lib/matrix";

interface Word {
    tone: Tone;
    glyph: string;
    text: string;
}

/** Of each state its glyph and its colour; in this order they are counted. */
export const STATES: Record<CellState, Word> = {
    running: { tone: "accent", glyph: "◆", text: "running" },
    pulling: { tone: "accent", glyph: "↓", text: "pulling" },
    starting: { tone: "accent", glyph: "◇", text: "starting" },
    waiting: { tone: "quiet", glyph: "○", text: "waiting" },
    failed: { tone: "bad", glyph: "■", text: "failed" },
    refused: { tone: "warn", glyph: "▲", text: "refused" },
    skipped: { tone: "warn", glyph: "»", text: "skipped" },
    cancelled: { tone: "quiet", glyph: "×", text: "cancelled" },
    done: { tone: "good", glyph: "●", text: "done" },
};
const ORDER = Object.keys(STATES) as CellState[];
const OPEN = new Set<CellState>(["running", "pulling", "starting", "waiting"]);

export const VERDICTS: Record<VerdictWord, Word> = {
    slower: { tone: "bad", glyph: "▼", text: "slower" },
    faster: { tone: "good", glyph: "▲", text: "faster" },
    no_difference_shown: { tone: "quiet", glyph: "=", text: "no difference shown" },
    not_comparable: { tone: "warn", glyph: "≠", text: "not comparable" },
};

export const isOpen = (state: CellState): boolean => OPEN.has(state);
/** Ended without a result. */
export const isMissed = (state: CellState): boolean => !isOpen(state) && state !== "done";

export const titleOf = (one: { id: string; name: string | null }): string =>
    one.name ?? `Campaign ${one.id.slice(0, 8)}`;

/** How many cells are in each state, in words; those that are done first. */
export function countsText(counts: Partial<Record<CellState, number>>): string {
    const words = (["done", ...ORDER.filter((one) => one !== "done")] as CellState[])
        .filter((state) => (counts[state] ?? 0) > 0)
        .map((state) => `${counts[state]} ${state}`);
    return words.join(", ") || "no cell";
}

/** How many cells have ended, well or not. */
export const endedOf = (one: CampaignSummary): number =>
    Object.entries(one.counts).reduce(
        (sum, [state, number]) => sum + (isOpen(state as CellState) ? 0 : number),
        0,
    );

/** The state of a whole campaign: what went wrong in it is not hidden behind "done". */
export function stateOf(one: CampaignSummary): { tone: Tone; text: string } {
    const missed = one.counts.failed + one.counts.refused + one.counts.skipped;
    if (one.state === "running") return { tone: "accent", text: "running" };
    if (one.state === "cancelled") return { tone: "quiet", text: "cancelled" };
    return missed > 0 ? { tone: "warn", text: `${missed} without a result` } : { tone: "good", text: "done" };
}

/** A campaign with what an event says of it; cells that it did not have are added, and so are their machines. */
export function merged(view: CampaignView, event: CampaignEvent): CampaignView {
    const { changed, ...summary } = event;
    const news = new Map(changed.map((one) => [one.id, one]));
    const cells = view.cells.map((one) => {
        const now = news.get(one.id);
        news.delete(one.id);
        return now ?? one;
    });
    const machines = new Map(view.agents.map((one) => [one.id, one]));
    for (const one of news.values())
        if (!machines.has(one.agent_id))
            machines.set(one.agent_id, { id: one.agent_id, name: one.agent_name, not_before: null });
    return { ...view, ...summary, cells: [...cells, ...news.values()], agents: [...machines.values()] };
}

/** A model by a plan. */
export interface Column {
    key: string;
    model: string;
    plan_hash: string;
    plan: string;
}
/** What is measured of a column on a machine: one cell, or one for each repeat. */
export interface Group {
    key: string;
    cells: CampaignCell[];
    state: CellState;
    /** How far it is, 0 to 1; null where nothing runs. */
    share: number | null;
    /** Beside the state: how far, or what came out. */
    detail: string;
    reason: string;
}
export interface RunGrid {
    columns: Column[];
    machines: { id: string; name: string }[];
    at: (agent: string, column: Column) => Group | undefined;
}

const keyOf = (agent: string, model: string, plan: string): string => `${agent}\n${model}\n${plan}`;

/** A campaign's cells by machine, and by model and plan. */
export function runGrid(view: CampaignView): RunGrid {
    const groups = new Map<string, CampaignCell[]>();
    for (const cell of view.cells) {
        const key = keyOf(cell.agent_id, cell.model, cell.plan_hash);
        const known = groups.get(key);
        if (known === undefined) groups.set(key, [cell]);
        else known.push(cell);
    }
    const made = new Map([...groups].map(([key, cells]) => [key, groupOf(key, cells)]));
    return {
        columns: view.models.flatMap((model) =>
            view.plans.map((plan) => ({
                key: `${model}\n${plan.hash}`,
                model,
                plan_hash: plan.hash,
                plan: plan.label,
            })),
        ),
        machines: view.agents,
        at: (agent, column) => made.get(keyOf(agent, column.model, column.plan_hash)),
    };
}

export function groupOf(key: string, cells: CampaignCell[]): Group {
    const state = ORDER.find((one) => cells.some((cell) => cell.state === one)) ?? "waiting";
    // The newest attempt of what is shown says why.
    const shown = cells.find((one) => one.state === state);
    const ended = cells.filter((one) => !isOpen(one.state)).length;
    const now = cells.reduce((sum, one) => sum + (isOpen(one.state) ? (one.progress ?? 0) : 0), 0);
    const moves = cells.some((one) => one.progress !== null) || (ended > 0 && state !== "waiting");
    // A pull is one for all repeats: what has to come says more than how many of them are done.
    const pulls = state === "pulling";
    const measuring = isOpen(state) && moves ? (ended + now) / cells.length : null;
    const share = pulls ? (shown?.progress ?? null) : measuring;
    const figure = shown?.value == null ? "" : significant(shown.value);
    const many = cells.length > 1 && !pulls ? `${ended} of ${cells.length}` : "";
    return {
        key,
        cells,
        state,
        share,
        detail: many || (share === null ? figure : `${Math.floor(share * 100)} %`),
        reason: shown === undefined ? "" : reasonOf(shown),
    };
}

/** How far the pull of a cell's model is; empty where nothing is pulled, or nothing is known. */
export function pullText(
    one: Pick<CampaignCell, "state" | "completed_bytes" | "total_bytes" | "bytes_per_second" | "remaining_s">,
): string {
    if (one.state !== "pulling" || one.total_bytes === null) return "";
    const words = [bytesOf(one.completed_bytes, one.total_bytes)];
    if (one.bytes_per_second !== null) words.push(rate(one.bytes_per_second));
    if (one.remaining_s !== null) words.push(`${lasts(one.remaining_s)} left, with its measurement`);
    return words.join(" · ");
}

/** Why a cell is as it is, in one sentence; empty where its state says all. */
export const reasonOf = (cell: Pick<CampaignCell, "reason" | "error">): string =>
    cell.reason ?? cell.error?.message ?? "";

/** What a screen reader hears of a group, and what stands beside the grid while it has the focus. */
export function wordsOf(group: Group | undefined, machine: string, column: Column): string {
    const where = `${column.model}, ${column.plan} on ${machine}`;
    if (group === undefined) return `${where}: not part of this campaign`;
    const flags = [...new Set(group.cells.flatMap((one) => one.flags))].map((one) =>
        one.replaceAll("_", " "),
    );
    const words = [
        STATES[group.state].text,
        group.detail,
        group.reason,
        flags.length > 0 ? `flagged: ${listed(flags)}` : "",
    ];
    return `${where}: ${words.filter(Boolean).join(", ")}`;
}

/** As many strengths of colour as a heat map has. */
export const STEPS = 6;

/**
 * The strength of a value's colour, 0 to `STEPS - 1`, the better the stronger. Values of models differ by factors:
 * where all are above zero, the scale is of their logarithms.
 */
export function heatScale(
    values: (number | null)[],
    better: string | null,
): (value: number | null) => number | null {
    const known = values.filter((one): one is number => one !== null && Number.isFinite(one));
    const log = known.every((one) => one > 0);
    const at = (value: number): number => (log ? Math.log(value) : value);
    const low = Math.min(...known.map(at));
    const high = Math.max(...known.map(at));
    return (value) => {
        if (value === null || !Number.isFinite(value) || (log && value <= 0)) return null;
        const share = high > low ? (at(value) - low) / (high - low) : 0.5;
        return Math.round((better === "lower" ? 1 - share : share) * (STEPS - 1));
    };
}

/** A point of a sweep, with how much became slower there: who looks at another one would miss it. */
export const pointText = (one: { label: string; slower: number }): string =>
    one.slower > 0 ? `${one.label}: ${one.slower} slower` : one.label;

/** What no other verdict of a list has: each point of a sweep has its own. */
export const verdictKey = (
    one: Pick<Verdict, "agent_id" | "model" | "plan_hash" | "metric" | "point_index">,
): string => [one.agent_id, one.model, one.plan_hash, one.metric, one.point_index].join(" ");

/** A ratio as a change: +5.2 %, −12 %; hundreds of per cent are read wrongly and are a factor. */
export function change(ratio: number | null): string {
    if (ratio === null || !(ratio > 0)) return DASH;
    if (ratio >= 3 || ratio <= 1 / 3) return `×${significant(ratio)}`;
    const percent = Math.abs(ratio - 1) * 100;
    const sign = ratio > 1 ? "+" : ratio < 1 ? "−" : "";
    return `${sign}${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}

/** The change with its interval. */
export function changeText(one: {
    ratio: number | null;
    ratio_low: number | null;
    ratio_high: number | null;
}): string {
    const interval =
        one.ratio_low === null || one.ratio_high === null
            ? ""
            : ` (${change(one.ratio_low)} to ${change(one.ratio_high)})`;
    return `${change(one.ratio)}${interval}`;
}

/** An interval of a figure. */
export const intervalText = (one: { low: number | null; high: number | null }): string =>
    one.low === null || one.high === null ? DASH : `${significant(one.low)} … ${significant(one.high)}`;

/** Why a cell of the matrix has no value. */
export const missing = (cell: Pick<MatrixCell, "state" | "reason"> | undefined): string =>
    cell === undefined ? "not part of this campaign" : (cell.reason ?? STATES[cell.state].text);

/** A matrix by machine, and by model and plan. */
export function matrixAt(matrix: CampaignMatrix): (agent: string, column: Column) => MatrixCell | undefined {
    const cells = new Map(matrix.cells.map((one) => [keyOf(one.agent_id, one.model, one.plan_hash), one]));
    return (agent, column) => cells.get(keyOf(agent, column.model, column.plan_hash));
}

export const matrixColumns = (matrix: CampaignMatrix): Column[] =>
    matrix.rows.map((one) => ({ ...one, key: `${one.model}\n${one.plan_hash}` }));

/** The rows of a matrix as a file has them, the names of the columns first. */
export function matrixRows(matrix: CampaignMatrix): (string | number | null)[][] {
    const at = matrixAt(matrix);
    const { name } = matrix.metric;
    const head = ["machine", "model", "plan", "state", name, `${name}_low`, `${name}_high`, "n"];
    const rows = matrix.agents.flatMap((agent) =>
        matrixColumns(matrix).map((column) => {
            const one = at(agent.id, column);
            const figures = [
                one?.value,
                one?.low,
                one?.high,
                one?.n,
                one?.ratio,
                one?.ratio_low,
                one?.ratio_high,
            ];
            return [
                agent.name,
                column.model,
                column.plan,
                one?.state ?? null,
                ...figures.map((figure) => figure ?? null),
                one?.verdict ?? null,
                one?.value == null ? missing(one) : null,
                (one?.flags ?? []).join(" ") || null,
            ];
        }),
    );
    return [[...head, "ratio", "ratio_low", "ratio_high", "verdict", "missing", "flags"], ...rows];
}

/** What hinders cells of a preview, with the line of the owner's configuration that would allow it. */
export interface Hindrance {
    would: PreviewCell["would"];
    reason: string;
    remedy: string | null;
    machines: string[];
    cells: number;
}

/** Cells that do not simply run, those with one reason together. */
export function hindrances(preview: CampaignPreview): Hindrance[] {
    const found = new Map<string, Hindrance>();
    for (const { would, reason, remedy, agent_name } of preview.cells) {
        if (would === "run") continue;
        const key = `${would}\n${reason ?? ""}\n${remedy ?? ""}`;
        const known = found.get(key) ?? { would, reason: reason ?? "", remedy, machines: [], cells: 0 };
        if (!known.machines.includes(agent_name)) known.machines.push(agent_name);
        known.cells += 1;
        found.set(key, known);
    }
    const rank = ["refused", "skip", "wait", "pull"];
    return [...found.values()].sort((a, b) => rank.indexOf(a.would) - rank.indexOf(b.would));
}

/** The cells of a preview that will be measured, sooner or later. */
export const measured = (preview: CampaignPreview): number =>
    preview.cells.filter((one) => one.would !== "refused" && one.would !== "skip").length;

/** A moment in a schedule's own time zone, with the zone's name: "Sun 29 Nov, 02:00 CET". */
export function inZone(seconds: number, zone: string): string {
    const form = new Intl.DateTimeFormat("en-GB", {
        timeZone: zone,
        weekday: "short",
        day: "numeric",
        month: "short",
        hour: "2-digit",
        minute: "2-digit",
        timeZoneName: "short",
    });
    return form.format(seconds * 1000);
}
