import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { WebSocket } from "ws";
import { LinkServer, sha256, type AgentHandlers, type AgentSession, type AgentStorage } from "../src/index.ts";

type Json = Record<string, any>;

export const SECRET = "the agent's secret";

/** A scripted agent on a real socket: frames that came, and what is sent by hand. */
export class ScriptedAgent {
  readonly frames: Json[] = [];
  private wake: () => void = () => undefined;

  private readonly socket: WebSocket;

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on("message", (data) => {
      this.frames.push(JSON.parse(data.toString()) as Json);
      this.wake();
    });
  }

  send(message: Json): number {
    const text = JSON.stringify({ jsonrpc: "2.0", ...message });
    this.socket.send(text);
    return Buffer.byteLength(text);
  }

  /** The first frame that matches, once it is there. */
  async until(matches: (frame: Json) => boolean): Promise<Json> {
    for (;;) {
      const found = this.frames.find(matches);
      if (found) return found;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  granted(method: string): number {
    return this.frames.filter((one) => one["method"] === method).reduce((sum, one) => sum + one["params"].bytes, 0);
  }
}

const storage: AgentStorage = {
  credential: async (hash) => (hash === sha256(SECRET) ? "agent-1" : null),
  admit: async () => 1,
  promote: async () => undefined,
  candidate: async () => undefined,
  enroll: async () => "refused",
};

export const HANDLERS: AgentHandlers = {
  models: async () => undefined,
  jobs: async () => undefined,
  result: async () => "stored",
};

export interface Linked {
  url: string;
  link: LinkServer;
  agent: ScriptedAgent;
  session: AgentSession;
}

/** A server, and an agent that it has admitted, for as long as `work` lasts. */
export async function linked(handlers: Partial<AgentHandlers>, work: (linked: Linked) => Promise<void>): Promise<void> {
  const link = new LinkServer(storage, { ...HANDLERS, ...handlers });
  const http = createServer();
  link.attach(http);
  await once(http.listen(0, "127.0.0.1"), "listening");
  const url = `ws://127.0.0.1:${(http.address() as AddressInfo).port}/api/v1/agents/connect`;
  const socket = new WebSocket(url, "obt.v1", { headers: { authorization: `Bearer ${SECRET}` } });
  try {
    const agent = new ScriptedAgent(socket);
    await once(socket, "open");
    agent.send({
      id: 1,
      method: "agent.hello",
      params: {
        protocol: { min: 1, max: 1 },
        agent: { id: "agent-1", name: "box", version: "1", instance: "i" },
        store_id: "s",
        capabilities: [],
      },
    });
    await agent.until((frame) => frame["id"] === 1);
    const session = link.sessions.get("agent-1");
    if (!session) throw new Error("not admitted");
    await work({ url, link, agent, session });
  } finally {
    socket.terminate();
    http.closeAllConnections();
    await new Promise((resolve) => http.close(resolve));
  }
}
