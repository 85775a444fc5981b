// The way about: everything at once, the results, and each machine.

import { count, isStandIn } from "./format.js";
import { h, redraw, since } from "./dom.js";
import { byName, link, on, online } from "./state.js";

export const sidebar = document.getElementById("machines");
const FILTERED_FROM = 9;
const wanted = h("input", { type: "search", placeholder: "Find a machine", "aria-label": "Find a machine", oninput: () => drawSidebar() });
const entries = h("div", { class: "entries" });
const list = h("div", { class: "entries" });
sidebar.append(entries, wanted, list);
on("link", () => drawSidebar());

export function drawSidebar() {
  const here = location.hash.replace(/^#\/?/, "").split("/");
  const entry = (path, title, note) => h("a", { class: "machine entry", href: `#/${path}`, "data-key": `entry ${path}`, "aria-current": here[0] === path ? "page" : null },
    h("strong", {}, title), note && h("span", { class: "quiet small" }, note));
  const all = byName();
  redraw(entries, entry("", "Machines", link.known ? `${all.filter(online).length} of ${all.length} online` : "loading…"),
    entry("results", "Results", "compare models and machines"), entry("add", "+ Add a machine"));
  wanted.hidden = all.length < FILTERED_FROM;
  const text = wanted.hidden ? "" : wanted.value.trim().toLowerCase();
  const found = all.filter((agent) => agent.name.toLowerCase().includes(text));
  redraw(list, found.map((agent) => machine(agent, here)), found.length === 0 && text && h("p", { class: "quiet small" }, "No machine of that name."));
}

function machine(agent, [page, id, tab]) {
  const open = page === "machine" && decodeURIComponent(id ?? "") === agent.id;
  return h("a", { class: "machine", href: `#/machine/${encodeURIComponent(agent.id)}/${page === "machine" && tab ? tab : "hardware"}`,
    "data-key": agent.id, "aria-current": open ? "page" : null },
  h("strong", {}, h("span", { class: online(agent) ? "dot online" : "dot", "aria-hidden": "true" }), agent.name),
  h("span", { class: "quiet small" }, summary(agent)));
}

export function summary(agent) {
  if (!online(agent)) return agent.last_seen ? since(agent.last_seen, "offline, last seen ") : "offline, never seen";
  if (!agent.ollama) return "online";
  if (!agent.ollama.reachable) return "online, Ollama does not answer";
  const kind = isStandIn(agent.ollama.version) ? "stand-in" : `Ollama ${agent.ollama.version}`;
  return `${kind}, ${count(agent.model_count ?? 0, "model")}${agent.loaded.length ? `, ${agent.loaded.length} loaded` : ""}${agent.jobs?.open ? ", measuring" : ""}`;
}
