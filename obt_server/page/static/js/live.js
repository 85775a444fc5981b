// A benchmark while it runs: how far it is, and its figures as lines.

import { get, part, post } from "./api.js";
import { events } from "./sse.js";
import { Traces } from "./charts.js";
import { figure, lasts, percent } from "./format.js";
import { action, h, notice, one, show, standInBadge } from "./dom.js";
import { on } from "./state.js";

export const OPEN = new Set(["starting", "accepted", "queued", "running"]);
const OVER = " during the run";
const gib = (value) => figure(value / 1024, 1, " GiB");
const hundred = (value) => figure(value, 0, " %");
// Of a sample of the run, in the order in which they are drawn.
export const KINDS = {
  tokens_per_second: { name: "Tokens/s", text: (value) => figure(value, 1), over: OVER },
  gpu_percent: { name: "GPU utilisation", text: hundred, most: 100, over: OVER },
  gpu_memory_used_mb: { name: "GPU memory", text: gib, over: OVER },
  gpu_temperature: { name: "GPU temperature", text: (value) => figure(value, 0, " °C"), most: 110, over: OVER },
  gpu_power_watts: { name: "GPU power", text: (value) => figure(value, 0, " W"), over: OVER },
  cpu_percent: { name: "CPU", text: hundred, most: 100, over: OVER },
  cpu_temperature: { name: "CPU temperature", text: (value) => figure(value, 0, " °C"), most: 110, over: OVER },
  ollama_rss_mb: { name: "Memory of Ollama", text: gib, over: OVER },
};

export class LiveBenchmark {
  // ended(job): called once, with the job as it ended.
  constructor(job, agent, { ended }) {
    Object.assign(this, { job, ended, closed: false, stopSamples: null });
    this.phase = h("span", { class: "badge", role: "status" }, job.state);
    this.bar = h("progress", { max: "1", value: "0", "aria-label": "Iterations done" });
    this.figures = h("div", { class: "figures" });
    this.waiting = h("p", { class: "quiet", role: "status" });
    this.traces = new Traces(KINDS, 600);
    const cancel = action(async () => { await post(`/benchmarks/${part(job.job_id)}/cancel?agent=${part(job.agent_id)}`); });
    this.element = h("section", { class: "card", id: "running" },
      h("div", { class: "title" }, h("h3", {}, `Running: ${job.model ?? ""}`), this.phase, standInBadge(agent.ollama?.version)),
      this.bar, this.waiting, this.figures, this.traces.element, h("button", { class: "danger", type: "button", onclick: cancel }, "Cancel"));
    this.off = [
      on("job", (event) => { if (event.job_id === job.job_id && event.agent_id === job.agent_id) this.moved(event); }),
      on("link", () => this.ask()),
    ];
    this.draw(job.progress ?? {});
    this.ask();
  }

  moved({ state, progress }) {
    if (!OPEN.has(state)) return void this.ask();
    if (state === "running") this.sample();
    if (progress) this.draw(progress);
  }

  // The job as it is: at the start, after an interruption, and when its end was told.
  async ask() {
    let job;
    try {
      job = await get(`/benchmarks/${part(this.job.job_id)}?agent=${part(this.job.agent_id)}`);
    } catch (error) {
      if (error.status === 404) this.close();
      return;
    }
    if (this.closed) return;
    if (!OPEN.has(job.state)) {
      this.close();
      this.ended(job);
      return;
    }
    this.moved(job);
  }

  sample() {
    this.stopSamples ??= events(`/benchmarks/${part(this.job.job_id)}/metrics?agent=${part(this.job.agent_id)}`, {
      sample: ({ sample }) => { for (const key of Object.keys(KINDS)) this.traces.push(key, sample[key]); },
      refused: (error) => notice(error.message),
    });
  }

  draw(progress) {
    const planned = progress.iterations_planned ?? 0;
    const done = Math.max(0, (progress.iteration ?? 0) - (progress.iteration ? 0.5 : 0));
    const phase = progress.phase ?? this.job.state;
    if (this.phase.textContent !== phase) this.phase.textContent = phase;
    this.bar.max = Math.max(planned, 1);
    this.bar.value = done;
    const waits = progress.waiting_for ?? (progress.position ? `${progress.position} before it` : "");
    if (this.waiting.textContent !== waits) this.waiting.textContent = waits;
    show(this.figures, one(progress.iteration ? `${progress.iteration} of ${planned || "?"}` : "–", "iteration"), progress.cell && one(progress.cell, "cell"),
      one(figure(progress.tokens_per_second), "tokens/s"), one(figure(progress.first_token_ms, 0, " ms"), "TTFT"),
      one(percent(progress.cpu_utilization_ratio), "CPU"), one(percent(progress.gpu_utilization_ratio), "GPU"),
      one(lasts(progress.remaining_s), "left, about"));
  }

  close() {
    this.closed = true;
    for (const off of this.off) off();
    this.stopSamples?.();
  }
}
