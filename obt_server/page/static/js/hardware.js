// What a machine is, and what it does now.

import { get, part } from "./api.js";
import { events } from "./sse.js";
import { bars, Traces } from "./charts.js";
import { bytes, bytesOf, figure, percent, share } from "./format.js";
import { card, failed, h, loading, redraw, show, since } from "./dom.js";
import { online } from "./state.js";

const celsius = (value) => figure(value, 0, " °C");
const watts = (value) => figure(value, 0, " W");
const OVER = " in the last three minutes";
const machineKinds = { cpu: { name: "CPU", text: percent, most: 1, over: OVER }, memory: { name: "Memory", text: percent, most: 1, over: OVER },
  temperature: { name: "CPU temperature", text: celsius, most: 110, over: OVER } };
const gpuKinds = { busy: { name: "Utilisation", text: percent, most: 1, over: OVER }, memory: { name: "Memory", text: percent, most: 1, over: OVER },
  used: { name: "Memory used", text: bytes, over: OVER }, temperature: { name: "Temperature", text: celsius, most: 110, over: OVER }, power: { name: "Power", text: watts, over: OVER } };
const rate = (value) => (value === null || value === undefined ? "–" : `${bytes(value)}/s`);
const flowKinds = { read: { name: "Disks, read", text: rate, over: OVER }, write: { name: "Disks, written", text: rate, over: OVER },
  receive: { name: "Network, received", text: rate, over: OVER }, transmit: { name: "Network, sent", text: rate, over: OVER } };
const pressureKinds = { cpu: { name: "Waited for a CPU", text: percent, most: 1, over: OVER }, memory: { name: "Waited for memory", text: percent, most: 1, over: OVER },
  io: { name: "Waited for a disk", text: percent, most: 1, over: OVER } };
const ollamaKinds = { cpu: { name: "CPU, of one core", text: percent, over: OVER }, memory: { name: "Memory", text: bytes, over: OVER } };

export function hardwareView(place, agent) {
  const now = h("div", { class: "cards" });
  const still = h("div", { class: "cards" }, loading("what the machine is"));
  const state = h("p", { class: "quiet", role: "status" });
  show(place, online(agent) && [h("div", { class: "title" }, h("h3", {}, "Now"), state), now], h("h3", { class: "gap" }, "What it is"), still);
  const live = new LiveMachine(now, state);
  get(`/agents/${part(agent.id)}/hardware`).then((answer) => {
    live.inventory = answer.inventory ?? {};
    if (!answer.inventory) return show(still, h("p", { class: "quiet" }, "This machine has not told yet what it is."));
    show(still, inventoryCards(live.inventory), answer.updated_at && h("p", { class: "quiet small wide" }, since(answer.updated_at, "As of ")));
  }).catch((error) => show(still, failed(error)));
  if (!online(agent)) return undefined;
  show(state, "Waiting for the first sample…");
  return events(`/agents/${part(agent.id)}/hardware/watch?interval_ms=1000`, {
    sample: ({ sample }) => { show(state); live.take(sample); },
    lost: (error) => show(state, `${error.message} Trying again…`),
    refused: (error) => show(state, error.message),
  });
}

// Cards made once, for what the machine has; samples move their lines.
class LiveMachine {
  constructor(place, state) {
    Object.assign(this, { place, state, inventory: {}, cards: new Map() });
  }

  take(sample) {
    this.machine(sample.cpu ?? {}, sample.memory ?? {});
    this.flows(sample.disk ?? {}, sample.network ?? {});
    this.pressure(sample.pressure ?? {});
    for (const gpu of sample.gpus ?? []) this.gpu(gpu, (this.inventory.gpus ?? []).find((one) => one.id === gpu.id) ?? {});
    this.ollama(sample.ollama ?? []);
  }

  card(key, title, kinds) {
    if (!this.cards.has(key)) {
      const made = { traces: new Traces(kinds), heading: h("h3", {}, title), note: h("div", { class: "quiet small" }) };
      this.cards.set(key, made);
      this.place.append(h("section", { class: "card" }, made.heading, made.traces.element, made.note));
    }
    return this.cards.get(key);
  }

  machine(cpu, memory) {
    const { traces, note } = this.card("machine", "CPU and memory", machineKinds);
    const total = this.inventory.memory?.total_bytes ?? (memory.used_bytes !== undefined && memory.available_bytes !== undefined ? memory.used_bytes + memory.available_bytes : undefined);
    traces.push("cpu", cpu.utilization_ratio);
    traces.push("memory", share(memory.used_bytes, total), bytesOf(memory.used_bytes, total));
    traces.push("temperature", cpu.temperature_celsius);
    // counted since the machine started: what matters is what was added while somebody looks
    this.throttledBefore ??= cpu.throttled_seconds_total;
    const throttled = cpu.throttled_seconds_total - this.throttledBefore;
    const words = [cpu.load?.length && `load ${cpu.load.map((value) => value.toFixed(1)).join(" ")}`, cpu.clock_hertz && `${(cpu.clock_hertz / 1e9).toFixed(1)} GHz`,
      memory.swap_used_bytes > 0 && `${bytes(memory.swap_used_bytes)} swapped`, isKnown(memory.cgroup_available_bytes) && `${bytes(memory.cgroup_available_bytes)} left in Ollama's control group`];
    show(note, cpu.per_core_ratio?.length > 1 && bars("Cores", cpu.per_core_ratio, percent), words.filter(Boolean).join(" · "),
      throttled > 0 && h("p", { class: "caution" }, `Heat held the CPU back for ${throttled.toFixed(1)} s since this view was opened.`));
  }

  flows(disk, network) {
    const figures = { read: disk.read_bytes_per_second, write: disk.write_bytes_per_second, receive: network.receive_bytes_per_second, transmit: network.transmit_bytes_per_second };
    this.figures("flows", "Disks and network", flowKinds, figures);
  }

  pressure(pressure) {
    this.figures("pressure", "Pressure", pressureKinds, { cpu: pressure.cpu_ratio, memory: pressure.memory_ratio, io: pressure.io_ratio });
  }

  // A card of figures that may all be missing: then there is no card.
  figures(key, title, kinds, figures) {
    if (!this.cards.has(key) && !Object.values(figures).some(isKnown)) return;
    const { traces } = this.card(key, title, kinds);
    for (const [name, value] of Object.entries(figures)) traces.push(name, value);
  }

  gpu(gpu, known) {
    const { traces, heading, note } = this.card(`gpu ${gpu.id}`, "", gpuKinds);
    const total = known.memory?.total_bytes ?? known.memory?.shared_total_bytes;
    const used = gpu.memory_used_bytes ?? gpu.shared_used_bytes;
    show(heading, known.name ?? gpu.id, " ", gpu.state !== "ok" && h("span", { class: "badge bad" }, gpu.state));
    traces.push("busy", gpu.utilization_ratio);
    if (total) traces.push("memory", share(used, total), bytesOf(used, total));
    else traces.push("used", used);
    traces.push("temperature", gpu.temperature_celsius);
    traces.push("power", gpu.power_watts, known.power_limit_watts && gpu.power_watts !== undefined ? `${watts(gpu.power_watts)} of ${watts(known.power_limit_watts)}` : undefined);
    const held = gpu.throttle_reasons ?? [];
    const words = [isKnown(gpu.fan_ratio) && `fan ${percent(gpu.fan_ratio)}`, gpu.clocks?.graphics_hertz && `${(gpu.clocks.graphics_hertz / 1e6).toFixed(0)} MHz`,
      gpu.pcie_gen && `PCIe ${gpu.pcie_gen}${gpu.pcie_width ? ` x${gpu.pcie_width}` : ""}`, isKnown(gpu.memory_controller_ratio) && `memory bus ${percent(gpu.memory_controller_ratio)}`];
    show(note, words.filter(Boolean).join(" · "), gpu.ecc_uncorrected > 0 && h("p", { class: "caution" }, `${gpu.ecc_uncorrected} memory errors that ECC could not correct`),
      held.length > 0 && h("p", { class: "caution" }, `Held back: ${held.join(", ")}`));
  }

  ollama(processes) {
    const { traces, note } = this.card("ollama", "Ollama's processes", ollamaKinds);
    const sum = (key) => processes.reduce((total, one) => total + (one[key] ?? 0), 0);
    traces.push("cpu", processes.length ? sum("cpu_ratio") : null);
    traces.push("memory", processes.length ? sum("rss_bytes") : null);
    const lines = processes.map((one) => h("div", { class: "pair" }, h("span", {}, `${one.role} `, h("span", { class: "mono" }, String(one.pid))),
      h("span", {}, `${percent(one.cpu_ratio)} · ${bytes(one.rss_bytes)}${gpuShare(one)}`)));
    redraw(note, lines.length ? lines : "None was found on this machine: Ollama may run in a container, or elsewhere.");
  }
}

const isKnown = (value) => value !== null && value !== undefined;

function gpuShare(process) {
  const used = Object.values(process.gpu_memory_bytes ?? {}).reduce((a, b) => a + b, 0);
  return used ? ` · ${bytes(used)} GPU` : "";
}

function pairs(title, entries) {
  const known = entries.filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (known.length === 0) return null;
  return card(title, h("dl", {}, known.map(([name, value]) => h("div", { class: "pair" }, h("dt", { class: "quiet" }, name), h("dd", {}, value)))));
}

function inventoryCards(inventory) {
  const { host = {}, cpu = {}, memory = {}, limits = {}, gpus = [], npus = [], storage = [], providers = [] } = inventory;
  const bad = providers.filter((one) => !["ok", "absent"].includes(one.status));
  return [
    pairs("Host", [["System", host.distro ?? host.os], ["Kernel", host.kernel], ["Architecture", host.arch], ["Container", host.container], ["Virtual machine", host.virtualization], ["Board", host.board?.name]]),
    pairs("CPU", [["Model", cpu.model], ["Cores", cpu.physical_cores && `${cpu.physical_cores} (${cpu.logical_cores ?? "?"} threads)`], ["Clock, at most", cpu.max_hertz && `${(cpu.max_hertz / 1e9).toFixed(1)} GHz`], ["Vector units", (cpu.isa ?? []).slice(-3).join(", ")]]),
    pairs("Memory", [["Total", memory.total_bytes && bytes(memory.total_bytes)], ["Swap", memory.swap_total_bytes === 0 ? "none" : memory.swap_total_bytes && bytes(memory.swap_total_bytes)], ["Type", memory.type],
      ["Limit", limits.memory_bytes && bytes(limits.memory_bytes)], ["CPU limit", limits.cpus && `${limits.cpus} cores`]]),
    ...gpus.map((gpu) => pairs(gpu.name ?? gpu.id, [["Vendor", gpu.vendor], ["Memory", gpu.memory?.total_bytes && bytes(gpu.memory.total_bytes)], ["Driver", gpu.driver_version ?? gpu.driver], ["Power limit", gpu.power_limit_watts && watts(gpu.power_limit_watts)], ["PCI address", gpu.pci_address]])),
    gpus.length === 0 && card("GPU", h("p", {}, "None was found: Ollama computes on the CPU."), h("p", { class: "quiet small" }, "If there is one, its driver is missing or out of the agent's reach. On the machine, ", h("code", {}, "obt-agent check"), " says why.")),
    ...npus.map((npu) => pairs(npu.name ?? npu.id, [["Vendor", npu.vendor], ["Driver", npu.driver]])),
    ...storage.map((disk) => pairs("Storage of the models", [["Free", disk.free_bytes !== undefined && bytesOf(disk.free_bytes, disk.total_bytes)], ["File system", disk.filesystem], ["Kind", disk.kind], ["Device", disk.model]])),
    storage.length === 0 && card("Storage of the models", h("p", { class: "quiet" }, providers.find((one) => one.name === "storage")?.reason ?? "Not known.")),
    bad.length > 0 && pairs("Sources that cannot be read", bad.map((one) => [one.name, one.reason ?? one.status])),
  ].filter(Boolean);
}
