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

/** The extent of what is known, with a margin; from zero where `zero` is set. */
export function extent(
    values: (number | null | undefined)[],
    { zero = false, margin = 0.06 } = {},
): [number, number] {
    const known = values.filter((one): one is number => typeof one === "number" && Number.isFinite(one));
    if (known.length === 0) return [0, 1];
    const low = zero ? Math.min(0, ...known) : Math.min(...known);
    const high = Math.max(...known);
    const pad = (high - low || Math.abs(high) || 1) * margin;
    return [zero && low === 0 ? 0 : low - pad, high + pad];
}
