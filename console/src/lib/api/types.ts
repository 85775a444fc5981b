/** What the server sends, by the names that the views use. The shapes are generated (see `npm run types`). */

import type { components } from "./schema";

type Schemas = components["schemas"];

export type OllamaState = Schemas["OllamaState"];
export type RunningModel = Schemas["RunningModel"];
export type Progress = Schemas["JobProgress"];
export type Inventory = Schemas["Inventory"];
export type GpuInfo = NonNullable<Inventory["gpus"]>[number];
export type Sample = Schemas["Sample"];
export type GpuSample = NonNullable<Sample["gpus"]>[number];
export type Plan = Schemas["Plan"];
export type BenchmarkResult = Schemas["BenchmarkResult"];
export type Comparison = Schemas["Comparison"];
export type RunSample = Schemas["ResourceSample"];

export type Agent = Schemas["AgentView"];
export type Job = Schemas["JobView"];
export type ResultLine = Schemas["ResultView"];
export type ModelName = Schemas["NameView"];
export type InstalledModel = Schemas["ModelView"];
export type JoinToken = Schemas["JoinToken"];
export type Credential = Schemas["CredentialInfo"];
export type ApiToken = Schemas["ApiToken"];
export type PreparedRequest = Schemas["PreparedRequest"];
export type HardwareView = Schemas["HardwareView"];

/** A number of a live series: `n` counts samples taken, `missed` those that this reader did not get. */
export interface SeriesItem<S> {
    t_us: number;
    n: number;
    missed: number;
    sample: S;
}

/** An event `job` of `/events`. */
export interface JobEvent {
    agent_id: string;
    job_id: string;
    state: Job["state"];
    kind: string;
    progress?: Progress | null;
}
