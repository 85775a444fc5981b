export * from "./errors.ts";
export type * from "./messages.ts";
export { LinkServer, bearer, sha256, type AgentStorage, type Enrolment } from "./server.ts";
export { AgentSession, type AgentHandlers, type StreamingMethod } from "./session.ts";
