// All machines at a glance, from their heartbeats; with none yet, how to add one.

import { addView } from "./add.js";
import { bytes, figure, isStandIn, percent } from "./format.js";
import { card, h, redraw, since, table } from "./dom.js";
import { agents, byName, on, online } from "./state.js";

export function overviewView(place) {
  let leaveAdd = null;
  draw();
  const off = on("agents", draw);
  return () => { off(); leaveAdd?.(); };

  function draw() {
    if (agents.size === 0) {
      leaveAdd ??= addView(place);
      return;
    }
    leaveAdd?.();
    leaveAdd = null;
    redraw(place, h("div", { class: "title" }, h("h2", {}, "Machines")), card(null, table(columns, byName(), "", "Machines")));
  }
}

const path = (agent) => `#/machine/${encodeURIComponent(agent.id)}/hardware`;
const gpus = (agent) => agent.hardware?.gpus ?? [];
const each = (agent, key, words) => gpus(agent).map((gpu) => h("div", {}, words(gpu[key])));
const none = (agent, content) => (content.length ? content : online(agent) && agent.hardware ? "–" : "");

const columns = [
  { title: "Machine", of: (agent) => [h("a", { href: path(agent), "data-key": agent.id }, h("strong", {}, agent.name)), " ", state(agent)] },
  { title: "Ollama", of: ollama },
  { title: "Models", number: true, of: (agent) => String(agent.model_count ?? "–") },
  { title: "Loaded", of: (agent) => agent.loaded.map((name) => h("div", {}, name)) },
  { title: "CPU", number: true, of: (agent) => percent(agent.hardware?.cpu_utilization_ratio) },
  { title: "Memory used", number: true, of: (agent) => bytes(agent.hardware?.memory_used_bytes) },
  { title: "GPU busy", number: true, of: (agent) => none(agent, each(agent, "utilization_ratio", percent)) },
  { title: "GPU memory used", number: true, of: (agent) => none(agent, each(agent, "memory_used_bytes", bytes)) },
  { title: "GPU °C", number: true, of: (agent) => none(agent, each(agent, "temperature_celsius", (value) => figure(value, 0))) },
  { title: "GPU W", number: true, of: (agent) => none(agent, each(agent, "power_watts", (value) => figure(value, 0))) },
];

function state(agent) {
  if (online(agent)) return h("span", { class: "badge good" }, agent.jobs?.open ? "measuring" : "online");
  return h("span", { class: "badge bad" }, agent.last_seen ? since(agent.last_seen, "last seen ") : "never seen");
}

function ollama(agent) {
  if (!online(agent) || !agent.ollama) return "–";
  if (!agent.ollama.reachable) return h("span", { class: "badge bad" }, "does not answer");
  return isStandIn(agent.ollama.version) ? h("span", { class: "badge standin" }, "stand-in") : agent.ollama.version;
}
