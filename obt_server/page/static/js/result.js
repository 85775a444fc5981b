// One result: figures with their intervals, what a reader must know, how the machine was meanwhile.

import { base, get, part } from "./api.js";
import { Trace } from "./charts.js";
import { bytes, count, figure, isStandIn, short, significant, when } from "./format.js";
import { card, digest, failed, h, loading, show, standInBadge, table } from "./dom.js";
import { summaryTable } from "./figures.js";
import { KINDS } from "./live.js";
import { pick } from "./picked.js";
import { nameOf } from "./state.js";

export function resultView(place, jobId, agentId) {
  show(place, loading("the result"));
  let closed = false;
  get(`/benchmarks/${part(jobId)}${of(agentId)}`).then(async (job) => {
    const made = await resultCard(job);
    if (!closed) show(place, h("div", { class: "title" }, h("h2", {}, job.model ?? "Result"), h("span", { class: "quiet" }, `on ${nameOf(job.agent_id)}, ${when(job.finished_at)}`)), made);
  }).catch((error) => show(place, h("h2", {}, "Result"), failed(error), h("a", { href: "#/results" }, "All results")));
  return () => { closed = true; };
}

// A job is a machine and an id; an address without the machine means the one that was asked for it.
export const of = (agentId) => (agentId ? `?agent=${part(agentId)}` : "");

export async function resultCard(job) {
  if (!job.result_available) return card(`${job.model}: ${job.state}`, h("p", {}, job.error?.message ?? "There is no result."));
  const result = await get(`/benchmarks/${part(job.job_id)}/result?agent=${part(job.agent_id)}`);
  const environment = result.environment ?? {};
  const standIn = isStandIn(environment.ollama_version);
  return h("section", { class: "card" },
    h("div", { class: "title" }, h("h3", {}, `Result: ${environment.model ?? job.model}`), h("span", { class: result.status === "completed" ? "badge good" : "badge bad" }, result.status), standInBadge(environment.ollama_version)),
    result.error && h("p", { class: "caution" }, result.error),
    (result.warnings ?? []).map(caution),
    cells(result).map((cell, _, all) => [all.length > 1 && h("h3", { class: "gap" }, cell.label), summaryTable(cell.summary ?? {}, standIn)]),
    coldLoad(result.cold_load), charts(result.samples ?? []), iterations(result.metrics ?? []), setting(environment, job),
    h("div", { class: "row gap" }, h("a", { class: "button", href: "#/results", onclick: () => pick(job) }, "Compare with another"),
      h("a", { href: `#/result/${part(job.job_id)}/${part(job.agent_id)}` }, "Link to this result"),
      h("a", { href: `${base}/benchmarks/${part(job.job_id)}/result?agent=${part(job.agent_id)}`, download: `${job.job_id}.json` }, "The whole result as JSON")));
}

const cells = (result) => (result.cells?.length ? result.cells : [{ label: "", summary: result.summary }]);

export const caution = (warning) => h("p", { class: "caution" }, warning.message, h("br"), h("strong", {}, warning.action));

function coldLoad(cold) {
  return cold && h("p", {}, "Loading from nothing took ", h("strong", {}, figure(cold.wall_ms / 1000, 2, " s")),
    cold.page_cache === "warm" ? " with the file in the system's cache." : ".");
}

function charts(samples) {
  const known = Object.keys(KINDS).filter((key) => samples.some((sample) => sample[key] !== undefined && sample[key] !== null));
  if (samples.length < 2 || known.length === 0) return null;
  const seconds = (samples.at(-1).t_ms - samples[0].t_ms) / 1000;
  return h("details", { open: true }, h("summary", {}, `During the run, ${figure(seconds, 0, " s")}`), h("div", { class: "traces" }, known.map((key) => {
    const trace = new Trace(KINDS[key].name, KINDS[key]);
    trace.fill(samples.map((sample) => sample[key]));
    return trace.element;
  })));
}

function iterations(metrics) {
  if (metrics.length === 0) return null;
  const flagged = metrics.filter((one) => one.flags?.length || one.excluded).length;
  return h("details", {}, h("summary", {}, `${count(metrics.length, "iteration")}${flagged ? `, ${flagged} with a flag` : ""}`), table([
    { title: "No.", number: true, of: (one) => String(one.index + 1) },
    { title: "Decode, tok/s", number: true, of: (one) => significant(one.decode_tps_corrected ?? one.tokens_per_second) },
    { title: "TTFT, ms", number: true, of: (one) => significant(one.first_token_ms) },
    { title: "Prompt tokens", number: true, of: (one) => String(one.prompt_tokens ?? "–") },
    { title: "Output tokens", number: true, of: (one) => String(one.completion_tokens ?? "–") },
    { title: "Power, W", number: true, of: (one) => significant(one.power_usage_watts) },
    { title: "Flags", of: (one) => [...(one.flags ?? []).map((flag) => h("span", { class: "badge warn" }, flag)), one.excluded && h("span", { class: "badge bad" }, `left out: ${one.excluded}`)] },
  ], metrics, "", "Iterations"));
}

function setting(environment, job) {
  const entries = [["Machine", nameOf(job.agent_id)], ["Model version", digest(environment.model_digest ?? job.model_digest)], ["Parameters", environment.parameter_size], ["Quantization", environment.quantization],
    ["Ollama", environment.ollama_version], ["GPU", (environment.gpu ?? []).join(", ") || "none"], ["Driver", environment.driver], ["CPU", environment.cpu], ["Memory", environment.memory_bytes && bytes(environment.memory_bytes)],
    ["System", environment.os], ["Agent", environment.agent_version], ["Plan", environment.plan_hash && h("span", { class: "mono", title: environment.plan_hash }, short(environment.plan_hash))]];
  return h("details", {}, h("summary", {}, "Where and on what"), h("dl", { class: "setting" }, entries.filter(([, value]) => value).map(([name, value]) =>
    h("div", { class: "pair" }, h("dt", { class: "quiet" }, name), h("dd", {}, value)))));
}
