import { createHash } from "node:crypto";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { WebSocketServer, type WebSocket } from "ws";
import { BadFrame, checkParams, decode, isObject, type Json } from "./frames.ts";
import { LinkError } from "./errors.ts";
import type { HelloParams, HelloResult } from "./messages.ts";
import { AgentSession, type AgentHandlers } from "./session.ts";

const CONNECT_PATH = "/api/v1/agents/connect";
const ENROLL_PATH = "/api/v1/agents/enroll";
const SUBPROTOCOL = "obt.v1";
const MAX_FRAME_BYTES = 1 << 20; // [TRANSPORT-2]
const MAX_HELLO_BYTES = 32 << 10; // [HELLO-1]
const HELLO_WITHIN_MS = 10_000;
const PROBE_MS = 5_000; // [HELLO-5]
const MAX_ENROLMENT_BYTES = 16 << 10;

/** What an agent says when it enrols: the secret itself stays on its machine [ENROL-1]. */
export interface Enrolment {
  agent: { id: string; name: string; version: string };
  secret_sha256: string;
}

/** What the server keeps of agents. Everything is stored for good when a promise resolves. */
export interface AgentStorage {
  /** The id of the agent that this credential is good for; by its hash, and null where there is none. */
  credential(sha256: string): Promise<string | null>;
  /**
   * An agent is admitted: return its session number, larger than any before, also over restarts [HELLO-2]. Jobs
   * without a result are lost when `store_id` is another one [HELLO-6]. Not called before `credential` named it.
   */
  admit(agentId: string, hello: HelloParams): Promise<number>;
  /** The hello of this credential was answered: every other one of that agent ends here [ROTATE-1]. */
  promote(agentId: string, sha256: string): Promise<void>;
  /** A credential that is good beside the present one until `promote` [ROTATE-1]. */
  candidate(agentId: string, sha256: string): Promise<void>;
  /**
   * Use up a join token. `refused`: it is not known, or used with another hash. `taken`: that id has a
   * credential, or that secret is another agent's; the token stays good. A repeat is `enrolled` again [ENROL-1].
   */
  enroll(joinTokenSha256: string, enrolment: Enrolment): Promise<"enrolled" | "refused" | "taken">;
}

/** Admits agents on an HTTP server, and knows the session that each has. */
export class LinkServer {
  readonly sessions = new Map<string, AgentSession>();
  private readonly sockets = new WebSocketServer({
    noServer: true,
    maxPayload: MAX_FRAME_BYTES,
    // Compression would make credit meaningless [TRANSPORT-1].
    perMessageDeflate: false,
    handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
  });

  private readonly storage: AgentStorage;
  private readonly handlers: AgentHandlers;
  private readonly about: { name: string; version: string };

  constructor(storage: AgentStorage, handlers: AgentHandlers, about = { name: "", version: "" }) {
    this.storage = storage;
    this.handlers = handlers;
    this.about = about;
  }

  /** Answer upgrades of agents on this server; the rest of its requests is the caller's. */
  attach(http: Server): void {
    http.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      void this.upgrade(request, socket, head).catch(() => socket.destroy());
    });
  }

  /** Answer a request of enrolment; false where it is for something else. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    if (request.method !== "POST" || request.url !== ENROLL_PATH) return false;
    const [status, body] = await this.enroll(request);
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
    return true;
  }

  private async enroll(request: IncomingMessage): Promise<[number, object]> {
    const token = bearer(request);
    const body = await readJson(request);
    if (!isEnrolment(body)) return [422, refusal("agent and secret_sha256 are needed")];
    const outcome = token ? await this.storage.enroll(sha256(token), body) : "refused";
    if (outcome === "refused") return [401, refusal("this join token is not good")];
    if (outcome === "taken") return [409, refusal("that agent is enrolled already: revoke its credential first")];
    return [200, { agent_id: body.agent.id, server: this.about }];
  }

  private async upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const offered = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim()) ?? [];
    if (request.url !== CONNECT_PATH) return refuse(socket, "404 Not Found");
    if (!offered.includes(SUBPROTOCOL)) return refuse(socket, "426 Upgrade Required");
    const hash = sha256(bearer(request) ?? "");
    const agentId = await this.storage.credential(hash);
    if (agentId === null) return refuse(socket, "401 Unauthorized");
    this.sockets.handleUpgrade(request, socket, head, (opened) => {
      // Everything that ends a socket closes it; what the library says of a bad frame is in the close code.
      opened.on("error", () => undefined);
      void this.admit(opened, agentId, hash).catch(() => opened.close(1011));
    });
  }

  private async admit(socket: WebSocket, agentId: string, hash: string): Promise<void> {
    const first = await firstFrame(socket);
    if (typeof first === "number") return socket.close(first);
    const { id, params } = first;
    const spoken = params.protocol;
    if (!(spoken.min <= 1 && 1 <= spoken.max)) return socket.close(4426, "this server speaks version 1");
    if (params.agent.id !== agentId) return socket.close(4401, "agent.id is another one's");
    const old = this.sessions.get(agentId);
    if (old) {
      if (old.hello.agent.instance !== params.agent.instance && (await old.answers(PROBE_MS))) {
        return socket.close(4409, "another process of this agent is connected");
      }
      old.replace();
    }
    const session = new AgentSession(socket, agentId, params, this.handlers);
    const result: HelloResult = {
      protocol: 1,
      session: await this.storage.admit(agentId, params),
      server: this.about,
      time: Date.now() / 1000,
    };
    session.begin(id, result);
    // Only now can anybody reach it: nothing may go out before the answer to the hello.
    this.sessions.set(agentId, session);
    void session.ended.then(() => {
      // A newer one may stand there already.
      if (this.sessions.get(agentId) === session) this.sessions.delete(agentId);
    });
    await this.storage.promote(agentId, hash);
  }

  /** Let an agent make its next credential, which is good once this resolves. */
  async rotate(session: AgentSession, rotationId: string): Promise<void> {
    const answer = await session.request("credentials.rotate", { rotation_id: rotationId });
    await this.storage.candidate(session.agentId, answer.sha256);
  }
}

/** The hello, or the code to close with [HELLO-1]. */
function firstFrame(socket: WebSocket): Promise<{ id: number | string; params: HelloParams } | number> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(4408), HELLO_WITHIN_MS);
    socket.once("close", () => reject(new LinkError("link_lost", "the agent left before its hello")));
    socket.once("message", (data, binary) => {
      clearTimeout(timer);
      const text = data.toString();
      if (binary) return resolve(1003);
      if (Buffer.byteLength(text) > MAX_HELLO_BYTES) return resolve(1009);
      try {
        const frame = decode(text);
        if (frame["method"] !== "agent.hello" || frame["id"] === undefined) return resolve(4400);
        checkParams("agent.hello", (frame["params"] ?? {}) as Json);
        return resolve({ id: frame["id"] as number | string, params: frame["params"] as unknown as HelloParams });
      } catch (error) {
        if (error instanceof BadFrame || error instanceof LinkError) return resolve(4400);
        throw error;
      }
    });
  });
}

function refuse(socket: Duplex, status: string): void {
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

function refusal(message: string): object {
  return { error: { message } };
}

/** SHA-256 in hexadecimal: what is kept of every secret. */
export function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** The credential that a request comes with. */
export function bearer(request: IncomingMessage): string | null {
  return /^Bearer (.+)$/.exec(request.headers.authorization ?? "")?.[1] ?? null;
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  let text = "";
  for await (const piece of request.setEncoding("utf8")) {
    text += piece as string;
    if (text.length > MAX_ENROLMENT_BYTES) return undefined;
  }
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function isEnrolment(body: unknown): body is Enrolment {
  if (!isObject(body) || !isObject(body["agent"])) return false;
  const { id, name, version } = body["agent"];
  const words = [id, name, version].every((word) => typeof word === "string" && word.length > 0);
  return words && /^[0-9a-f]{64}$/.test(String(body["secret_sha256"]));
}
