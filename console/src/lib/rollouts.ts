/** What people type of a model to be made, and of a set of models. Pure. */

import type { SetModel } from "$lib/api/rollouts";

/** Parameters as a Modelfile has them, one on a line; null where there is none. One that comes twice is a list. */
export function parametersFrom(text: string): Record<string, unknown> | null {
    const found: Record<string, unknown> = {};
    for (const line of text.split("\n")) {
        const [name, ...words] = line.trim().split(/\s+/);
        if (name === undefined || name === "" || words.length === 0) continue;
        const value = valueOf(words.join(" "));
        const before = found[name];
        found[name] = before === undefined ? value : [...(Array.isArray(before) ? before : [before]), value];
    }
    return Object.keys(found).length > 0 ? found : null;
}

function valueOf(text: string): string | number | boolean {
    if (text === "true" || text === "false") return text === "true";
    const number = Number(text);
    return Number.isNaN(number) ? text.replace(/^"(.*)"$/, "$1") : number;
}

/** A set's models, one on a line, each with a digest after it where it is to be that one. */
export function modelsFrom(text: string): SetModel[] {
    return text
        .split("\n")
        .map((line) => line.trim().split(/\s+/))
        .filter(([name]) => name !== undefined && name !== "")
        .map(([name = "", digest]) => (digest === undefined ? { name } : { name, digest }));
}

export const modelsText = (models: SetModel[]): string =>
    models.map((one) => (one.digest ? `${one.name} ${one.digest}` : one.name)).join("\n");
