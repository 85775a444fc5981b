// The server's REST, events and sockets. Errors carry the server's message.

const base = "/api/v1";

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered ${status}.`);
    this.status = status;
    this.kind = error?.kind;
  }
}

async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(base + path, {
      method, credentials: "same-origin",
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  const text = await response.text();
  const data = text ? JSON.parse(text) : null;
  if (!response.ok) {
    const error = data?.error ?? { message: data?.detail ? JSON.stringify(data.detail) : undefined };
    if (response.status === 401 && error.kind === "not_signed_in") dispatchEvent(new Event("signed-out"));
    throw new Refused(response.status, error);
  }
  return data;
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const remove = (path) => ask("DELETE", path);
export const part = encodeURIComponent;

// Named events of a path until `close`; the browser reconnects by itself.
export function events(path, handlers) {
  const source = new EventSource(base + path);
  for (const [name, handle] of Object.entries(handlers)) {
    if (name === "open" || name === "lost") continue;
    source.addEventListener(name, (event) => handle(event.data === undefined ? null : JSON.parse(event.data)));
  }
  source.onopen = () => handlers.open?.();
  source.onerror = (event) => { if (event.data === undefined) handlers.lost?.(source.readyState === EventSource.CLOSED); };
  return () => source.close();
}

export function generation(model, agent) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const name = model.split("/").map(part).join("/");
  return new WebSocket(`${scheme}://${location.host}${base}/models/generate/${name}?client_id=${part(agent)}`);
}
