/** Who is signed in, and the state of the link to the server. */

import { ApiError, get, post, remove, whenSignedOut } from "$lib/api/client";

type Phase = "starting" | "unreachable" | "signed-out" | "signed-in";

class Session {
    phase = $state<Phase>("starting");
    name = $state("");

    constructor() {
        whenSignedOut(() => {
            this.phase = "signed-out";
        });
    }

    /** Ask who is signed in; again every two seconds while the server does not answer. */
    async start(): Promise<void> {
        try {
            this.name = (await get<{ name: string }>("/session", { once: true })).name;
            this.phase = "signed-in";
        } catch (error) {
            if (error instanceof ApiError && error.status === 401) {
                this.phase = "signed-out";
                return;
            }
            this.phase = "unreachable";
            setTimeout(() => void this.start(), 2_000);
        }
    }

    async signIn(name: string, password: string): Promise<void> {
        this.name = (await post<{ name: string }>("/session", { name, password })).name;
        this.phase = "signed-in";
    }

    async signOut(): Promise<void> {
        await remove("/session");
        this.phase = "signed-out";
    }
}

export const session = new Session();
