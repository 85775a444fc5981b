/** Keys of requests that must not happen twice: by what is asked, the same for a second click and a lost answer. */

export class OnceKeys {
    #keys = new Map<string, string>();

    of(body: unknown): string {
        const text = JSON.stringify(body);
        const known = this.#keys.get(text);
        if (known !== undefined) return known;
        const made = Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) =>
            one.toString(16).padStart(2, "0"),
        ).join("");
        this.#keys.set(text, made);
        return made;
    }

    clear(): void {
        this.#keys.clear();
    }
}
