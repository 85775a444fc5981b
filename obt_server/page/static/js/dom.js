// Elements out of values. Text goes in as text, never as HTML: names and answers come from machines we do not trust.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const show = (place, ...children) => place.replaceChildren(...children.flat(9).filter(Boolean));

export function table(columns, rows, empty) {
  if (rows.length === 0) return h("p", { class: "quiet" }, empty);
  const cell = (tag, column, content) => h(tag, { class: column.number ? "number" : "" }, content);
  return h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((column) => cell("th", column, column.title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((column) => cell("td", column, column.of(row)))))),
  ));
}

export function field(label, input) {
  return h("label", {}, label, input);
}

// Browsers give the clipboard to pages over https or on the same machine only; elsewhere the text is selected.
export function copyable(text) {
  const code = h("code", { tabindex: "0" }, text);
  const button = h("button", { class: "plain", type: "button", onclick: async () => {
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

export function notice(message) {
  const box = h("div", { class: "notice" }, h("p", {}, message),
    h("button", { class: "plain", type: "button", "aria-label": "Dismiss", onclick: () => box.remove() }, "×"));
  document.getElementById("notices").append(box);
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

const units = ["B", "KiB", "MiB", "GiB", "TiB"];
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let step = 0;
  while (value >= 1024 && step < units.length - 1) { value /= 1024; step += 1; }
  return `${value.toFixed(step > 2 ? 1 : 0)} ${units[step]}`;
}
export const figure = (value, digits = 1, unit = "") =>
  (value === null || value === undefined ? "–" : `${Number(value).toFixed(digits)}${unit}`);
export const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${(ratio * 100).toFixed(0)} %`);
export const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "–");

export function ago(seconds) {
  const past = Date.now() / 1000 - seconds;
  if (past < 90) return `${Math.max(0, Math.round(past))} s ago`;
  if (past < 5400) return `${Math.round(past / 60)} min ago`;
  return past < 129600 ? `${Math.round(past / 3600)} h ago` : `${Math.round(past / 86400)} days ago`;
}

export const isStandIn = (version) => Boolean(version) && version.endsWith("standin");
export const standInBadge = (version) => (isStandIn(version)
  ? h("span", { class: "badge standin" }, "stand-in: scripted figures, no real model") : null);
