// A streamed generation, and its stop button.

import { generation } from "./api.js";
import { Trace } from "./charts.js";
import { figure } from "./format.js";
import { card, failed, field, h, loading, notice, one, show, standInBadge } from "./dom.js";
import { modelChoice, noModel } from "./models.js";
import { online } from "./state.js";

const asked = { prompt: "Why is the sky blue? Answer in three sentences.", limit: "256" }; // kept while one goes about

export function generateView(place, agent) {
  if (!online(agent)) return show(place, card("Generate", h("p", { class: "quiet" }, "The machine is offline: nothing can be generated on it now.")));
  let run = null;
  let closed = false;
  show(place, loading("models"));
  modelChoice(agent).then((model) => { if (!closed) show(place, model ? form(model) : card("Generate", noModel())); }).catch((error) => show(place, failed(error)));
  return () => { closed = true; run?.close(); };

  function form(model) {
    const prompt = h("textarea", { required: true, name: "prompt", oninput: () => { asked.prompt = prompt.value; } }, asked.prompt);
    const limit = h("input", { type: "number", min: "1", name: "limit", value: asked.limit, oninput: () => { asked.limit = limit.value; } });
    const answer = h("div", { class: "answer", role: "region", "aria-label": "Answer", tabindex: "0" });
    const figures = h("div", { class: "figures", role: "status" });
    const rate = h("div", { class: "traces" });
    const start = h("button", {}, "Generate");
    const stop = h("button", { type: "button", class: "danger", disabled: true, onclick: () => run?.stop() }, "Stop");
    const running = (yes) => { start.disabled = yes; stop.disabled = !yes; answer.setAttribute("aria-busy", String(yes)); };
    const element = h("form", { class: "card", onsubmit: (event) => {
      event.preventDefault();
      if (start.disabled) return;
      run?.close();
      run = new Run({ answer, figures, rate, running });
      run.begin(model.value, agent.id, { prompt: prompt.value, options: limit.value ? { num_predict: Number(limit.value) } : {} });
    } }, h("div", { class: "title" }, h("h3", {}, "Generate"), standInBadge(agent.ollama?.version)),
    h("div", { class: "fields" }, field("Model", model), field("Tokens at most", limit)), field("Prompt", prompt),
    h("div", { class: "row" }, start, stop, h("span", { class: "quiet small" }, "Ctrl+Enter starts")));
    prompt.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) element.requestSubmit(); });
    return [element, h("section", { class: "card" }, h("div", { class: "title" }, h("h3", {}, "Answer"), standInBadge(agent.ollama?.version)), answer, figures, rate)];
  }
}

// One prompt and its answer: text as it comes, pieces a second, and at the end Ollama's own counts.
class Run {
  constructor(parts) {
    Object.assign(this, parts, { first: null, pieces: 0, last: 0 });
  }

  begin(model, agent, body) {
    show(this.answer);
    show(this.figures, h("span", { class: "quiet" }, "Waiting for the first token; a model that is not loaded is loaded first…"));
    show(this.rate);
    this.trace = new Trace("Pieces of text a second, as they come here", { text: (value) => figure(value, 1), over: " during the answer" });
    this.running(true);
    this.began = performance.now();
    this.timer = setInterval(() => this.tick(), 500);
    this.socket = generation(model, agent);
    this.socket.onopen = () => this.socket.send(JSON.stringify(body));
    this.socket.onmessage = (message) => this.take(JSON.parse(message.data));
    this.socket.onclose = () => this.lost();
  }

  take(message) {
    const text = message.response || message.thinking;
    if (text) {
      if (this.first === null) show(this.figures);
      this.first ??= performance.now() - this.began;
      this.pieces += 1;
      this.append(message);
    }
    if (message.error) notice(message.error.message);
    if (message.done) this.end(message);
  }

  // Follows the end of the text unless somebody scrolled up to read.
  append(message) {
    const { answer } = this;
    const below = answer.scrollHeight - answer.scrollTop - answer.clientHeight < 40;
    answer.append(message.response ? message.response : h("span", { class: "thinking" }, message.thinking));
    if (below) answer.scrollTop = answer.scrollHeight;
  }

  tick() {
    if (this.first === null) return;
    this.trace.push((this.pieces - this.last) * 2);
    this.last = this.pieces;
    if (this.trace.values.length === 2) show(this.rate, this.trace.element);
  }

  end(message) {
    this.over();
    const rate = message.eval_count > 1 ? message.eval_count / (message.eval_duration / 1e9) : null;
    show(this.figures, one(message.done_reason ?? (message.error ? "error" : "stopped"), "ended"), one(figure(this.first, 0, " ms"), "first text, here"),
      message.eval_count && one(message.eval_count, "tokens"), rate && one(figure(rate, 1), "tokens/s, by Ollama"),
      message.load_duration && one(figure(message.load_duration / 1e6, 0, " ms"), "loading"));
  }

  lost() {
    if (!this.timer) return;
    this.over();
    show(this.figures, one("broken off", "ended"));
    notice("The stream was refused or broken off. Is the machine online?");
  }

  stop() {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ stop: true }));
    else this.close();
  }

  over() {
    clearInterval(this.timer);
    this.timer = 0;
    this.running(false);
  }

  close() {
    this.over();
    this.socket.close();
  }
}
