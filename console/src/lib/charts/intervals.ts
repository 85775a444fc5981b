/** Scales and ticks of charts. Pure. */

/** Ticks at 1, 2 or 5 times a power of ten, about `aim` of them, inside [low, high]. */
export function ticks(low: number, high: number, aim = 5): number[] {
    if (!(high > low)) return [low];
    const rough = (high - low) / Math.max(1, aim);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? power * 10;
    const first = Math.ceil(low / step) * step;
    const found: number[] = [];
    for (let at = first; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
    return found;
}

/** A linear scale from values to pixels. */
export function linear(domain: [number, number], range: [number, number]): (value: number) => number {
    const [a, b] = domain;
    const [p, q] = range;
    const span = b === a ? 1 : b - a;
    return (value) => p + ((value - a) / span) * (q - p);
}

/** The colours of lines that are told apart, in order. */
export const COLORS = [1, 2, 3, 4, 5, 6].map((one) => `var(--series-${one})`);
export const colorOf = (index: number): string => COLORS[index % COLORS.length] ?? "var(--series-1)";

/** The extent of what is known, with a margin that stays above `least`; from zero where `zero` is set. */
export function extent(
    values: (number | null | undefined)[],
    { zero = false, margin = 0.06, least = -Infinity } = {},
): [number, number] {
    const known = values.filter((one): one is number => typeof one === "number" && Number.isFinite(one));
    if (known.length === 0) return [0, 1];
    const low = zero ? Math.min(0, ...known) : Math.min(...known);
    const high = Math.max(...known);
    const pad = (high - low || Math.abs(high) || 1) * margin;
    return [zero && low === 0 ? 0 : Math.max(Math.min(least, low), low - pad), high + pad];
}

/** Ticks of a logarithmic scale, at most `most` of them: 1, 2 and 5 times powers of ten, or powers alone. */
export function logTicks(low: number, high: number, most = 7): number[] {
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
        const found: number[] = [];
        for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
            for (const step of steps) {
                const at = Number((step * 10 ** power).toPrecision(12));
                if (at >= low && at <= high) found.push(at);
            }
        if (found.length <= most && found.length > 1) return found;
    }
    return ticks(low, high, most);
}

/** A text that fits so many pixels in the charts' font, cut with an ellipsis. */
export function fitting(text: string, pixels: number, each = 7): string {
    const most = Math.max(4, Math.floor(pixels / each));
    return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}
