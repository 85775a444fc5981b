// Two results side by side: ratios with their intervals, and everything else in which the runs differ.

import { get, part } from "./api.js";
import { figure, when } from "./format.js";
import { card, digest, failed, h, loading, show, standInBadge, table } from "./dom.js";
import { METRICS, titled, verdict } from "./figures.js";
import { of } from "./result.js";
import { nameOf } from "./state.js";

export function compareView(place, a, b, agentA, agentB) {
  const out = h("div", { id: "comparison" }, loading("the comparison"));
  const sides = h("div", { class: "cards" });
  show(place, h("div", { class: "title" }, h("h2", {}, "Comparison"), h("a", { href: `#/compare/${[b, a, agentB, agentA].map((one) => part(one ?? "")).join("/")}` }, "Swap"), h("a", { href: "#/results" }, "All results")), sides, out);
  let closed = false;
  Promise.all([side("First", a, agentA), side("Second", b, agentB)]).then((made) => { if (!closed) show(sides, made); }).catch(() => {});
  get(`/benchmarks/compare?a=${part(a ?? "")}&b=${part(b ?? "")}${agentA ? `&a_agent=${part(agentA)}` : ""}${agentB ? `&b_agent=${part(agentB)}` : ""}`).then((answer) => { if (!closed) show(out, compared(answer)); })
    .catch((error) => show(out, h("p", { class: "caution", role: "alert" }, `These two cannot be compared: ${error.message}`)));
  return () => { closed = true; };
}

async function side(title, jobId, agentId) {
  const job = await get(`/benchmarks/${part(jobId)}${of(agentId)}`);
  const result = job.result_available ? await get(`/benchmarks/${part(jobId)}/result?agent=${part(job.agent_id)}`) : {};
  const environment = result.environment ?? {};
  return card(title, h("p", {}, h("a", { href: `#/result/${part(jobId)}/${part(job.agent_id)}` }, h("strong", {}, job.model ?? "–")), ` on ${nameOf(job.agent_id)} `, standInBadge(environment.ollama_version)),
    h("p", { class: "quiet small" }, [environment.gpu?.join(", ") || environment.cpu, environment.quantization, when(job.finished_at)].filter(Boolean).join(" · "), " ", digest(job.model_digest)));
}

function compared(answer) {
  const left = Object.entries(answer.left_out ?? {});
  return [
    answer.cells.map((cell) => card(answer.cells.length > 1 ? cell.label : "First over second", table([
      { title: "Figure", of: (row) => titled(row.key) },
      { title: "Ratio", number: true, hint: "Mean of the first over mean of the second", of: (row) => h("strong", {}, figure(row.ratio, 3)) },
      { title: "95 % interval", number: true, of: (row) => (row.ci_low === null || row.ci_low === undefined ? "–" : `${figure(row.ci_low, 3)} … ${figure(row.ci_high, 3)}`) },
      { title: "Says", of: (row) => verdict(row.key, row) },
      { title: "n", number: true, of: (row) => `${row.n_a}, ${row.n_b}` },
    ], Object.keys(METRICS).filter((key) => cell.ratios[key]).map((key) => ({ key, ...cell.ratios[key] })), "Nothing that both measured.", "Ratios"))),
    left.length > 0 && card("Left out", left.map(([key, reason]) => h("p", { class: "quiet" }, `${METRICS[key] ? titled(key) : key}: ${reason}`))),
    card("In what the runs differ", table([
      { title: "", of: (one) => (one.weight === "warning" ? h("span", { class: "badge warn" }, "mind") : "") },
      { title: "Field", of: (one) => one.field.replaceAll("_", " ") }, { title: "First", of: (one) => one.a ?? "–" },
      { title: "Second", of: (one) => one.b ?? "–" }, { title: "What it means", of: (one) => one.meaning },
    ], answer.differences, "In nothing that is known.", "Differences")),
  ];
}
