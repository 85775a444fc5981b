import { expect, test } from "vitest";

import type { Agent } from "$lib/api/types";
import {
    attention,
    gpuFigures,
    groupByLabel,
    labelFrom,
    labelsOf,
    memoryParts,
    memoryShare,
    sortMachines,
} from "./machines";

const GIB = 2 ** 30;
const machine = (name: string, more: object = {}): Agent =>
    ({
        id: name,
        name,
        presence: "online",
        loaded: [],
        labels: [],
        own_labels: [],
        running: [],
        ollama: { reachable: true, version: "0.9.0" },
        hardware: null,
        gpus: [],
        jobs: null,
        model_count: 0,
        ...more,
    }) as unknown as Agent;
const gpu = (busy: number, celsius: number, state = "ok"): object => ({
    id: "gpu-0",
    state,
    utilization_ratio: busy,
    temperature_celsius: celsius,
    power_watts: 100,
    memory_used_bytes: 6 * GIB,
});
const names = (found: Agent[]): string[] => found.map((one) => one.name);
const all = { text: "", state: "", label: "", sort: "name", down: false } as const;

test("figures of several GPUs are the busiest, the hottest, and sums", () => {
    const figures = gpuFigures(machine("a", { hardware: { gpus: [gpu(0.2, 50), gpu(0.9, 70)] } }));
    expect(figures).toMatchObject({ count: 2, busy: 0.9, celsius: 70, watts: 200, used: 12 * GIB });
    expect(gpuFigures(machine("a"))).toMatchObject({ count: 0, busy: null, watts: null });
});

test("without a GPU, memory is the system's", () => {
    const hardware = { memory_used_bytes: GIB, memory_available_bytes: 3 * GIB };
    expect(memoryShare(machine("a", { hardware }))).toBe(0.25);
    expect(memoryShare(machine("a"))).toBeNull();
});

const titled = (name: string, gib: number | null): object => ({
    id: "gpu-0",
    name,
    memory_total_bytes: gib === null ? null : gib * GIB,
});

test("GPUs have names, equal ones counted, and the memory that the inventory gives them", () => {
    const gpus = [titled("RTX 3090", 24), titled("RTX 3090", 24), titled("GTX 1660", 6)];
    const figures = gpuFigures(machine("a", { gpus, hardware: { gpus: [gpu(0.2, 50)] } }));
    expect(figures).toMatchObject({ count: 3, names: "2 × RTX 3090, GTX 1660", total: 54 * GIB });
});

test("with a GPU, memory is the GPU's, and not known where its size is not", () => {
    const hardware = { gpus: [gpu(0, 40)], memory_used_bytes: GIB, memory_available_bytes: 3 * GIB };
    expect(memoryShare(machine("a", { gpus: [titled("X", 24)], hardware }))).toBe(0.25);
    expect(memoryShare(machine("a", { gpus: [titled("X", null)], hardware }))).toBeNull();
});

test("memory is told apart by loaded model, within what is used", () => {
    const running = [
        { name: "m:1", size_bytes: 4 * GIB, size_vram_bytes: 4 * GIB },
        { name: "n:1", size_bytes: 2 * GIB, size_vram_bytes: 0 },
    ];
    const a = machine("a", { gpus: [titled("X", 24)], hardware: { gpus: [gpu(0, 40)] }, running });
    expect(memoryParts(a).map((one) => [one.label, one.bytes / GIB])).toEqual([
        ["m:1", 4],
        ["other", 2],
    ]);
    const tight = [{ name: "m:1", size_bytes: 8 * GIB, size_vram_bytes: 8 * GIB }];
    expect(memoryParts({ ...a, running: tight } as unknown as Agent)).toMatchObject([
        { label: "m:1", share: 0.25 },
    ]);
    expect(memoryParts(machine("a"))).toEqual([]);
});

test("attention goes to what is offline, hot, lost, or without Ollama", () => {
    const words = (one: Agent): string[] => attention(one).map((alert) => alert.word);
    expect(words(machine("a"))).toEqual([]);
    expect(words(machine("a", { presence: "offline" }))).toEqual(["offline"]);
    expect(words(machine("a", { ollama: { reachable: false } }))).toEqual(["no Ollama"]);
    expect(words(machine("a", { hardware: { gpus: [gpu(1, 95, "lost")] } }))).toEqual(["GPU lost", "hot"]);
});

test("machines are found by all words, and by state", () => {
    const fleet = [
        machine("box-1"),
        machine("box-2", { presence: "offline" }),
        machine("lab", { jobs: { open: 1 } }),
    ];
    expect(names(sortMachines(fleet, { ...all, text: "BOX" }))).toEqual(["box-1", "box-2"]);
    expect(names(sortMachines(fleet, { ...all, text: "box 2" }))).toEqual(["box-2"]);
    expect(names(sortMachines(fleet, { ...all, state: "offline" }))).toEqual(["box-2"]);
    expect(names(sortMachines(fleet, { ...all, state: "busy" }))).toEqual(["lab"]);
    expect(names(sortMachines(fleet, { ...all, state: "attention" }))).toEqual(["box-2"]);
});

test("equal machines are in the order of their names, up and down", () => {
    const fleet = ["c", "a", "b"].map((name) => machine(name, { model_count: name === "a" ? 2 : 1 }));
    expect(names(sortMachines(fleet, { ...all, sort: "models" }))).toEqual(["b", "c", "a"]);
    expect(names(sortMachines(fleet, { ...all, sort: "models", down: true }))).toEqual(["a", "b", "c"]);
});

test("a label is one, whether the machine or an operator has it", () => {
    const fleet = [
        machine("a", { labels: ["lab"], own_labels: ["gpu", "lab"] }),
        machine("b", { own_labels: ["gpu"] }),
        machine("c"),
    ];
    expect(labelsOf(fleet[0] as Agent)).toEqual(["gpu", "lab"]);
    expect(names(sortMachines(fleet, { ...all, label: "gpu" }))).toEqual(["a", "b"]);
    expect(names(sortMachines(fleet, { ...all, text: "lab" }))).toEqual(["a"]);
    expect(groupByLabel(fleet).map((one) => [one.label, names(one.machines)])).toEqual([
        ["gpu", ["a", "b"]],
        ["lab", ["a"]],
        ["", ["c"]],
    ]);
});

test("what is typed becomes a label of one spelling, or none", () => {
    expect(labelFrom(" Rack=2 ")).toBe("rack=2");
    for (const text of ["", "a b", "-a", "a,b", "ä", "x".repeat(64)]) expect(labelFrom(text)).toBeNull();
});
