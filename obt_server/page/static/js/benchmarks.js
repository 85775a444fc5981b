// Benchmarks of one machine: start one, follow it live, read what came out.

import { get, part, post, remove } from "./api.js";
import { count, when } from "./format.js";
import { action, card, digest, failed, field, h, loading, redraw, show, since, standInBadge, table } from "./dom.js";
import { LiveBenchmark, OPEN } from "./live.js";
import { modelChoice, noModel } from "./models.js";
import { resultCard } from "./result.js";
import { on, online } from "./state.js";

// For a first look; the others are the agent's own, asked of the server.
const SHORT = { num_iterations: 3, cooldown_s: 0, warmup_iterations: 1, prompt_config: { prompt_tokens: 64, completion_tokens: 32 } };
const LISTED = 50;

export function benchmarkView(place, agent) {
  const start = h("div", {}, loading("models"));
  const live = h("div");
  const detail = h("div", { id: "result" });
  const results = h("div", {}, loading("benchmarks"));
  let following = null;
  let closed = false;
  show(place, start, live, detail, results);

  const list = async () => {
    const jobs = await get(`/benchmarks?agent=${part(agent.id)}&limit=${LISTED}`);
    if (closed) return [];
    redraw(results, card("Benchmarks of this machine", table(columns({ follow, show: reveal, list }), jobs, "None has run on this machine yet.", "Benchmarks of this machine"),
      jobs.length > 0 && h("p", {}, h("a", { href: "#/results" }, "Compare with other machines and models"))));
    return jobs;
  };

  async function reveal(job) {
    show(detail, await resultCard(job));
    detail.scrollIntoView({ block: "nearest" });
  }

  function follow(job) {
    following?.close();
    following = new LiveBenchmark(job, agent, { ended: (now) => {
      following = null;
      show(live);
      list().catch(() => {});
      reveal(now).catch((error) => show(detail, failed(error)));
    } });
    show(live, following.element);
  }

  async function begin(plan) {
    const job = await post("/benchmarks", { agent: agent.id, plan });
    show(detail);
    if (!following) follow({ ...job, model: plan.model_name });
    await list();
  }

  // A job that moved to another state is drawn anew; what it measures meanwhile is not of the list.
  const states = new Map();
  const off = on("job", (job) => {
    if (job.agent_id !== agent.id || states.get(job.job_id) === job.state) return;
    states.set(job.job_id, job.state);
    list().catch(() => {});
  });
  if (online(agent)) startCard(agent, begin).then((made) => show(start, made)).catch((error) => show(start, failed(error)));
  else show(start);
  list().then((jobs) => { const running = jobs.find((job) => OPEN.has(job.state)); if (running && !following && !closed) follow(running); })
    .catch((error) => show(results, failed(error)));
  return () => { closed = true; off(); following?.close(); };
}

async function startCard(agent, begin) {
  const [model, named] = await Promise.all([modelChoice(agent), get("/benchmark-presets")]);
  if (!model) return card("New benchmark", noModel());
  const presets = { short: SHORT, ...named };
  const preset = h("select", { name: "preset" }, Object.entries(presets).map(([name, plan]) => h("option", { value: name, selected: name === "quick" }, `${name}: ${described(plan)}`)));
  const iterations = h("input", { type: "number", min: "1", max: "1000", placeholder: "as the preset", name: "iterations" });
  const context = h("input", { type: "number", min: "1", placeholder: "chosen by the agent", name: "context" });
  return h("form", { class: "card", onsubmit: action(async () => {
    const plan = { model_name: model.value, ...presets[preset.value] };
    if (iterations.value) { plan.num_iterations = Number(iterations.value); delete plan.max_iterations; }
    if (context.value) plan.num_ctx = Number(context.value);
    await begin(plan);
  }) }, h("div", { class: "title" }, h("h3", {}, "New benchmark"), standInBadge(agent.ollama?.version)),
  h("div", { class: "fields" }, field("Model", model), field("Preset", preset), field("Iterations", iterations), field("Context (num_ctx)", context)),
  h("div", { class: "row" }, h("button", {}, "Start"), h("span", { class: "quiet small" }, "Figures compare only where the plans are the same: use the same preset everywhere.")));
}

function described(plan) {
  const shapes = (plan.prompts ?? [plan.prompt_config]).filter(Boolean).map((one) => `${one.prompt_tokens}→${one.completion_tokens}`).join(", ");
  const times = plan.max_iterations ? `${plan.num_iterations}–${plan.max_iterations}` : plan.num_iterations;
  return `${times} × ${shapes} tokens`;
}

const columns = ({ follow, show: reveal, list }) => [
  { title: "Model", of: (job) => job.model ?? "–" },
  { title: "Started", of: (job) => since(job.created_at) },
  { title: "Ended", of: (job) => when(job.finished_at) },
  { title: "State", of: (job) => [stateBadge(job.state), job.error && h("div", { class: "small error" }, job.error.message)] },
  { title: "Model version", of: (job) => digest(job.model_digest) },
  { title: "", of: (job) => h("div", { class: "row" },
    job.result_available && h("button", { class: "plain", type: "button", "data-key": `show ${job.job_id}`, onclick: action(() => reveal(job)) }, "Show"),
    OPEN.has(job.state) && h("button", { class: "plain", type: "button", "data-key": `follow ${job.job_id}`, onclick: () => follow(job) }, "Follow"),
    !OPEN.has(job.state) && h("button", { class: "danger", type: "button", "data-key": `delete ${job.job_id}`, "aria-label": `Delete the benchmark of ${job.model}`, onclick: action(async () => {
      if (!confirm(`Delete this benchmark of ${job.model} (${count(job.result_available ? 1 : 0, "result")})? It cannot be had back.`)) return;
      await remove(`/benchmarks/${part(job.job_id)}?agent=${part(job.agent_id)}`);
      await list();
    }) }, "Delete")) },
];

export const stateBadge = (state) => h("span", { class: state === "completed" ? "badge good" : OPEN.has(state) ? "badge" : "badge bad" }, state);
