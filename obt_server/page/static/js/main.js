// The frame: signing in, the list of machines, and which view is shown.

import { events, get, post, remove } from "./api.js";
import { action, ago, field, h, isStandIn, notice, show } from "./dom.js";
import { accessView } from "./access.js";
import { benchmarkView } from "./benchmarks.js";
import { generateView } from "./generate.js";
import { hardwareView } from "./hardware.js";
import { modelsView } from "./models.js";

const main = document.getElementById("main");
const list = document.getElementById("machines");
const live = document.getElementById("live");
const signOut = document.getElementById("sign-out");
const agents = new Map();
const tabs = { hardware: ["Hardware", hardwareView], models: ["Models", modelsView], generate: ["Generate", generateView],
  benchmarks: ["Benchmarks", benchmarkView], access: ["Access", accessView] };
let leave = () => {};
let stopEvents = () => {};
let shown = "";

addEventListener("hashchange", route);
addEventListener("signed-out", signedOut);
signOut.addEventListener("click", action(async () => { await remove("/session"); signedOut(); }));
start();

async function start() {
  try {
    const session = await get("/session");
    signedIn(session.name);
  } catch (error) {
    if (error.status !== 401) notice(error.message);
    signedOut();
  }
}

function signedOut() {
  stopEvents();
  leave();
  shown = "";
  agents.clear();
  list.hidden = signOut.hidden = true;
  live.textContent = "";
  const name = h("input", { name: "name", autocomplete: "username", value: "admin", required: true });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const form = h("form", { class: "card sign-in", onsubmit: action(async () => {
    const session = await post("/session", { name: name.value, password: password.value });
    signedIn(session.name);
  }) }, h("h2", {}, "Sign in"),
    h("p", { class: "quiet" }, "The first password was printed when the server was started first."),
    field("Name", name), field("Password", password), h("button", {}, "Sign in"));
  show(main, form);
  password.focus();
}

function signedIn(name) {
  signOut.hidden = list.hidden = false;
  signOut.textContent = `Sign out ${name}`;
  stopEvents = events("/events", {
    agent: (agent) => { agents.set(agent.id, agent); drawList(); if (current().id === agent.id || agents.size === 1) route(); },
    agent_gone: ({ id }) => { agents.delete(id); drawList(); route(); },
    job: (job) => dispatchEvent(new CustomEvent("job", { detail: job })),
    open: () => { live.textContent = "Live"; },
    lost: () => { live.textContent = "The server does not answer; trying again."; },
  });
  drawList();
  route();
}

function current() {
  const [, id = "", tab = "hardware"] = location.hash.split("/");
  return { id: decodeURIComponent(id), tab: tab in tabs ? tab : "hardware" };
}

const online = (agent) => agent.presence === "online";

function drawList() {
  const open = current().id;
  const cards = [...agents.values()].sort((a, b) => a.name.localeCompare(b.name)).map((agent) => h("a", {
    class: "machine", href: `#/${encodeURIComponent(agent.id)}/${current().tab}`, "aria-current": agent.id === open ? "page" : null,
  }, h("strong", {}, h("span", { class: online(agent) ? "dot online" : "dot", "aria-hidden": "true" }), agent.name),
    h("span", { class: "quiet small" }, summary(agent))));
  show(list, cards, h("a", { class: "machine", href: "#/", "aria-current": open === "" ? "page" : null },
    h("strong", {}, "+ Add a machine"), h("span", { class: "quiet small" }, "issue a join token")));
}

function summary(agent) {
  if (!online(agent)) return agent.last_seen ? `offline, seen ${ago(agent.last_seen)}` : "offline";
  if (!agent.ollama?.reachable) return "online, Ollama does not answer";
  const kind = isStandIn(agent.ollama.version) ? "stand-in" : `Ollama ${agent.ollama.version}`;
  return `${kind}, ${agent.model_count ?? 0} models${agent.loaded.length ? `, ${agent.loaded.length} loaded` : ""}`;
}

// Draws when another machine or tab is chosen, or the machine came or went; else the view keeps itself current.
function route() {
  const { id, tab } = current();
  const agent = agents.get(id);
  const key = `${id}/${tab}/${agent ? agent.presence : "none"}`;
  if (signOut.hidden || key === shown) return;
  shown = key;
  leave();
  leave = () => {};
  drawList();
  if (!agent) {
    show(main, h("div", { class: "title" }, h("h2", {}, agents.size ? "Add a machine" : "No machine yet")));
    leave = accessView(main, null) ?? (() => {});
    return;
  }
  const place = h("div");
  show(main, head(agent), h("nav", { class: "tabs", "aria-label": "Views" }, Object.entries(tabs).map(([name, [title]]) =>
    h("a", { href: `#/${encodeURIComponent(id)}/${name}`, "aria-current": name === tab ? "page" : null }, title))), place);
  leave = tabs[tab][1](place, agent) ?? (() => {});
}

function head(agent) {
  const state = online(agent) ? h("span", { class: "badge good" }, "online") : h("span", { class: "badge bad" }, "offline");
  const version = agent.ollama?.version;
  return h("div", { class: "title" }, h("h2", {}, agent.name), state,
    version && h("span", { class: isStandIn(version) ? "badge standin" : "badge" }, isStandIn(version) ? "stand-in: scripted figures" : `Ollama ${version}`),
    h("span", { class: "badge" }, `agent ${agent.version}`), h("span", { class: "quiet small mono" }, agent.id));
}
