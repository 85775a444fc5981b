import { randomUUID } from "node:crypto";
import type { RawData, WebSocket } from "ws";
import { LinkError } from "./errors.ts";
import { BadFrame, checkParams, decode, isObject, type Json } from "./frames.ts";
import { JobResults } from "./jobs.ts";
import type * as messages from "./messages.ts";
import type { AgentMethods, HelloParams, RequestId, ServerMethods } from "./messages.ts";
import { Call } from "./stream.ts";

const ALIVE_AFTER_MS = 4_000; // [LIFE-1]: at least every 5 s, and the timer runs once a second
const SILENCE_MS = 18_000; // [LIFE-2]
const BAD_FRAMES = { most: 10, within_ms: 60_000 }; // [TRANSPORT-5]
const MAX_IN_FLIGHT = 64; // [CMD-4]
// 48 KiB of base64: a frame of it fits the smallest limit that an agent may name [TRANSPORT-2].
const BLOB_PIECE_BYTES = 36 << 10;

/** Methods that stream before they answer. */
export type StreamingMethod = {
  [M in keyof ServerMethods]: [ServerMethods[M]["item"]] extends [never] ? never : M;
}[keyof ServerMethods];

/** What becomes of what an agent reports. Whatever these return is awaited before the agent gets its answer. */
export interface AgentHandlers {
  /** The whole list, once its last page is here [SYNC-1]. */
  models(agent: AgentSession, models: readonly messages.InstalledModel[]): Promise<void>;
  hardware?(agent: AgentSession, inventory: messages.Inventory): Promise<void>;
  /** All jobs that the agent still has: a start that is not among them was lost [JOB-2]. */
  jobs(agent: AgentSession, jobs: readonly messages.JobSummary[]): Promise<void>;
  /** Store a result for good; the agent removes its copy when this returns [JOB-5]. */
  result(
    agent: AgentSession,
    final: messages.JobFinishedParams,
    text: string,
  ): Promise<"stored" | "conflict">;
  notified?(agent: AgentSession, method: keyof AgentMethods, params: Json): void;
}

/** One admitted agent, until its socket ends. */
export class AgentSession {
  /** Resolved with the close code when the session has ended. */
  readonly ended: Promise<number>;
  readonly agentId: string;
  readonly hello: HelloParams;
  private readonly socket: WebSocket;
  private readonly handlers: AgentHandlers;
  private readonly calls = new Map<RequestId, Call>();
  private readonly answering = new Set<RequestId>();
  private readonly results: JobResults;
  private readonly models = new Pages<messages.InstalledModel>();
  private readonly jobs = new Pages<messages.JobSummary>();
  private readonly bad: number[] = [];
  private nextId = 1;
  private heardAt = Date.now();
  private sentAt = 0;
  private framesReceived = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(socket: WebSocket, agentId: string, hello: HelloParams, handlers: AgentHandlers) {
    this.socket = socket;
    this.agentId = agentId;
    this.hello = hello;
    this.handlers = handlers;
    this.results = new JobResults((final, text) => handlers.result(this, final, text));
    // Frames alone: a library's pong says nothing of the program that uses it [LIFE-2].
    socket.on("message", (data, binary) => this.receive(data, binary));
    this.ended = new Promise((resolve) => socket.once("close", (code) => resolve(this.end(code))));
  }

  /** Answer the hello; from here on requests go out [HELLO-1]. */
  begin(helloId: RequestId, result: messages.HelloResult): void {
    this.send({ id: helloId, result });
    this.timer = setInterval(() => this.tick(), 1_000);
  }

  /** Ask for a sign of life; false when nothing at all came in time [HELLO-5]. */
  async answers(within_ms: number): Promise<boolean> {
    const before = this.framesReceived;
    await this.request("state.request", { kinds: [] }, within_ms).catch(() => undefined);
    return this.framesReceived > before;
  }

  /** End it for a newer session of the same agent. */
  replace(): void {
    this.close(1001, "replaced by a newer connection");
    // One that does not read takes no close frame.
    setTimeout(() => this.socket.terminate(), 1_000).unref();
  }

  /** Send a request, and return the result of its one answer. */
  async request<M extends keyof ServerMethods>(
    method: M,
    params: ServerMethods[M]["params"],
    timeout_ms = 60_000,
  ): Promise<ServerMethods[M]["result"]> {
    const call = this.open(method, params);
    const timer = setTimeout(() => this.abandon(call, new LinkError("timeout", `${method} was not answered`)), timeout_ms);
    try {
      return (await call.result) as ServerMethods[M]["result"];
    } finally {
      clearTimeout(timer);
    }
  }

  /** Send a request that streams. Its credit goes back as its items are read; leaving the loop cancels it. */
  stream<M extends StreamingMethod>(
    method: M,
    params: ServerMethods[M]["params"],
  ): { items: AsyncIterable<ServerMethods[M]["item"]>; result: Promise<ServerMethods[M]["result"]>; cancel(): void } {
    const call = this.open(method, params);
    const cancel = () => this.abandon(call, new LinkError("cancelled", "nobody reads the stream any more"));
    async function* items(): AsyncGenerator<ServerMethods[M]["item"], void, void> {
      try {
        yield* call.items() as AsyncGenerator<ServerMethods[M]["item"], void, void>;
      } finally {
        cancel();
      }
    }
    return { items: items(), result: call.result as Promise<ServerMethods[M]["result"]>, cancel };
  }

  /**
   * Send an image ahead of the request that uses it, and return what stands for it in `images`: one that is larger than
   * a frame travels no other way. The agent keeps 16 MiB a session, each blob for 60 s after its last piece.
   */
  async attach(image: Uint8Array): Promise<{ blob: string }> {
    const blob = randomUUID();
    let offset = 0;
    do {
      const piece = Buffer.from(image.subarray(offset, offset + BLOB_PIECE_BYTES));
      const last = offset + piece.length >= image.length;
      // One at a time: what others send meanwhile waits for one piece at most.
      await this.request("blob.put", { blob, offset, data: piece.toString("base64"), last });
      offset += piece.length;
    } while (offset < image.length);
    return { blob };
  }

  /** Send a notification. */
  notify<M extends keyof ServerMethods>(method: M, params: ServerMethods[M]["params"]): void {
    this.send({ method, params });
  }

  /** End the session. */
  close(code: number, reason = ""): void {
    this.socket.close(code, reason);
  }

  private open(method: string, params: object): Call {
    if (this.socket.readyState !== this.socket.OPEN) throw new LinkError("link_lost", "the agent's session has ended");
    // Pieces of images have places of their own, so that whoever waits for a place can still be sent one.
    const sharing = [...this.calls.values()].filter((one) => (one.method === "blob.put") === (method === "blob.put"));
    if (sharing.length >= MAX_IN_FLIGHT) throw new LinkError("busy", "too many requests are in flight");
    const id = this.nextId++;
    const call = new Call(id, method, (bytes) => {
      if (bytes > 0 && this.calls.has(id)) this.notify("stream.credit", { id, bytes });
    });
    this.calls.set(id, call);
    this.send({ id, method, params });
    return call;
  }

  /** Fail a request for whoever waited; its id stays taken until the agent has answered. */
  private abandon(call: Call, error: LinkError): void {
    if (!this.calls.has(call.id) || call.abandoned) return;
    call.abandoned = true;
    call.fail(error);
    this.send({ id: `cancel-${call.id}`, method: "cancel", params: { id: call.id } });
  }

  private send(message: Json): void {
    if (this.socket.readyState !== this.socket.OPEN) return;
    this.sentAt = Date.now();
    this.socket.send(JSON.stringify({ jsonrpc: "2.0", ...message }));
  }

  private tick(): void {
    if (Date.now() - this.heardAt > SILENCE_MS) {
      // Without a closing handshake, which a dead peer would not answer.
      this.socket.terminate();
      return;
    }
    if (Date.now() - this.sentAt >= ALIVE_AFTER_MS) this.send({ method: "link.alive", params: {} });
  }

  private end(code: number): number {
    clearInterval(this.timer);
    // Nothing is replayed [ALIVE-1].
    for (const call of this.calls.values()) call.fail(new LinkError("link_lost", "the agent's session ended"));
    this.calls.clear();
    return code;
  }

  private receive(data: RawData, binary: boolean): void {
    this.heardAt = Date.now();
    this.framesReceived += 1;
    if (binary) return this.close(1003, "obt.v1 has text frames only");
    const text = data.toString();
    try {
      this.dispatch(decode(text), Buffer.byteLength(text));
    } catch (error) {
      if (!(error instanceof BadFrame)) throw error;
      this.send({ id: error.id, error: error.error.toWire() });
      this.countBad();
    }
  }

  private countBad(): void {
    const now = Date.now();
    this.bad.push(now);
    while (this.bad.length && now - this.bad[0]! > BAD_FRAMES.within_ms) this.bad.shift();
    if (this.bad.length >= BAD_FRAMES.most) this.close(4400, "ten bad frames in a minute");
  }

  private dispatch(frame: Json, bytes: number): void {
    const { id, method } = frame;
    if (typeof method !== "string") {
      this.answered(frame);
    } else if (method === "stream.data") {
      // The link's credit goes back as it is read, the stream's as its reader reads [CREDIT-4].
      const params = frame["params"] as messages.StreamData;
      this.calls.get(params.id)?.data(params, bytes);
      this.notify("link.credit", { bytes });
    } else if (id === undefined) {
      this.handlers.notified?.(this, method as keyof AgentMethods, (frame["params"] ?? {}) as Json);
    } else {
      void this.answer(id as RequestId, method, (frame["params"] ?? {}) as Json, bytes);
    }
  }

  private answered(frame: Json): void {
    const call = this.calls.get(frame["id"] as RequestId);
    // Answers to ids that nobody asked under are ignored [TRANSPORT-4].
    if (!call) return;
    if (isObject(frame["error"])) call.fail(LinkError.fromWire(frame["error"] as unknown as messages.WireError));
    else call.finish(isObject(frame["result"]) ? frame["result"] : {});
    this.calls.delete(call.id);
  }

  private async answer(id: RequestId, method: string, params: Json, bytes: number): Promise<void> {
    const known = Object.hasOwn(METHODS, method);
    try {
      if (this.answering.has(id)) throw new LinkError("invalid_request", "That id is in flight already.");
      if (!known) throw new LinkError("unknown_method", `There is no method ${method.slice(0, 64)}.`);
      if (this.answering.size >= MAX_IN_FLIGHT) {
        throw new LinkError("busy", "Too many requests are in flight.", { retryable: true, retry_after_ms: 250 });
      }
    } catch (error) {
      this.send({ id, error: (error as LinkError).toWire() });
      if (known) this.notify("link.credit", { bytes });
      return;
    }
    this.answering.add(id);
    try {
      checkParams(method, params);
      this.send({ id, result: await METHODS[method]!.call(this, params as never) });
    } catch (error) {
      // The text of a foreign error stays here: it might hold a secret.
      const known = error instanceof LinkError ? error : new LinkError("internal", "The server failed.");
      this.send({ id, error: known.toWire() });
    } finally {
      this.answering.delete(id);
      this.notify("link.credit", { bytes });
    }
  }

  /** @internal */
  async modelsSync(sync: messages.ModelsSync): Promise<object> {
    const whole = this.models.add(sync.page, sync.models);
    if (whole) await this.handlers.models(this, whole);
    return { revision: sync.revision };
  }

  /** @internal */
  async hardwareSync(sync: messages.HardwareSync): Promise<object> {
    await this.handlers.hardware?.(this, sync.inventory);
    return { revision: sync.revision };
  }

  /** @internal */
  async jobsSync(sync: messages.JobsSync): Promise<object> {
    const whole = this.jobs.add(sync.page, sync.jobs);
    if (whole) await this.handlers.jobs(this, whole);
    return { revision: sync.revision };
  }

  /** @internal */
  get jobResults(): JobResults {
    return this.results;
  }
}

/** Pages of one list, gathered until the last. */
class Pages<T> {
  private entries: readonly T[] = [];

  /** Add a page; return the whole list with the last one. */
  add(page: messages.Page | undefined, entries: readonly T[]): readonly T[] | undefined {
    this.entries = page?.index ? [...this.entries, ...entries] : entries;
    return (page?.last ?? true) ? this.entries : undefined;
  }
}

/** What agents ask. */
const METHODS: Record<string, (this: AgentSession, params: never) => Promise<object> | object> = {
  "models.sync": AgentSession.prototype.modelsSync,
  "hardware.sync": AgentSession.prototype.hardwareSync,
  "jobs.sync": AgentSession.prototype.jobsSync,
  "job.part"(params: messages.JobPartParams) {
    return this.jobResults.part(params);
  },
  "job.finished"(params: messages.JobFinishedParams) {
    return this.jobResults.finished(params);
  },
};
