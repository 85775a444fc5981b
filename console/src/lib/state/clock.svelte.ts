/** The time as shown: one timer for the page, stopped while it is hidden. */

class Clock {
    /** Unix seconds. */
    now = $state(Date.now() / 1000);

    constructor() {
        setInterval(() => {
            if (!document.hidden) this.now = Date.now() / 1000;
        }, 1_000);
        document.addEventListener("visibilitychange", () => {
            if (!document.hidden) this.now = Date.now() / 1000;
        });
    }
}

export const clock = new Clock();
