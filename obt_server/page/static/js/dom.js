// Elements out of values. Text goes in as text, never as HTML: names and answers come from machines we do not trust.

import { ago, isStandIn, short, when } from "./format.js";

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...some(children));
  return element;
}

const some = (children) => children.flat(9).filter((child) => child !== null && child !== undefined && child !== false);

export const show = (place, ...children) => place.replaceChildren(...some(children));

// Draws anew without taking the keyboard's focus away: what had it is found again by its `data-key`.
export function redraw(place, ...children) {
  const key = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  show(place, ...children);
  if (key !== undefined) place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

// Columns: {title, of(row), number?, sort?}. `sort` is {active, down, toggle}: the heading is a button then.
export function table(columns, rows, empty, caption) {
  if (rows.length === 0) return typeof empty === "string" ? h("p", { class: "quiet" }, empty) : empty;
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption ?? "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map(heading))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => h("td", { class: column.number ? "number" : "" }, column.of(row)))))),
  ));
}

function heading(column) {
  const { title, number, sort, hint } = column;
  const attributes = { class: number ? "number" : "", scope: "col", title: hint };
  if (!sort) return h("th", attributes, title || h("span", { class: "unseen" }, "Actions"));
  const order = sort.active ? (sort.down ? "descending" : "ascending") : "none";
  return h("th", { ...attributes, "aria-sort": order }, h("button", { class: "sort", type: "button", "data-key": `sort ${title}`, onclick: sort.toggle },
    title, h("span", { "aria-hidden": "true" }, sort.active ? (sort.down ? " ↓" : " ↑") : "")));
}

let fields = 0;
export function field(label, input) {
  fields += 1;
  input.id = `field-${fields}`;
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input);
}

// Browsers give the clipboard to pages over https or on the same machine only; elsewhere the text is selected.
export function copyable(text) {
  const code = h("code", { tabindex: "0" }, text);
  const button = h("button", { class: "plain", type: "button", "aria-label": `Copy ${text.length > 60 ? "the text" : text}`, onclick: async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  } }, "Copy");
  return h("div", { class: "copy" }, code, button);
}

// A message that stays until dismissed; the same one is not shown twice.
export function notice(message, kind = "bad") {
  const place = document.getElementById("notices");
  if ([...place.children].some((box) => box.firstChild.textContent === message)) return;
  const box = h("div", { class: `notice ${kind}` }, h("p", {}, message),
    h("button", { class: "plain", type: "button", "aria-label": "Dismiss", onclick: () => box.remove() }, "×"));
  place.append(box);
}

// Runs what a button does: disabled meanwhile, and a failure is told in the server's own words.
export const action = (work) => async (event) => {
  event.preventDefault();
  const button = event.submitter ?? event.currentTarget;
  button.disabled = true;
  try {
    await work(event);
  } catch (error) {
    notice(error.message);
  } finally {
    button.disabled = false;
  }
};

export const loading = (what) => h("p", { class: "quiet loading", role: "status" }, `Loading ${what}…`);
export const failed = (error) => h("p", { class: "caution", role: "alert" }, error.message);
export const card = (title, ...children) => h("section", { class: "card" }, title && h("h3", {}, title), children);
export const one = (value, name, hint) => h("div", { title: hint }, h("b", {}, value instanceof Node ? value : String(value)), h("span", {}, name));
export const digest = (value) => (value ? h("span", { class: "mono", title: value }, short(value)) : "–");

// "3 min ago", kept right as time goes by (see `tick`).
export const since = (seconds, before = "") => h("time", { "data-since": String(seconds), "data-before": before, title: when(seconds) }, before + ago(seconds));
export function tick() {
  for (const element of document.querySelectorAll("time[data-since]")) {
    const text = element.dataset.before + ago(Number(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}

export const standInBadge = (version) => (isStandIn(version)
  ? h("span", { class: "badge standin" }, "stand-in: scripted figures, no real model") : null);
