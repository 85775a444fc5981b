// A figure over time: its name, what it is now, and a line of what it was.

import { h } from "./dom.js";

const KEPT = 180;
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 36;

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// text: makes words of a value. most: the top of the scale where it is known (1 of a ratio), else the highest seen.
export class Trace {
  constructor(name, { text, most = null, kept = KEPT, over = "" }) {
    Object.assign(this, { name, text, most, kept, over, values: [] });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.plot = svg("svg", { viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", class: "spark", role: "img" }, this.area, this.line);
    this.value = h("b", {}, "–");
    this.range = h("span", { class: "quiet small" });
    this.element = h("div", { class: "trace" }, h("div", { class: "pair" }, h("span", { class: "quiet" }, name), this.value), this.plot, this.range);
  }

  // words: what to show in place of text(value), such as "1.5 of 8.0 GiB".
  push(value, words) {
    this.values.push(value ?? null);
    if (this.values.length > this.kept) this.values.splice(0, this.values.length - this.kept);
    this.value.textContent = words ?? this.text(value);
    this.draw();
  }

  fill(values) {
    this.values = thin(values, this.kept * 2);
    this.draw();
    const [low, high] = this.between();
    this.value.textContent = high === null ? "–" : low === high ? this.text(high) : `${this.text(low)} … ${this.text(high)}`;
    this.range.textContent = "";
  }

  between() {
    const known = this.values.filter((value) => value !== null);
    return known.length ? [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))] : [null, null];
  }

  draw() {
    const [low, high] = this.between();
    const top = this.most ?? (high || 1) * 1.05;
    const last = Math.max(this.values.length - 1, 1);
    const point = (value, at) => `${((at / last) * 100).toFixed(2)} ${(HEIGHT - 1 - Math.min(1, Math.max(0, value / top)) * (HEIGHT - 2)).toFixed(2)}`;
    const runs = unbroken(this.values).map((run) => run.map(([value, at]) => point(value, at)));
    this.line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
    this.area.setAttribute("d", runs.map((run) => `M${run[0].split(" ")[0]} ${HEIGHT}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${HEIGHT}Z`).join(""));
    const words = high === null ? "not known" : `${this.value.textContent}; from ${this.text(low)} to ${this.text(high)}${this.over}`;
    this.plot.setAttribute("aria-label", `${this.name}: ${words}`);
    const [least, most] = [this.text(low), this.text(high)];
    this.range.textContent = high === null || least === most ? "" : `${least} … ${most}`;
  }
}

// Stretches without a hole, as [value, index]: a line is not drawn over what was not measured.
function unbroken(values) {
  const runs = [[]];
  values.forEach((value, at) => (value === null ? runs.push([]) : runs.at(-1).push([value, at])));
  return runs.filter((run) => run.length > 0);
}

// At most `most` values: each the mean of its neighbours, so that a peak of one tick does not vanish by chance.
export function thin(values, most) {
  if (values.length <= most) return values.map((value) => value ?? null);
  const width = values.length / most;
  return Array.from({ length: most }, (_, at) => {
    const piece = values.slice(Math.floor(at * width), Math.max(Math.floor((at + 1) * width), Math.floor(at * width) + 1)).filter((value) => value !== null && value !== undefined);
    return piece.length ? piece.reduce((a, b) => a + b, 0) / piece.length : null;
  });
}

// One bar a core, 0 to 1; the words say what a reader of the screen cannot see.
export function bars(name, values, text) {
  const busiest = values.reduce((a, b) => Math.max(a, b), 0);
  const drawn = values.map((value, at) => svg("rect", { x: at + 0.1, width: 0.8, y: HEIGHT - value * HEIGHT, height: value * HEIGHT, class: "bar" }));
  const label = `${name}: ${values.length}, the busiest ${text(busiest)}`;
  return h("div", { class: "trace" }, h("div", { class: "pair" }, h("span", { class: "quiet" }, name), h("b", {}, `busiest ${text(busiest)}`)),
    svg("svg", { viewBox: `0 0 ${values.length} ${HEIGHT}`, preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": label }, ...drawn));
}

// Traces made when their figure is first known: a machine without a GPU shows no empty charts.
export class Traces {
  constructor(kinds, kept) {
    this.kinds = kinds;
    this.kept = kept;
    this.made = new Map();
    this.element = h("div", { class: "traces" });
  }

  push(key, value, words) {
    const known = value !== null && value !== undefined;
    if (!known && !this.made.has(key)) return;
    this.of(key).push(value, words);
  }

  of(key) {
    if (!this.made.has(key)) {
      const trace = new Trace(this.kinds[key].name, { ...this.kinds[key], kept: this.kept ?? KEPT });
      this.made.set(key, trace);
      const order = Object.keys(this.kinds).filter((one) => this.made.has(one));
      this.element.replaceChildren(...order.map((one) => this.made.get(one).element));
    }
    return this.made.get(key);
  }
}
