/** The views by their address, and the navigation. A new view is one row here and one file beside this one. */

import type { Component } from "svelte";

interface View {
    title: string;
    glyph: string;
    load: () => Promise<{ default: Component }>;
}

export const VIEWS: Record<string, View> = {
    "": { title: "Fleet", glyph: "▦", load: () => import("./Fleet.svelte") },
    machine: { title: "Machine", glyph: "▣", load: () => import("./machine/Machine.svelte") },
    models: { title: "Models", glyph: "▤", load: () => import("./models/Models.svelte") },
    run: { title: "New benchmark", glyph: "+", load: () => import("./benchmark/Builder.svelte") },
    campaigns: { title: "Campaigns", glyph: "⊞", load: () => import("./campaigns/Campaigns.svelte") },
    jobs: { title: "Runs", glyph: "▷", load: () => import("./benchmark/Runs.svelte") },
    results: { title: "Results", glyph: "≣", load: () => import("./results/Results.svelte") },
    result: { title: "Result", glyph: "≡", load: () => import("./results/Result.svelte") },
    compare: { title: "Compare", glyph: "⇄", load: () => import("./results/Compare.svelte") },
    leaderboard: { title: "Leaderboard", glyph: "▲", load: () => import("./results/Leaderboard.svelte") },
    playground: { title: "Playground", glyph: "❯", load: () => import("./playground/Playground.svelte") },
    add: { title: "Add a machine", glyph: "⊕", load: () => import("./Add.svelte") },
    settings: { title: "Settings", glyph: "⚙", load: () => import("./Settings.svelte") },
};

export const NAVIGATION = [
    { label: "Machines", views: ["", "models", "add"] },
    { label: "Benchmarks", views: ["run", "campaigns", "jobs", "results", "compare", "leaderboard"] },
    { label: "Use", views: ["playground"] },
    { label: "This server", views: ["settings"] },
] as const;
