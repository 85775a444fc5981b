// What a machine is, and what it does now.

import { events, get, part } from "./api.js";
import { bytes, figure, h, notice, percent, show } from "./dom.js";

export function hardwareView(place, agent) {
  const now = h("div", { class: "cards" }, h("p", { class: "quiet" }, agent.presence === "online" ? "Waiting for the first sample…" : "Offline: nothing to watch."));
  const still = h("div", { class: "cards" });
  show(place, h("h3", {}, "Now"), now, h("h3", { class: "gap" }, "What it is"), still);
  let inventory = {};
  get(`/agents/${part(agent.id)}/hardware`).then((answer) => {
    inventory = answer.inventory ?? {};
    show(still, ...inventoryCards(inventory));
  }).catch((error) => show(still, h("p", { class: "quiet" }, error.message)));
  if (agent.presence !== "online") return undefined;
  return events(`/agents/${part(agent.id)}/hardware/watch?interval_ms=1000`, {
    sample: ({ sample }) => show(now, ...sampleCards(sample, inventory)),
    error: (data) => data && notice(data.error.message),
  });
}

function meter(name, ratio, value) {
  const bar = ratio === null || ratio === undefined ? h("span") : h("progress", { max: "1", value: String(Math.min(1, ratio)), "aria-label": name });
  return h("div", { class: "meter" }, h("span", {}, name), bar, h("span", { class: "value" }, value));
}

const share = (used, total) => (used !== undefined && used !== null && total ? used / total : null);

function sampleCards(sample, inventory) {
  const cpu = sample.cpu ?? {};
  const memory = sample.memory ?? {};
  const total = inventory.memory?.total_bytes;
  const names = new Map((inventory.gpus ?? []).map((gpu) => [gpu.id, gpu]));
  return [
    h("section", { class: "card" }, h("h3", {}, "CPU and memory"),
      meter("CPU", cpu.utilization_ratio, percent(cpu.utilization_ratio)),
      meter("Memory", share(memory.used_bytes, total), `${bytes(memory.used_bytes)} of ${bytes(total)}`),
      cpu.temperature_celsius !== undefined && meter("Temperature", cpu.temperature_celsius / 100, figure(cpu.temperature_celsius, 0, " °C"))),
    ...(sample.gpus ?? []).map((gpu) => gpuCard(gpu, names.get(gpu.id) ?? {})),
    ollamaCard(sample.ollama ?? []),
  ].filter(Boolean);
}

function gpuCard(gpu, known) {
  const total = known.memory?.total_bytes ?? known.memory?.shared_total_bytes;
  const used = gpu.memory_used_bytes ?? gpu.shared_used_bytes;
  return h("section", { class: "card" }, h("h3", {}, known.name ?? gpu.id, " ", gpu.state !== "ok" && h("span", { class: "badge bad" }, gpu.state)),
    meter("Busy", gpu.utilization_ratio, percent(gpu.utilization_ratio)),
    meter("Memory", share(used, total), `${bytes(used)} of ${bytes(total)}`),
    meter("Temperature", gpu.temperature_celsius === undefined ? null : gpu.temperature_celsius / 100, figure(gpu.temperature_celsius, 0, " °C")),
    meter("Power", share(gpu.power_watts, known.power_limit_watts), figure(gpu.power_watts, 0, " W")),
    (gpu.throttle_reasons ?? []).length > 0 && h("p", { class: "caution" }, `Held back: ${gpu.throttle_reasons.join(", ")}`));
}

function ollamaCard(processes) {
  if (processes.length === 0) return null;
  return h("section", { class: "card" }, h("h3", {}, "Ollama's processes"), processes.map((process) =>
    meter(process.role, null, `${figure((process.cpu_ratio ?? 0) * 100, 0, " %")} · ${bytes(process.rss_bytes)}`)));
}

function pairs(title, entries) {
  const known = entries.filter(([, value]) => value !== undefined && value !== null && value !== "");
  if (known.length === 0) return null;
  return h("section", { class: "card" }, h("h3", {}, title), known.map(([name, value]) =>
    h("div", { class: "pair" }, h("span", { class: "quiet" }, name), h("span", {}, String(value)))));
}

function inventoryCards(inventory) {
  const { host = {}, cpu = {}, memory = {}, gpus = [], storage = [], providers = [] } = inventory;
  return [
    pairs("Host", [["System", host.distro], ["Kernel", host.kernel], ["Architecture", host.arch], ["Container", host.container], ["Virtual", host.virtualization]]),
    pairs("CPU", [["Model", cpu.model], ["Cores", cpu.physical_cores], ["Threads", cpu.logical_cores], ["Vectors", (cpu.isa ?? []).slice(-3).join(", ")]]),
    pairs("Memory", [["Total", bytes(memory.total_bytes)], ["Swap", bytes(memory.swap_total_bytes)], ["Type", memory.type]]),
    ...gpus.map((gpu) => pairs(gpu.name ?? gpu.id, [["Vendor", gpu.vendor], ["Memory", bytes(gpu.memory?.total_bytes)], ["Driver", gpu.driver_version], ["Limit", gpu.power_limit_watts && `${gpu.power_limit_watts} W`], ["PCI", gpu.pci_address]])),
    ...storage.map((disk) => pairs("Model store", [["Free", bytes(disk.free_bytes)], ["Size", bytes(disk.total_bytes)], ["Kind", disk.filesystem]])),
    pairs("Sources that cannot be read", providers.filter((one) => !["ok", "absent"].includes(one.status)).map((one) => [one.name, one.reason ?? one.status])),
  ].filter(Boolean);
}
