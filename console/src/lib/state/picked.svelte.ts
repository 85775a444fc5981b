/** Results picked for a comparison; kept while one goes about. */

export const MOST = 6;

class Picked {
    keys = $state<string[]>([]);

    has(key: string): boolean {
        return this.keys.includes(key);
    }

    toggle(key: string): void {
        if (this.has(key)) this.keys = this.keys.filter((one) => one !== key);
        else if (this.keys.length < MOST) this.keys = [...this.keys, key];
    }

    clear(): void {
        this.keys = [];
    }
}

export const picked = new Picked();
