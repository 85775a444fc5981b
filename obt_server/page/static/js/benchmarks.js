// Benchmarks: start one, follow it live, read results, compare two.

import { events, get, part, post, remove } from "./api.js";
import { action, field, figure, h, isStandIn, notice, percent, show, standInBadge, table, when } from "./dom.js";
import { modelChoice } from "./models.js";

const presets = {
  quick: { num_iterations: 3, cooldown_s: 0 },
  standard: { num_iterations: 5, max_iterations: 20, cold_load: true },
  short: { num_iterations: 3, cooldown_s: 0, warmup_iterations: 1, prompt_config: { prompt_tokens: 64, completion_tokens: 32 } },
};
const open = new Set(["starting", "accepted", "queued", "running"]);

export function benchmarkView(place, agent) {
  const start = h("div");
  const live = h("div", { "aria-live": "polite" });
  const results = h("div");
  const detail = h("div", { id: "result" });
  let stop = () => {};
  show(place, start, live, detail, results);

  const list = async () => {
    const jobs = await get(`/benchmarks?agent=${part(agent.id)}&limit=30`);
    show(results, h("section", { class: "card" }, h("h3", {}, "Results"), comparison(jobs),
      table(columns(follow, (job) => result(job)), jobs, "No benchmark has run on this machine yet.")));
    return jobs;
  };
  const result = async (job) => { show(detail, await resultCard(job)); detail.scrollIntoView({ block: "nearest" }); };
  const columns = (onFollow, onShow) => resultColumns(onFollow, onShow, list);

  function follow(job) {
    stop();
    stop = events(`/benchmarks/${part(job.job_id)}/progress`, {
      job: (now) => show(live, liveCard(now)),
      end: (now) => { stop(); rates.clear(); show(live); list().catch(() => {}); result(now).catch((error) => notice(error.message)); },
      error: (data) => { stop(); if (data) notice(data.error.message); },
    });
  }

  function comparison(jobs) {
    const done = jobs.filter((job) => job.state === "completed");
    if (done.length < 2) return null;
    const choice = (index) => h("select", {}, done.map((job, at) => h("option", { value: job.job_id, selected: at === index }, `${job.model}, ${when(job.finished_at)}`)));
    const [a, b] = [choice(1), choice(0)];
    const out = h("div");
    return h("form", { onsubmit: action(async () => show(out, compared(await get(`/benchmarks/compare?a=${part(a.value)}&b=${part(b.value)}`)))) },
      h("div", { class: "fields" }, field("Compare", a), field("with", b)), h("div", { class: "row" }, h("button", { class: "plain" }, "Compare")), out);
  }

  modelChoice(agent).then((model) => {
    const preset = h("select", {}, Object.keys(presets).map((name) => h("option", { value: name }, name)));
    const iterations = h("input", { type: "number", min: "1", max: "1000", placeholder: "as the preset" });
    const context = h("input", { type: "number", min: "1", placeholder: "chosen by the agent" });
    show(start, h("form", { class: "card", onsubmit: action(async () => {
      const plan = { model_name: model.value, ...presets[preset.value] };
      if (iterations.value) { plan.num_iterations = Number(iterations.value); delete plan.max_iterations; }
      if (context.value) plan.num_ctx = Number(context.value);
      const job = await post("/benchmarks", { agent: agent.id, plan });
      show(detail);
      follow(job);
      list().catch(() => {});
    }) }, h("div", { class: "title" }, h("h3", {}, "New benchmark"), standInBadge(agent.ollama?.version)),
    h("div", { class: "fields" }, field("Model", model), field("Preset", preset), field("Iterations", iterations), field("Context (num_ctx)", context)),
    h("button", {}, "Start")));
  }).catch((error) => notice(error.message));

  list().then((jobs) => { const running = jobs.find((job) => open.has(job.state)); if (running) follow(running); }).catch((error) => notice(error.message));
  return () => stop();

  function liveCard(job) {
    const progress = job.progress ?? {};
    if (progress.tokens_per_second) rates.push(progress.tokens_per_second);
    const planned = progress.iterations_planned ?? 0;
    return h("section", { class: "card" }, h("div", { class: "title" }, h("h3", {}, `${job.state === "queued" ? "Queued" : "Running"}: ${job.model ?? ""}`), h("span", { class: "badge" }, progress.phase ?? job.state), standInBadge(agent.ollama?.version)),
      progress.waiting_for && h("p", {}, `Waiting for ${progress.waiting_for}${progress.position > 1 ? ` (${progress.position} before it)` : ""}.`),
      h("progress", { max: String(Math.max(planned, 1)), value: String(Math.max(0, (progress.iteration ?? 0) - (progress.iteration ? 0.5 : 0))), "aria-label": "Iterations" }),
      h("div", { class: "figures" }, one(progress.iteration ? `${progress.iteration} of ${planned || "?"}` : "–", "iteration"),
        one(figure(progress.tokens_per_second), "tokens/s"), one(figure(progress.first_token_ms, 0, " ms"), "TTFT"),
        one(percent(progress.cpu_utilization_ratio), "CPU"), one(percent(progress.gpu_utilization_ratio), "GPU"),
        one(progress.remaining_s === undefined ? "–" : `${Math.ceil(progress.remaining_s)} s`, "left, about")),
      rates.line(),
      h("button", { class: "danger", type: "button", onclick: action(async () => { await post(`/benchmarks/${part(job.job_id)}/cancel`); }) }, "Cancel"));
  }
}

// The last rates of the running benchmark, as a line.
const rates = {
  values: [],
  push(value) { this.values = [...this.values, value].slice(-120); },
  clear() { this.values = []; },
  line() {
    if (this.values.length < 2) return null;
    const most = Math.max(...this.values);
    const points = this.values.map((value, at) => `${(at / (this.values.length - 1)) * 100},${40 - (value / most) * 38}`).join(" ");
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `tokens per second, at most ${most.toFixed(1)}`);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", points);
    svg.append(line);
    return svg;
  },
};

const one = (value, name) => h("div", {}, h("b", {}, String(value)), h("span", {}, name));

const resultColumns = (follow, show_, list) => [
  { title: "Model", of: (job) => job.model ?? "–" },
  { title: "Ended", of: (job) => when(job.finished_at) },
  { title: "State", of: (job) => h("span", { class: job.state === "completed" ? "badge good" : open.has(job.state) ? "badge" : "badge bad" }, job.state) },
  { title: "Model version", of: (job) => h("span", { class: "mono" }, (job.model_digest ?? "").slice(0, 12)) },
  { title: "", of: (job) => h("div", { class: "row" },
    job.result_available && h("button", { class: "plain", type: "button", onclick: action(() => show_(job)) }, "Show"),
    open.has(job.state) && h("button", { class: "plain", type: "button", onclick: () => follow(job) }, "Follow"),
    !open.has(job.state) && h("button", { class: "danger", type: "button", onclick: action(async () => { await remove(`/benchmarks/${part(job.job_id)}`); await list(); }) }, "Delete")) },
];

const metrics = [["decode_tps_corrected", "Decode", "tokens/s"], ["tokens_per_second", "Tokens/s as Ollama counts", "tokens/s"], ["prefill_tps", "Prefill", "tokens/s"],
  ["first_token_ms", "TTFT", "ms"], ["average_token_ms", "TPOT", "ms"], ["total_duration_ms", "End to end", "ms"],
  ["cpu_usage_percent", "CPU", "%"], ["gpu_usage_percent", "GPU", "%"], ["power_usage_watts", "Power", "W"], ["joules_per_output_token", "Energy", "J/token"]];

async function resultCard(job) {
  if (!job.result_available) return h("section", { class: "card" }, h("h3", {}, `${job.model}: ${job.state}`), h("p", {}, job.error?.message ?? "There is no result."));
  const result = await get(`/benchmarks/${part(job.job_id)}/result`);
  const environment = result.environment ?? {};
  const cells = result.cells ?? [];
  return h("section", { class: "card" }, h("div", { class: "title" }, h("h3", {}, `Result: ${environment.model ?? job.model}`), h("span", { class: "badge" }, result.status), standInBadge(environment.ollama_version)),
    result.error && h("p", { class: "caution" }, result.error),
    cells.map((cell) => [cells.length > 1 && h("h3", {}, cell.label), summaryTable(cell.summary ?? {}, isStandIn(environment.ollama_version))]),
    cells.length === 0 && summaryTable(result.summary ?? {}, isStandIn(environment.ollama_version)),
    (result.warnings ?? []).map((warning) => h("p", { class: "caution" }, warning.message, " ", h("strong", {}, warning.action))),
    h("p", { class: "quiet small" }, `${(result.metrics ?? []).length} iterations · Ollama ${environment.ollama_version ?? "?"} · ${environment.quantization ?? ""} · plan ${(environment.plan_hash ?? "").slice(0, 12)}`),
    h("a", { href: `/api/v1/benchmarks/${part(job.job_id)}/result`, download: `${job.job_id}.json` }, "The whole result as JSON"));
}

function summaryTable(summary, standIn) {
  const rows = metrics.filter(([key]) => summary[key]).map(([key, name, unit]) => ({ name, unit, ...summary[key] }));
  return table([
    { title: standIn ? "Figure (stand-in)" : "Figure", of: (row) => `${row.name}, ${row.unit}` },
    { title: "Median", number: true, of: (row) => h("strong", {}, figure(row.median, 2)) },
    { title: "95 % interval of the mean", number: true, of: (row) => (row.ci_low === null || row.ci_low === undefined ? "–" : `${figure(row.ci_low, 2)} … ${figure(row.ci_high, 2)}`) },
    { title: "Spread (cv)", number: true, of: (row) => (row.cv === null || row.cv === undefined ? "–" : percent(row.cv)) },
    { title: "n", number: true, of: (row) => String(row.n) },
  ], rows, "Nothing was measured.");
}

// Ratios of the first to the second, and where the two runs differ.
function compared(answer) {
  return h("div", { id: "comparison" },
    answer.cells.map((cell) => [answer.cells.length > 1 && h("h3", {}, cell.label), table([
      { title: `${answer.model_a ?? "first"} / ${answer.model_b ?? "second"}`, of: (row) => row.name },
      { title: "Ratio", number: true, of: (row) => h("strong", {}, figure(row.ratio, 3)) },
      { title: "Interval", number: true, of: (row) => (row.ci_low === null ? "–" : `${figure(row.ci_low, 3)} … ${figure(row.ci_high, 3)}`) },
    ], metrics.filter(([key]) => cell.ratios[key]).map(([key, name]) => ({ name, ...cell.ratios[key] })), "Nothing that both measured.")]),
    answer.differences.length > 0 && table([
      { title: "They differ in", of: (one_) => one_.field }, { title: "First", of: (one_) => one_.a ?? "–" },
      { title: "Second", of: (one_) => one_.b ?? "–" }, { title: "What it means", of: (one_) => one_.meaning },
    ], answer.differences, ""));
}
