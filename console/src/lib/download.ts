/** Give a file to the person. */
export function download(name: string, content: Blob | string, type = "text/plain"): void {
    const address = URL.createObjectURL(
        typeof content === "string" ? new Blob([content], { type }) : content,
    );
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
    URL.revokeObjectURL(address);
}
