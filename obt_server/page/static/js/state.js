// What the server says of its machines, kept current. Views listen; nobody else asks for it.

import { get } from "./api.js";
import { events } from "./sse.js";

export const agents = new Map();
export const link = { live: false, known: false };
// Events: "agents" (the list or one of them changed; detail: {id} or {}), "job" (detail: the event), "link".
const news = new EventTarget();
let stop = () => {};

export function on(name, handle) {
  const listener = (event) => handle(event.detail);
  news.addEventListener(name, listener);
  return () => news.removeEventListener(name, listener);
}

const tell = (name, detail = {}) => news.dispatchEvent(new CustomEvent(name, { detail }));

export function follow() {
  stop();
  stop = events("/events", {
    agent: (agent) => { agents.set(agent.id, agent); if (link.known) tell("agents", { id: agent.id }); },
    agent_gone: ({ id }) => { agents.delete(id); tell("agents", { id }); },
    job: (job) => tell("job", job),
    open: all,
    lost: () => { link.live = false; tell("link"); },
  });
}

// Also after an interruption: machines that were forgotten meanwhile have sent no news of it.
async function all() {
  try {
    const found = await get("/agents");
    agents.clear();
    for (const agent of found) agents.set(agent.id, agent);
    link.live = link.known = true;
    tell("agents");
    tell("link");
  } catch {
    follow(); // the stream opened and this failed: begin again
  }
}

export function forget() {
  stop();
  agents.clear();
  link.live = link.known = false;
}

export const online = (agent) => agent?.presence === "online";
export const byName = () => [...agents.values()].sort((a, b) => a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
export const nameOf = (id) => agents.get(id)?.name ?? "a machine that was removed";
