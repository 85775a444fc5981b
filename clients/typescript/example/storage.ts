import { randomUUID } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { sha256, type AgentStorage, type Enrolment, type HelloParams, type JobFinishedParams } from "../src/index.ts";

interface Agent {
  credential: string;
  candidate?: string;
  session: number;
  store_id?: string;
  models: string[];
}

export interface Job {
  agent: string;
  method: "run_benchmark";
  /** As they were sent: a start that was not answered comes again with these. */
  params: { job_id: string; plan: { model_name: string }; not_after: number };
  state: string;
  sha256?: string;
  result?: string;
}

interface State {
  agents: Record<string, Agent>;
  jobs: Record<string, Job>;
  /** Used join tokens, by hash: who used them with which secret. */
  joined: Record<string, { agent: string; secret_sha256: string }>;
}

const START_WITHIN_S = 3600;
const ENDED = new Set(["completed", "failed", "cancelled", "interrupted", "lost"]);

/** Everything in one file, written anew at each change: for an example, and a few agents. */
export class FileStorage implements AgentStorage {
  private readonly path: string;
  private readonly joinTokens: ReadonlySet<string>;
  private readonly state: State;

  constructor(folder: string) {
    this.path = join(folder, "state.json");
    const tokens = readFileSync(join(folder, "join-tokens"), "utf8").split("\n").filter(Boolean);
    this.joinTokens = new Set(tokens.map(sha256));
    this.state = existsSync(this.path)
      ? (JSON.parse(readFileSync(this.path, "utf8")) as State)
      : { agents: {}, jobs: {}, joined: {} };
  }

  async credential(hash: string): Promise<string | null> {
    const found = Object.entries(this.state.agents).find(([, one]) => [one.credential, one.candidate].includes(hash));
    return found?.[0] ?? null;
  }

  async admit(agentId: string, hello: HelloParams): Promise<number> {
    const agent = this.agent(agentId);
    if (agent.store_id !== undefined && agent.store_id !== hello.store_id) {
      for (const job of this.jobsOf(agentId)) if (!ENDED.has(job.state)) job.state = "lost";
    }
    agent.store_id = hello.store_id;
    agent.session += 1;
    this.save();
    return agent.session;
  }

  async promote(agentId: string, hash: string): Promise<void> {
    const agent = this.agent(agentId);
    if (agent.candidate !== hash) return;
    agent.credential = hash;
    delete agent.candidate;
    this.save();
  }

  async candidate(agentId: string, hash: string): Promise<void> {
    this.agent(agentId).candidate = hash;
    this.save();
  }

  async enroll(token: string, { agent, secret_sha256 }: Enrolment): Promise<"enrolled" | "refused" | "taken"> {
    const used = this.state.joined[token];
    if (used) return used.agent === agent.id && used.secret_sha256 === secret_sha256 ? "enrolled" : "refused";
    if (!this.joinTokens.has(token)) return "refused";
    if (this.state.agents[agent.id] || (await this.credential(secret_sha256)) !== null) return "taken";
    this.state.agents[agent.id] = { credential: secret_sha256, session: 0, models: [] };
    this.state.joined[token] = { agent: agent.id, secret_sha256 };
    this.save();
    return "enrolled";
  }

  models(agentId: string): readonly string[] {
    return this.state.agents[agentId]?.models ?? [];
  }

  setModels(agentId: string, names: string[]): void {
    this.agent(agentId).models = names;
    this.save();
  }

  job(agentId: string, jobId: string): Job | undefined {
    return this.state.jobs[key(agentId, jobId)];
  }

  /** A benchmark that is to be started; it is stored before it is sent. */
  newJob(agentId: string, plan: { model_name: string }): Job {
    const params = { job_id: randomUUID(), plan, not_after: Date.now() / 1000 + START_WITHIN_S };
    const job: Job = { agent: agentId, method: "run_benchmark", params, state: "starting" };
    this.state.jobs[key(agentId, params.job_id)] = job;
    this.save();
    return job;
  }

  setState(job: Job, state: string): void {
    // A result is final: an answer that was on its way must not reopen the job.
    if (job.sha256 !== undefined) return;
    job.state = state;
    this.save();
  }

  /** Starts that nobody has answered. */
  unanswered(agentId: string): Job[] {
    return this.jobsOf(agentId).filter((job) => job.state === "starting");
  }

  async finish(agentId: string, final: JobFinishedParams, text: string): Promise<"stored" | "conflict"> {
    const known = this.state.jobs[key(agentId, final.job_id)];
    // A job that this server did not start: its result is worth keeping all the same.
    const params = { job_id: final.job_id, plan: { model_name: "" }, not_after: 0 };
    const job: Job = known ?? { agent: agentId, method: "run_benchmark", params, state: "running" };
    if (job.sha256 !== undefined) return job.sha256 === final.sha256 ? "stored" : "conflict";
    this.state.jobs[key(agentId, final.job_id)] = Object.assign(job, {
      state: final.state,
      sha256: final.sha256,
      result: text,
    });
    this.save();
    return "stored";
  }

  private agent(agentId: string): Agent {
    const agent = this.state.agents[agentId];
    if (!agent) throw new Error(`no agent ${agentId}`);
    return agent;
  }

  private jobsOf(agentId: string): Job[] {
    return Object.values(this.state.jobs).filter((job) => job.agent === agentId);
  }

  private save(): void {
    const file = openSync(`${this.path}.new`, "w", 0o600);
    try {
      writeSync(file, JSON.stringify(this.state));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(`${this.path}.new`, this.path);
  }
}

function key(agentId: string, jobId: string): string {
  return `${agentId}/${jobId}`;
}
