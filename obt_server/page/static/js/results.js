// All results over models and machines: sorted, narrowed down, and two of them picked for a comparison.

import { get, part, remove } from "./api.js";
import { count, isStandIn, short, significant, when } from "./format.js";
import { action, card, digest, failed, field, h, loading, redraw, show, table } from "./dom.js";
import { METRICS, brief, interval } from "./figures.js";
import { drop, isPicked, keyOf, pick, picked } from "./picked.js";
import { on } from "./state.js";

const PAGE = 200;
const wanted = { text: "", agent: "", plan: "", clean: false }; // kept while one goes about
const order = { key: "finished_at", down: true };

export function resultsView(place) {
  let rows = [];
  let more = false;
  let closed = false;
  const body = h("div", {}, loading("results"));
  const filters = h("div", { class: "fields" });
  const picking = h("div", { class: "row picking", role: "status" });
  show(place, h("div", { class: "title" }, h("h2", {}, "Results"), h("span", { class: "quiet" }, "of all machines and models")), h("section", { class: "card" }, filters, picking, body));
  load().catch((error) => show(body, failed(error)));
  const ended = new Set();
  const off = on("job", (job) => {
    if (!["completed", "failed", "cancelled", "interrupted"].includes(job.state) || ended.has(job.job_id)) return;
    ended.add(job.job_id);
    load().catch(() => {});
  });
  return () => { closed = true; off(); };

  async function load(before) {
    const found = await get(`/results?limit=${PAGE}${before ? `&before=${before}` : ""}`);
    if (closed) return;
    more = found.length === PAGE;
    rows = [...(before ? rows : []), ...found.flatMap(perCell)];
    drawFilters();
    draw();
  }

  function drawFilters() {
    if (rows.length === 0) return;
    const choice = (name, all, options) => {
      const select = h("select", { "data-key": name, onchange: () => { wanted[name] = select.value; draw(); } }, h("option", { value: "" }, all), options.map(([value, title]) => h("option", { value, selected: value === wanted[name] }, title)));
      return select;
    };
    const text = h("input", { type: "search", "data-key": "text", value: wanted.text, placeholder: "model, machine, GPU, digest", oninput: () => { wanted.text = text.value; draw(); } });
    const clean = h("input", { type: "checkbox", "data-key": "clean", checked: wanted.clean, onchange: () => { wanted.clean = clean.checked; draw(); } });
    redraw(filters, field("Find", text), field("Machine", choice("agent", "all", machines(rows))), field("Plan", choice("plan", "all", plans(rows))),
      h("label", { class: "check" }, clean, "without warnings only"));
  }

  function draw() {
    const found = sorted(rows.filter(passes));
    const top = Math.max(...found.map((row) => row.summary.decode_tps_corrected?.median ?? 0), 0);
    redraw(body, found.length ? table(columns({ top, draw, load, energy: found.some((row) => row.summary.joules_per_output_token) }), found, "", "Results") : empty(rows.length),
      h("p", { class: "quiet small" }, `${count(found.length, "result")} shown. Median, and the 95 % interval of the mean below it.`),
      more && h("button", { class: "plain", type: "button", onclick: action(() => load(rows.at(-1).created_at)) }, "Show older"));
    drawPicking(picking, rows);
  }
}

const perCell = (result) => (result.cells.length ? result.cells : [{ index: 0, label: "", summary: {} }])
  .map((cell) => ({ ...result, cell: cell.index, label: cell.label, several: result.cells.length > 1, summary: cell.summary, warnings: result.warnings.filter((one) => (one.cell ?? cell.index) === cell.index) }));

const unique = (entries) => [...new Map(entries).entries()].sort((a, b) => a[1].localeCompare(b[1]));
const machines = (rows) => unique(rows.map((row) => [row.agent_id, row.agent_name]));
const plans = (rows) => unique(rows.filter((row) => row.plan_hash).map((row) => [row.plan_hash, `${row.label} (${short(row.plan_hash).slice(0, 6)})`]));

function passes(row) {
  const text = wanted.text.trim().toLowerCase();
  const words = [row.model, row.agent_name, row.model_digest, row.quantization, row.parameter_size, row.cpu, ...row.gpu].join(" ").toLowerCase();
  return (!text || text.split(/\s+/).every((word) => words.includes(word))) && (!wanted.agent || row.agent_id === wanted.agent)
    && (!wanted.plan || row.plan_hash === wanted.plan) && (!wanted.clean || row.warnings.length === 0);
}

const empty = (all) => (all ? h("p", { class: "quiet" }, "No result fits these choices.")
  : h("p", {}, "No benchmark has ended yet. Start one under Benchmarks of a machine; it is listed here when it is done."));

const value = (row, key) => (key in row ? row[key] : row.summary[key]?.median);

// Results without the figure come last, whichever way it is sorted.
function sorted(rows) {
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a, order.key), value(b, order.key)];
    if ((x ?? null) === null || (y ?? null) === null) return ((x ?? null) === null) - ((y ?? null) === null);
    return (typeof x === "string" ? x.localeCompare(y) : x - y) * (order.down ? -1 : 1);
  });
}

function columns({ top, draw, load, energy }) {
  const sort = (key) => ({ active: order.key === key, down: order.down, toggle: () => {
    Object.assign(order, order.key === key ? { down: !order.down } : { key, down: key in METRICS ? METRICS[key].better === "higher" : !["model", "agent_name"].includes(key) });
    draw();
  } });
  const metric = (key, before) => ({ title: brief(key), number: true, sort: sort(key), of: (row) => [before?.(row), h("strong", {}, significant(row.summary[key]?.median)),
    h("div", { class: "quiet small" }, row.summary[key] ? interval(row.summary[key]) : "")] });
  const bar = (row) => (top && row.summary.decode_tps_corrected ? h("progress", { class: "beside", max: String(top), value: String(row.summary.decode_tps_corrected.median), "aria-hidden": "true" }) : null);
  return [
    { title: "Pick", of: (row) => chooser(row, draw) },
    { title: "Model", sort: sort("model"), of: (row) => [h("a", { href: `#/result/${part(row.job_id)}/${part(row.agent_id)}` }, h("strong", {}, row.model ?? "–")), h("div", { class: "quiet small" }, [row.parameter_size, row.quantization].filter(Boolean).join(" "), " ", digest(row.model_digest)), isStandIn(row.ollama_version) && h("span", { class: "badge standin" }, "stand-in")] },
    { title: "Machine", sort: sort("agent_name"), of: (row) => [h("a", { href: `#/machine/${part(row.agent_id)}/benchmarks` }, row.agent_name || "–"), h("div", { class: "quiet small" }, row.gpu.join(", ") || row.cpu || "")] },
    { title: "Plan", sort: sort("label"), of: (row) => [h("span", { class: "keep" }, row.label || "–"), h("div", { class: "quiet small mono", title: row.plan_hash }, short(row.plan_hash).slice(0, 6))] },
    metric("decode_tps_corrected", bar), metric("first_token_ms"), { title: "To know", of: notes }, metric("prefill_tps_ttft"), ...(energy ? [metric("joules_per_output_token")] : []),
    { title: "n", number: true, hint: "Iterations in the figures", of: (row) => String(row.summary.decode_tps_corrected?.n ?? row.iterations - row.excluded) },
    { title: "Ended", sort: sort("finished_at"), of: (row) => when(row.finished_at) },
    { title: "", of: (row) => row.cell === 0 && h("button", { class: "danger", type: "button", "data-key": `delete ${row.agent_id} ${row.job_id}`, "aria-label": `Delete the result of ${row.model} on ${row.agent_name}`, onclick: action(async () => {
      if (!confirm(`Delete this result of ${row.model} on ${row.agent_name}? It cannot be had back.`)) return;
      await remove(`/benchmarks/${part(row.job_id)}?agent=${part(row.agent_id)}`);
      drop(row);
      await load();
    }) }, "Delete") },
  ];
}

function notes(row) {
  return [row.requested === false && h("span", { class: "badge warn", title: "This server did not start it: it lost its database, or the machine made it up." }, "not requested"), row.status !== "completed" && h("span", { class: "badge bad" }, row.status),
    row.warnings.map((one) => h("details", { class: "inline" }, h("summary", {}, h("span", { class: "badge warn" }, one.code)), h("p", { class: "small" }, one.message, h("br"), one.action))),
    Object.entries(row.flags).map(([flag, times]) => h("span", { class: "badge" }, `${flag} × ${times}`)), row.excluded > 0 && h("span", { class: "badge warn" }, `${row.excluded} left out`)];
}

function chooser(row, draw) {
  if (row.cell !== 0) return null;
  const box = h("input", { type: "checkbox", name: "pick", "data-key": `pick ${row.agent_id} ${row.job_id}`, checked: isPicked(row), "aria-label": `Pick ${row.model} on ${row.agent_name}, ${when(row.finished_at)}`,
    onchange: () => { (box.checked ? pick : drop)(row); draw(); } });
  return box;
}

function drawPicking(place, rows) {
  const chosen = picked.map((id) => rows.find((row) => keyOf(row) === id)).filter(Boolean);
  const [a, b] = chosen;
  const said = chosen.map((row) => `${row.model} on ${row.agent_name}`).join(" and ");
  const differ = b && a.plan_hash !== b.plan_hash;
  redraw(place, b && h("a", { class: "button", "data-key": "compare", href: `#/compare/${[a.job_id, b.job_id, a.agent_id, b.agent_id].map(part).join("/")}` }, "Compare"),
    h("span", { class: differ ? "error" : "quiet" }, differ ? `${said}: their plans differ, so that nothing can be compared. Choose one plan above.`
      : b ? said : a ? `${said}: pick another of the same plan` : rows.length > 1 && "Pick two to compare them."));
}
