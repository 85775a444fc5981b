// Models of one machine, with their versions and where others differ.

import { get, part } from "./api.js";
import { bytes, isStandIn, when } from "./format.js";
import { card, copyable, digest, failed, h, loading, redraw, show, table } from "./dom.js";
import { agents, nameOf, on } from "./state.js";

export function modelsView(place, agent) {
  let closed = false;
  let before = "";
  show(place, loading("models"));
  const draw = async () => {
    const [models, drifted] = await Promise.all([
      get(`/agents/${part(agent.id)}/models?history=true`), get("/models?drifted=true"),
    ]);
    const loaded = agents.get(agent.id)?.loaded ?? [];
    const text = JSON.stringify([models, drifted, loaded]);
    if (closed || text === before) return;
    before = text;
    const elsewhere = new Map(drifted.map((one) => [one.name, one]));
    const now = models.filter((model) => model.current);
    const past = models.filter((model) => !model.current);
    redraw(place, card("Installed", table(columns(agent, loaded, elsewhere), now, noModel(), "Installed models")),
      past.length > 0 && card("Earlier versions", table(gone, past, "", "Earlier versions")));
  };
  draw().catch((error) => show(place, failed(error)));
  const off = on("agents", ({ id }) => { if (!id || id === agent.id) draw().catch(() => {}); });
  return () => { closed = true; off(); };
}

export const noModel = () => h("div", {}, h("p", {}, "No model is installed. On that machine:"), copyable("ollama pull llama3.2:1b"),
  h("p", { class: "quiet small" }, "It is listed here within seconds."));

const columns = (agent, loaded, elsewhere) => [
  { title: "Name", of: (model) => [h("strong", {}, model.name), " ",
    (model.details?.loaded || loaded.includes(model.name)) && h("span", { class: "badge good" }, "loaded"), " ",
    elsewhere.has(model.name) && drift(model, elsewhere.get(model.name)),
    isStandIn(agent.ollama?.version) && h("span", { class: "badge standin" }, "stand-in")].filter(Boolean) },
  { title: "Version", of: (model) => digest(model.digest), hint: "The digest: models of one name may differ" },
  { title: "Size", number: true, of: (model) => bytes(model.details?.size_bytes) },
  { title: "Parameters", number: true, of: (model) => model.details?.parameter_size ?? "–" },
  { title: "Quantization", of: (model) => model.details?.quantization_level ?? "–" },
  { title: "Context", number: true, hint: "Tokens, at most", of: (model) => model.details?.context_length?.toLocaleString() ?? "–" },
  { title: "Can", of: (model) => (model.details?.capabilities ?? []).join(", ") },
  { title: "First seen", of: (model) => when(model.first_seen) },
];

function drift(model, { versions }) {
  const others = versions.filter((one) => one.current && one.digest !== model.digest).map((one) => one.agent_name || nameOf(one.agent_id));
  return h("span", { class: "badge bad" }, `differs from ${others.slice(0, 3).join(", ")}${others.length > 3 ? ` and ${others.length - 3} more` : ""}`);
}

const gone = [{ title: "Name", of: (model) => model.name }, { title: "Version", of: (model) => digest(model.digest) },
  { title: "First seen", of: (model) => when(model.first_seen) }, { title: "Last seen", of: (model) => when(model.last_seen) }];

// A choice of the models that can generate; null when none is installed.
export async function modelChoice(agent) {
  const models = (await get(`/agents/${part(agent.id)}/models`)).filter((model) => model.current);
  const able = models.filter((model) => (model.details?.capabilities ?? ["completion"]).includes("completion"));
  if (able.length === 0) return null;
  return h("select", { required: true, name: "model" }, able.map((model) => h("option", { value: model.name }, model.name)));
}
