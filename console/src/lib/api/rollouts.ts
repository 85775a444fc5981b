/** Changes of models on many machines, by the names that the views use. The shapes are generated. */

import type { components } from "./schema";

type Schemas = components["schemas"];

export type RolloutView = Schemas["RolloutView"];
export type RolloutSummary = Schemas["RolloutSummary"];
export type TargetView = RolloutView["targets"][number];
export type RolloutAction = RolloutSummary["action"];
export type TargetState = TargetView["state"];
export type NewRollout = Schemas["StartRollout"];
export type Selector = Schemas["SelectorBody"];
export type TargetPreview = Schemas["TargetPreview"];

export type ModelMatrix = Schemas["ModelMatrix"];
export type MatrixAgent = Schemas["MatrixAgent"];
export type MatrixModel = Schemas["MatrixModel"];
export type MatrixCell = Schemas["MatrixCell"];
export type ModelChange = Schemas["ModelChangeView"];

export type ModelSet = Schemas["ModelSetView"];
export type SetModel = Schemas["WantedModelBody"];
export type DriftReport = Schemas["DriftReport"];
export type SetStep = Schemas["PlannedStep"];

/** An event `rollout` of `/events`: the targets are those that changed. */
export type RolloutEvent = RolloutSummary & { targets: TargetView[] };
