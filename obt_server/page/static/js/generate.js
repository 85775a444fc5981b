// A streamed generation, and its stop button.

import { generation } from "./api.js";
import { field, figure, h, notice, show, standInBadge } from "./dom.js";
import { modelChoice } from "./models.js";

export function generateView(place, agent) {
  let socket = null;
  modelChoice(agent).then((model) => show(place, ...form(model))).catch((error) => notice(error.message));

  function form(model) {
    const prompt = h("textarea", { required: true }, "Why is the sky blue? Answer in three sentences.");
    const limit = h("input", { type: "number", min: "1", value: "256" });
    const answer = h("div", { class: "answer", "aria-live": "polite", tabindex: "0" });
    const figures = h("div", { class: "figures" });
    const start = h("button", {}, "Generate");
    const stop = h("button", { type: "button", class: "danger", disabled: true, onclick: () => socket?.send(JSON.stringify({ stop: true })) }, "Stop");
    const submit = (event) => {
      event.preventDefault();
      begin(model.value, { prompt: prompt.value, options: { num_predict: Number(limit.value) } });
    };
    const running = (yes) => { start.disabled = yes; stop.disabled = !yes; };

    function begin(name, body) {
      const run = stream(answer, figures, running);
      show(answer);
      show(figures);
      running(true);
      socket?.close();
      socket = generation(name, agent.id);
      socket.onopen = () => socket.send(JSON.stringify(body));
      socket.onmessage = (message) => run(JSON.parse(message.data));
      socket.onerror = () => { running(false); notice("The server refused the stream; is the machine online?"); };
      socket.onclose = () => running(false);
    }

    return [h("form", { class: "card", onsubmit: submit }, h("div", { class: "title" }, h("h3", {}, "Generate"), standInBadge(agent.ollama?.version)),
      h("div", { class: "fields" }, field("Model", model), field("Tokens at most", limit)), field("Prompt", prompt),
      h("div", { class: "row" }, start, stop)),
    h("section", { class: "card" }, h("div", { class: "title" }, h("h3", {}, "Answer"), standInBadge(agent.ollama?.version)), answer, figures)];
  }

  return () => socket?.close();
}

// Takes one message after the other; the last one brings Ollama's own counts.
function stream(answer, figures, running) {
  const began = performance.now();
  let first = null;
  return (message) => {
    if (message.error) notice(message.error.message);
    const text = message.response || message.thinking;
    if (text) {
      first ??= performance.now() - began;
      answer.append(message.response ? message.response : h("span", { class: "thinking" }, message.thinking));
      answer.scrollTop = answer.scrollHeight;
    }
    if (!message.done) return;
    running(false);
    const rate = message.eval_count > 1 ? message.eval_count / (message.eval_duration / 1e9) : null;
    show(figures, one(message.done_reason ?? (message.error ? "error" : "stopped"), "ended"), one(figure(first, 0, " ms"), "first text here"),
      message.eval_count && one(message.eval_count, "tokens"), rate && one(figure(rate, 1), "tokens/s by Ollama"));
  };
}

const one = (value, name) => h("div", {}, h("b", {}, String(value)), h("span", {}, name));
