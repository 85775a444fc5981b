/** Short notices. They expire; an error that has a condition is shown beside its cause instead. */

export interface Toast {
    id: number;
    tone: "good" | "bad" | "info";
    text: string;
}

const GOOD_MS = 5_000;
const BAD_MS = 12_000;

class Toasts {
    list = $state<Toast[]>([]);
    #next = 1;

    show(text: string, tone: Toast["tone"] = "info"): void {
        const id = this.#next++;
        this.list.push({ id, tone, text });
        setTimeout(() => this.dismiss(id), tone === "bad" ? BAD_MS : GOOD_MS);
    }

    error(error: unknown): void {
        this.show(error instanceof Error ? error.message : String(error), "bad");
    }

    dismiss(id: number): void {
        this.list = this.list.filter((one) => one.id !== id);
    }
}

export const toasts = new Toasts();

/** Run an action of a person; what fails is shown. */
export async function attempt(action: () => Promise<unknown>): Promise<boolean> {
    try {
        await action();
        return true;
    } catch (error) {
        toasts.error(error);
        return false;
    }
}
