// Models of one machine, with their versions and where others differ.

import { get, part } from "./api.js";
import { bytes, h, isStandIn, notice, show, table, when } from "./dom.js";

export function modelsView(place, agent) {
  let closed = false;
  const draw = async () => {
    const [models, drifted] = await Promise.all([
      get(`/agents/${part(agent.id)}/models?history=true`), get("/models?drifted=true"),
    ]);
    if (closed) return;
    const elsewhere = new Set(drifted.map((one) => one.name));
    const now = models.filter((model) => model.current);
    const before = models.filter((model) => !model.current);
    show(place, h("section", { class: "card" }, h("h3", {}, "Installed"), table(columns(agent, elsewhere), now, "No model is installed. On the machine: ollama pull llama3.2:1b")),
      before.length > 0 && h("section", { class: "card" }, h("h3", {}, "Earlier versions"), table(past, before, "")));
  };
  draw().catch((error) => notice(error.message));
  const timer = setInterval(() => draw().catch(() => {}), 5000);
  return () => { closed = true; clearInterval(timer); };
}

const digest = { title: "Version", of: (model) => h("span", { class: "mono", title: model.digest }, model.digest.slice(0, 12)) };

const columns = (agent, elsewhere) => [
  { title: "Name", of: (model) => [h("strong", {}, model.name), " ",
    (model.details?.loaded || agent.loaded.includes(model.name)) && h("span", { class: "badge good" }, "loaded"), " ",
    elsewhere.has(model.name) && h("span", { class: "badge bad", title: "Machines have different versions under this name" }, "drift"),
    isStandIn(agent.ollama?.version) && h("span", { class: "badge standin" }, "stand-in")].filter(Boolean) },
  digest,
  { title: "Size", number: true, of: (model) => bytes(model.details?.size_bytes) },
  { title: "Parameters", number: true, of: (model) => model.details?.parameter_size ?? "–" },
  { title: "Quantization", of: (model) => model.details?.quantization_level ?? "–" },
  { title: "Context", number: true, of: (model) => String(model.details?.context_length ?? "–") },
  { title: "Can", of: (model) => (model.details?.capabilities ?? []).join(", ") },
  { title: "First seen", of: (model) => when(model.first_seen) },
];

const past = [{ title: "Name", of: (model) => model.name }, digest,
  { title: "First seen", of: (model) => when(model.first_seen) }, { title: "Last seen", of: (model) => when(model.last_seen) }];

// A choice of the models that can generate.
export async function modelChoice(agent) {
  const models = (await get(`/agents/${part(agent.id)}/models`)).filter((model) => model.current);
  const able = models.filter((model) => (model.details?.capabilities ?? ["completion"]).includes("completion"));
  return h("select", { required: true }, able.map((model) => h("option", { value: model.name }, model.name)));
}
