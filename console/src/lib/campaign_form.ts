/** The builder's address and the body that it means: each field is one value of the query. Pure. */

import type { CampaignView, NewCampaign, PlanChoice, Selector } from "$lib/api/campaigns";

const list = (text: string | null): string[] => (text ?? "").split(",").filter(Boolean);
const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone;
/** As long as a machine is waited for until it is idle. */
const SETTLE_S = 300;

/** Which machines: those of `machines`, those with a label of `labels`, or all; null while none is chosen. */
function selectorOf(query: URLSearchParams): Selector | null {
    const on = query.get("on");
    if (on !== "machines" && on !== "labels") return { all: true };
    const chosen = list(query.get(on));
    if (chosen.length === 0) return null;
    return on === "machines" ? { agents: chosen } : { labels: chosen };
}

/** The body of a campaign; null while something is not chosen yet. */
export function bodyOf(query: URLSearchParams, own: PlanChoice[]): NewCampaign | null {
    const models = list(query.get("models"));
    const plans: PlanChoice[] = [...list(query.get("plans")).map((name) => ({ name })), ...own];
    const targets = selectorOf(query);
    if (models.length === 0 || plans.length === 0 || targets === null) return null;
    const order = query.get("order");
    const [from, to] = (query.get("quiet") ?? "").split("-");
    const after = Date.parse(query.get("after") ?? "") / 1000;
    const idle = Number(query.get("idle") ?? NaN);
    const baseline = query.get("baseline");
    const results = list(query.get("results"));
    const last = Number(query.get("last")) || undefined;
    const metric = query.get("metric");
    return {
        ...(query.get("name") ? { name: query.get("name") ?? "" } : {}),
        plans,
        models,
        targets,
        repeat: Math.min(20, Math.max(1, Math.floor(Number(query.get("repeat")) || 1))),
        on_offline: query.get("offline") === "skip" ? "skip" : "wait",
        pull_missing: query.has("pull"),
        ...(metric ? { metric } : {}),
        ...(order === "plan" || order === "random" ? { order } : {}),
        ...(Number.isNaN(after) ? {} : { not_after: after }),
        ...(from && to && /^\d\d:\d\d$/.test(to)
            ? { quiet_hours: { from, to, time_zone: query.get("zone") ?? HERE } }
            : {}),
        ...(query.get("idle")
            ? { settle: { idle_for_s: idle, max_wait_s: Number(query.get("settle") || SETTLE_S) } }
            : {}),
        ...(baseline === "pinned" || baseline === "none"
            ? { baseline: { mode: baseline, ...(results.length > 0 ? { results } : {}) } }
            : last === undefined
              ? {}
              : { baseline: { mode: "rolling", last } }),
    };
}

/** The address of a campaign that exists: another one like it, or a schedule that is changed. */
export function queryOf(one: NewCampaign): Record<string, string | null> {
    // A version that is named stays that one: a name alone means the newest.
    const named = one.plans.filter((plan) => plan.name && plan.version == null);
    const own = one.plans.filter((plan) => !named.includes(plan));
    const { agents, labels } = one.targets;
    const { baseline, settle, quiet_hours: quiet, not_after: after } = one;
    const on = (agents?.length ?? 0) > 0 ? "machines" : (labels?.length ?? 0) > 0 ? "labels" : null;
    return {
        name: one.name ?? null,
        on,
        machines: on === "machines" ? (agents ?? []).join(",") : null,
        labels: on === "labels" ? (labels ?? []).join(",") : null,
        models: one.models.join(","),
        plans: named.map((plan) => plan.name).join(","),
        metric: one.metric == null || one.metric === "headline" ? null : one.metric,
        own: own.length === 0 ? null : JSON.stringify(own),
        repeat: (one.repeat ?? 1) > 1 ? String(one.repeat) : null,
        order: one.order === undefined || one.order === "model" ? null : one.order,
        offline: one.on_offline === "skip" ? "skip" : null,
        pull: one.pull_missing === true ? "true" : null,
        after: after == null ? null : localTime(after),
        quiet: quiet == null ? null : `${quiet.from}-${quiet.to}`,
        zone: quiet == null || quiet.time_zone === HERE ? null : (quiet.time_zone ?? null),
        idle: settle == null ? null : String(settle.idle_for_s),
        settle: settle == null || settle.max_wait_s === SETTLE_S ? null : String(settle.max_wait_s),
        baseline: baseline == null || baseline.mode === "rolling" ? null : (baseline.mode ?? null),
        results: baseline?.mode === "pinned" ? (baseline.results ?? []).join(",") || null : null,
        last: baseline?.mode === "rolling" && baseline.last != null ? String(baseline.last) : null,
    };
}

/** The address of another campaign like one that began; until when that might begin is past. */
export const again = (view: CampaignView): Record<string, string | null> =>
    queryOf({
        ...(view.name === null ? {} : { name: view.name }),
        plans: view.plans.map((one) =>
            one.name === null ? { plan: one.plan, label: one.label } : { name: one.name },
        ),
        models: view.models,
        targets: { agents: view.agents.map((one) => one.id) },
        repeat: view.repeat,
        order: view.order,
        on_offline: view.on_offline,
        pull_missing: view.pull_missing,
        metric: view.metric,
        quiet_hours: view.quiet_hours,
        settle: view.settle,
        baseline: view.baseline,
    });

/** As a field of date and time holds it: local, without a zone. */
function localTime(seconds: number): string {
    const at = new Date(seconds * 1000);
    return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}
