/** The address: `#/view/part/part?key=value`. Filters and sorting stand in it, so that it can be passed on. */

export interface Route {
    view: string;
    parts: string[];
    query: URLSearchParams;
}

/** Read an address. Text that is no valid escape stays as it is. Pure. */
export function parse(hash: string): Route {
    const text = hash.replace(/^#\/?/, "");
    const [path = "", search = ""] = splitOnce(text, "?");
    const [view = "", ...parts] = path.split("/").map(decode);
    return { view, parts: parts.filter((one) => one !== ""), query: new URLSearchParams(search) };
}

/** Write an address; empty values are left out. Pure. */
export function href(
    view: string,
    parts: string[] = [],
    values: Record<string, string | number | boolean | null | undefined> = {},
): string {
    const search = new URLSearchParams();
    for (const [key, value] of Object.entries(values))
        if (value !== null && value !== undefined && value !== "" && value !== false)
            search.set(key, String(value));
    const text = search.toString();
    return `#/${[view, ...parts].map(encodeURIComponent).join("/")}${text === "" ? "" : `?${text}`}`;
}

function splitOnce(text: string, mark: string): [string, string] {
    const at = text.indexOf(mark);
    return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
}

function decode(text: string): string {
    try {
        return decodeURIComponent(text);
    } catch {
        return text;
    }
}

class Router {
    route = $state.raw<Route>(parse(location.hash));
    /** Counts navigations that a person made: the focus then goes to the view's heading. */
    navigations = $state(0);

    constructor() {
        addEventListener("hashchange", () => {
            const next = parse(location.hash);
            const moved =
                next.view !== this.route.view || next.parts.join("/") !== this.route.parts.join("/");
            this.route = next;
            if (moved) this.navigations += 1;
        });
    }

    /** Go to an address. */
    go(address: string): void {
        location.hash = address;
    }

    /** Change values of the query and leave the rest, without a new entry in the history. */
    set(values: Record<string, string | number | boolean | null | undefined>): void {
        const query = new URLSearchParams(this.route.query);
        for (const [key, value] of Object.entries(values)) {
            if (value === null || value === undefined || value === "" || value === false) query.delete(key);
            else query.set(key, String(value));
        }
        const text = query.toString();
        const path = [this.route.view, ...this.route.parts].map(encodeURIComponent).join("/");
        history.replaceState(null, "", `#/${path}${text === "" ? "" : `?${text}`}`);
        this.route = { ...this.route, query };
    }
}

export const router = new Router();
