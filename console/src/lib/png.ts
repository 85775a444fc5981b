/** A chart as a PNG file: an SVG is drawn onto a canvas with the colours that the page gives it. */

import { download } from "$lib/download";

/** Draw the first SVG or canvas inside `place` and give it to the person as a file. */
export async function downloadPng(place: Element, name: string): Promise<void> {
    const canvas = place.querySelector("canvas") ?? (await drawn(place));
    if (canvas === null) return;
    const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
    if (blob === null) return;
    download(`${name}.png`, blob);
}

const PROPERTIES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "font", "text-anchor"];

async function drawn(place: Element): Promise<HTMLCanvasElement | null> {
    const svg = place.querySelector("svg");
    if (svg === null) return null;
    const { width, height } = svg.getBoundingClientRect();
    const copy = svg.cloneNode(true) as SVGSVGElement;
    // The styles of the page do not apply inside an image: each element carries its own.
    const originals = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((element, index) => {
        const original = originals[index];
        if (original === undefined) return;
        const style = getComputedStyle(original);
        for (const property of PROPERTIES) element.setAttribute(property, style.getPropertyValue(property));
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    const image = new Image();
    image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    const scale = 2;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    if (context === null) return null;
    context.fillStyle = getComputedStyle(place.closest(".card") ?? document.documentElement).backgroundColor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return canvas;
}
