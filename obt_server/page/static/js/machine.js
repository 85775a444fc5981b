// One machine: what it is called, how it is, and its views.

import { accessView } from "./access.js";
import { benchmarkView } from "./benchmarks.js";
import { generateView } from "./generate.js";
import { hardwareView } from "./hardware.js";
import { modelsView } from "./models.js";
import { isStandIn } from "./format.js";
import { copyable, h, redraw, show, since } from "./dom.js";
import { agents, on, online } from "./state.js";

const tabs = { hardware: ["Hardware", hardwareView], models: ["Models", modelsView], generate: ["Generate", generateView],
  benchmarks: ["Benchmarks", benchmarkView], access: ["Access", accessView] };

export function machineView(place, id, tab = "hardware") {
  const name = tab in tabs ? tab : "hardware";
  const head = h("div", { class: "title" });
  const trouble = h("div", { role: "status" });
  const inside = h("div");
  let leave = () => {};
  let drawn = null;
  show(place, head, trouble, h("nav", { class: "tabs", "aria-label": "Views of this machine" }, Object.entries(tabs).map(([key, [title]]) =>
    h("a", { href: `#/machine/${encodeURIComponent(id)}/${key}`, "aria-current": key === name ? "page" : null }, title))), inside);
  const off = on("agents", draw);
  draw();
  place.querySelector(".tabs [aria-current]").scrollIntoView({ block: "nearest", inline: "nearest" });
  return () => { off(); leave(); };

  // A view is made anew when the machine or its Ollama comes or goes; else it keeps itself current.
  function draw() {
    const agent = agents.get(id);
    const words = (agent && heading(agent)) ?? [h("h2", {}, "Unknown machine")];
    redraw(head, words);
    const kind = agent ? `${online(agent)} ${agent.ollama?.reachable} ${agent.model_count > 0}` : "gone";
    if (kind === drawn) return;
    drawn = kind;
    leave();
    leave = () => {};
    show(trouble, agent ? problem(agent) : null);
    if (!agent) return show(inside, h("p", { class: "caution" }, "This machine is not enrolled here, or was removed. ", h("a", { href: "#/" }, "All machines")));
    document.title = `${agent.name}, ${tabs[name][0]} · OBT`;
    leave = tabs[name][1](inside, agent) ?? (() => {});
  }
}

function heading(agent) {
  const version = agent.ollama?.version;
  return [h("h2", {}, agent.name),
    online(agent) ? h("span", { class: "badge good" }, "online")
      : h("span", { class: "badge bad" }, agent.last_seen ? since(agent.last_seen, "offline, last seen ") : "offline"),
    version && h("span", { class: isStandIn(version) ? "badge standin" : "badge" }, isStandIn(version) ? "stand-in: scripted figures" : `Ollama ${version}`),
    h("span", { class: "badge" }, `agent ${agent.version}`), h("span", { class: "quiet small mono" }, agent.id)];
}

function problem(agent) {
  if (!online(agent)) {
    return h("div", { class: "caution" }, "This machine is not connected. What it reported before is shown; it comes back by itself. If it does not, on that machine:",
      copyable("obt-agent status"));
  }
  if (agent.ollama && !agent.ollama.reachable) {
    return h("div", { class: "caution" }, `The agent is here, but its Ollama does not answer${agent.ollama.error ? ` (${agent.ollama.error})` : ""}. On that machine:`, copyable("systemctl status ollama"));
  }
  return null;
}
