/**
 * A whole server in two files: `node example/server.ts FOLDER [PORT]`. FOLDER holds `join-tokens`, one a line, and gets
 * the server's state. It listens on this machine's loopback alone, and asks its own users for no password.
 */
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { join } from "node:path";
import { LinkError, LinkServer, type AgentSession, type StreamingMethod } from "../src/index.ts";
import { FileStorage, type Job } from "./storage.ts";

const [folder = ".", port = "0"] = process.argv.slice(2);
const storage = new FileStorage(folder);
const STREAMING = new Set<string>(["generate", "chat", "hardware_watch", "benchmark_metrics"]);

const link = new LinkServer(
  storage,
  {
    async models(agent, models) {
      storage.setModels(agent.agentId, models.map((model) => model.name));
    },
    async jobs(agent, jobs) {
      const known = new Set(jobs.map((job) => job.job_id));
      for (const job of storage.unanswered(agent.agentId)) {
        // In the background: this runs inside the answer to jobs.sync.
        if (!known.has(job.params.job_id)) void start(agent, job).catch(report);
      }
    },
    result: (agent, final, text) => storage.finish(agent.agentId, final, text),
  },
  { name: "obt-link example", version: "0.1.0" },
);

async function start(agent: AgentSession, job: Job): Promise<object> {
  try {
    const started = await agent.request(job.method, job.params);
    storage.setState(job, started.state);
    return started;
  } catch (error) {
    // Whether the agent has it is not known then: the next jobs.sync says.
    const unknown = error instanceof LinkError && ["link_lost", "timeout"].includes(error.kind);
    if (!unknown) storage.setState(job, "failed");
    throw error;
  }
}

function report(error: unknown): void {
  console.error(String(error));
}

/** The parameters with their images, which may be larger than a frame, sent ahead. */
async function attached(agent: AgentSession, params: { images?: string[] }): Promise<object> {
  if (!Array.isArray(params.images)) return params;
  const images: object[] = [];
  for (const image of params.images) images.push(await agent.attach(Buffer.from(image, "base64")));
  return { ...params, images };
}

/** One call of a user: lines of JSON, the last of which is the result or the error. */
async function call(agentId: string, method: string, params: object, response: ServerResponse): Promise<void> {
  const agent = link.sessions.get(agentId);
  if (!agent) throw new LinkError("link_lost", "the agent is not connected");
  if (method === "run_benchmark") {
    const job = storage.newJob(agentId, params as { model_name: string });
    return void response.end(JSON.stringify({ result: await start(agent, job) }));
  }
  if (method === "credentials.rotate") {
    await link.rotate(agent, `rotation-${Date.now()}`);
    return void response.end(JSON.stringify({ result: {} }));
  }
  if (!STREAMING.has(method)) {
    return void response.end(JSON.stringify({ result: await agent.request(method as "embed", params as never) }));
  }
  const stream = agent.stream(method as StreamingMethod, (await attached(agent, params)) as never);
  // A user who goes away wants no more of it.
  response.once("close", stream.cancel);
  for await (const item of stream.items) {
    // Waiting here is what holds up the stream of a user who does not read.
    if (response.write(JSON.stringify({ item }) + "\n")) continue;
    await Promise.race([once(response, "drain"), once(response, "close")]);
  }
  response.end(JSON.stringify({ result: await stream.result }));
}

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (await link.handle(request, response)) return;
  const [, what, agentId = "", name = ""] = (request.url ?? "").split("/");
  if (request.method === "POST" && what === "call") {
    const body = Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>)).toString();
    return call(agentId, name, JSON.parse(body) as object, response);
  }
  const job = what === "job" ? storage.job(agentId, name) : undefined;
  if (what === "models") {
    response.end(JSON.stringify(storage.models(agentId)));
  } else if (job) {
    const result = job.result === undefined ? {} : { result: JSON.parse(job.result) as unknown };
    response.end(JSON.stringify({ state: job.state, ...result }));
  } else {
    response.writeHead(404).end();
  }
}

const http = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => {
    const known = error instanceof LinkError ? error : new LinkError("internal", String(error));
    response.end(JSON.stringify({ error: known.toWire() }));
  });
});
link.attach(http);
http.listen(Number(port), "127.0.0.1", () => {
  const address = http.address();
  if (address === null || typeof address === "string") throw new Error("not a port");
  // For whoever restarts it.
  writeFileSync(join(folder, "pid"), String(process.pid));
  console.log(`listening on http://127.0.0.1:${address.port}`);
});
process.once("SIGTERM", () => process.exit(0));
