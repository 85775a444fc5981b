/** What a person has chosen for this browser. */

export type Theme = "system" | "light" | "dark";
export type Temperature = "celsius" | "fahrenheit";
export type Bytes = "binary" | "decimal";

interface Stored {
    theme: Theme;
    temperature: Temperature;
    bytes: Bytes;
    columns: Record<string, string[]>;
    fleetView: "cards" | "table";
}

const KEY = "obt-console";
const DEFAULTS: Stored = {
    theme: "system",
    temperature: "celsius",
    bytes: "binary",
    columns: {},
    fleetView: "cards",
};

function load(): Stored {
    try {
        return { ...DEFAULTS, ...(JSON.parse(localStorage.getItem(KEY) ?? "{}") as Partial<Stored>) };
    } catch {
        return { ...DEFAULTS };
    }
}

export const settings = $state<Stored>(load());

/** Keep the settings and put the theme in force. */
export function save(): void {
    try {
        localStorage.setItem(KEY, JSON.stringify(settings));
    } catch {
        // A browser that keeps nothing still shows everything.
    }
    applyTheme();
}

export function applyTheme(): void {
    const root = document.documentElement;
    if (settings.theme === "system") root.removeAttribute("data-theme");
    else root.setAttribute("data-theme", settings.theme);
}
