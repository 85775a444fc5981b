// Figures as people read them. What is not known is a dash, never a zero.

const nothing = (value) => value === null || value === undefined || Number.isNaN(value);
const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

function step(value) {
  return Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(Math.max(1, value)) / 10)));
}

const scaled = (value, at) => (value / 1024 ** at).toFixed(at > 2 ? 1 : 0);

export const bytes = (value) => (nothing(value) ? "–" : `${scaled(value, step(value))} ${units[step(value)]}`);

// "1.5 of 23.5 GiB": both in the unit of the larger.
export function bytesOf(used, total) {
  if (nothing(total)) return bytes(used);
  const at = step(total);
  return `${nothing(used) ? "–" : scaled(used, at)} of ${scaled(total, at)} ${units[at]}`;
}

export const figure = (value, digits = 1, unit = "") => (nothing(value) ? "–" : `${Number(value).toFixed(digits)}${unit}`);

// Three significant digits, thousands in full: 1234, 56.7, 0.0123.
export function significant(value, unit = "") {
  if (nothing(value)) return "–";
  const whole = Math.abs(value) >= 100;
  return `${whole ? value.toFixed(0) : Number(value).toPrecision(3)}${unit}`;
}

export const percent = (ratio) => (nothing(ratio) ? "–" : `${(ratio * 100).toFixed(0)} %`);
export const share = (used, total) => (nothing(used) || !total ? null : used / total);
export const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "–");

export function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  if (past < 90) return `${Math.round(past)} s ago`;
  if (past < 5400) return `${Math.round(past / 60)} min ago`;
  return past < 129600 ? `${Math.round(past / 3600)} h ago` : `${Math.round(past / 86400)} days ago`;
}

export function lasts(seconds) {
  if (nothing(seconds)) return "–";
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export const short = (digest) => (digest ?? "").replace(/^sha256:/, "").slice(0, 12);
export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;
export const isStandIn = (version) => Boolean(version) && version.endsWith("standin");
