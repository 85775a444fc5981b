/** Figures as people read them. What is not known is a dash, never a zero. Pure. */

import { settings } from "$lib/state/settings.svelte";

export type Maybe = number | null | undefined;
export const DASH = "–";

const missing = (value: Maybe): value is null | undefined =>
    value === null || value === undefined || !Number.isFinite(value);

// One formatter each for the page: making them is what costs.
const integers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const times = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL = ["B", "kB", "MB", "GB", "TB", "PB"];

function scale(value: number): { divisor: number; unit: string; digits: number } {
    const decimal = settings.bytes === "decimal";
    const step = decimal ? 1000 : 1024;
    const units = decimal ? DECIMAL : BINARY;
    const at = Math.min(
        units.length - 1,
        Math.max(0, Math.floor(Math.log(Math.max(1, value)) / Math.log(step))),
    );
    return { divisor: step ** at, unit: units[at] ?? "B", digits: at > 2 ? 1 : 0 };
}

export function bytes(value: Maybe): string {
    if (missing(value)) return DASH;
    const { divisor, unit, digits } = scale(value);
    return `${(value / divisor).toFixed(digits)} ${unit}`;
}

/** "1.5 of 23.5 GiB": both in the unit of the larger. */
export function bytesOf(used: Maybe, total: Maybe): string {
    if (missing(total)) return bytes(used);
    const { divisor, unit, digits } = scale(total);
    const first = missing(used) ? DASH : (used / divisor).toFixed(digits);
    return `${first} of ${(total / divisor).toFixed(digits)} ${unit}`;
}

export const rate = (value: Maybe): string => (missing(value) ? DASH : `${bytes(value)}/s`);

export function fixed(value: Maybe, digits = 1, unit = ""): string {
    return missing(value) ? DASH : `${value.toFixed(digits)}${unit}`;
}

/** Three significant digits, thousands in full: 1,234, 56.7, 0.0123. */
export function significant(value: Maybe): string {
    if (missing(value)) return DASH;
    if (Math.abs(value) >= 100) return integers.format(value);
    return value === 0 ? "0" : Number(value.toPrecision(3)).toString();
}

export const integer = (value: Maybe): string => (missing(value) ? DASH : integers.format(value));
export const percent = (ratio: Maybe): string => (missing(ratio) ? DASH : `${(ratio * 100).toFixed(0)} %`);
export const watts = (value: Maybe): string => (missing(value) ? DASH : `${value.toFixed(0)} W`);

export function temperature(celsius: Maybe): string {
    if (missing(celsius)) return DASH;
    return settings.temperature === "fahrenheit"
        ? `${(celsius * 1.8 + 32).toFixed(0)} °F`
        : `${celsius.toFixed(0)} °C`;
}

export const hertz = (value: Maybe): string =>
    missing(value)
        ? DASH
        : value >= 1e9
          ? `${(value / 1e9).toFixed(2)} GHz`
          : `${(value / 1e6).toFixed(0)} MHz`;

/** Of a `Date`, in seconds. Formatting a later one throws, and would end the whole view. */
const MAX_TIME_S = 8.64e12;
const noTime = (seconds: Maybe): seconds is null | undefined =>
    missing(seconds) || Math.abs(seconds) > MAX_TIME_S;

export const when = (seconds: Maybe): string => (noTime(seconds) ? DASH : dates.format(seconds * 1000));
export const clockTime = (seconds: Maybe): string => (noTime(seconds) ? DASH : times.format(seconds * 1000));

export function ago(seconds: Maybe, now: number): string {
    if (missing(seconds)) return "never";
    const past = Math.max(0, now - seconds);
    if (past < 90) return `${Math.round(past)} s ago`;
    if (past < 5400) return `${Math.round(past / 60)} min ago`;
    return past < 129_600 ? `${Math.round(past / 3600)} h ago` : `${Math.round(past / 86_400)} days ago`;
}

export function lasts(seconds: Maybe): string {
    if (missing(seconds)) return DASH;
    if (seconds < 90) return `${Math.ceil(seconds)} s`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
    return seconds < 172_800 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.round(seconds / 86_400)} days`;
}

/** How long a model stays loaded, from the moment that Ollama names: "4:05 left". */
export function countdown(expires: string | null | undefined, now: number): string {
    const left = expires == null ? NaN : Date.parse(expires) / 1000 - now;
    if (Number.isNaN(left)) return "";
    // Ollama writes a far year for a model that stays.
    if (left > 366 * 86_400) return "stays";
    if (left >= 5400) return `${Math.round(left / 3600)} h left`;
    const seconds = Math.max(0, Math.round(left));
    return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`;
}

export const digest = (text: string | null | undefined): string =>
    (text ?? "").replace(/^sha256:/, "").slice(0, 12);

export const count = (number: number, one: string, many = `${one}s`): string =>
    `${integers.format(number)} ${number === 1 ? one : many}`;

/** Ollama's stand-in marks its version: its figures are scripted. */
export const isStandIn = (version: string | null | undefined): boolean => (version ?? "").endsWith("standin");

/** Free room on the disk that holds a machine's models, in words. */
export function freeDisk(free: Maybe): string {
    return missing(free) ? "disk not known" : `${bytes(free)} free`;
}
