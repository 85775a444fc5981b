/** Campaigns, schedules and what is said of their results, by the names that the views use. The shapes are generated. */

import type { components } from "./schema";

type Schemas = components["schemas"];

export type CampaignSummary = Schemas["CampaignSummary"];
export type CampaignView = Schemas["CampaignView"];
/** One measurement: a model by a plan on a machine, for the `repeat`th time. */
export type CampaignCell = Schemas["CellView"];
export type CellState = CampaignCell["state"];
export type CampaignPreview = Schemas["CampaignPreview"];
export type PreviewCell = Schemas["CellPreview"];
export type NewCampaign = Schemas["StartCampaign"];
export type PlanChoice = NewCampaign["plans"][number];
export type Selector = Schemas["SelectorBody"];
export type SavedPlan = Schemas["SavedPlanView"];
export type VerdictCounts = Schemas["VerdictCounts"];
export type VerdictWord = keyof VerdictCounts;
/** An event `campaign` of `/events`: the cells are those that changed. */
export type CampaignEvent = CampaignSummary & { changed: CampaignCell[] };

export type CampaignMatrix = Schemas["CampaignMatrix"];
export type MatrixCell = Schemas["CampaignMatrixCell"];
export type Verdict = Schemas["Verdict"];
export type Regression = Schemas["Regression"];
export type CellHistory = Schemas["LineHistory"];
export type HistoryPoint = Schemas["HistoryPoint"];
export type Baseline = Schemas["BaselineView"];
export type Schedule = Schemas["ScheduleView"];
export type ScheduleRun = Schemas["ScheduleRun"];
