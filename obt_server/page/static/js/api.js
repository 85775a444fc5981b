// The server's REST, and its sockets. Errors carry the server's message.

// Relative to the page, so that a proxy may serve it under a path of its own (https://host/obt/).
export const server = new URL(".", document.baseURI);
export const base = new URL("api/v1", server).pathname;
export const part = encodeURIComponent;
export const GONE = "The server does not answer.";

export class Refused extends Error {
  constructor(status, error) {
    super(error?.message ?? `The server answered ${status}.`);
    this.status = status;
    this.kind = error?.kind;
    this.retryable = error?.retryable ?? status >= 500;
    this.retryAfterMs = error?.retry_after_ms;
  }
}

// What an answer that is not ok says. Whoever is no longer signed in is asked to sign in.
export async function refusal(response) {
  let data = null;
  try {
    data = await response.json();
  } catch {
    // a proxy's page: the status says it
  }
  const error = data?.error ?? (data?.detail ? { message: invalid(data.detail) } : undefined);
  if (response.status === 401 && error?.kind === "not_signed_in") dispatchEvent(new Event("signed-out"));
  return new Refused(response.status, error);
}

// FastAPI's list of what is wrong with a request.
const invalid = (detail) => (Array.isArray(detail)
  ? detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ") : String(detail));

async function ask(method, path, body) {
  let response;
  try {
    response = await fetch(base + path, {
      method, credentials: "same-origin",
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error(GONE);
  }
  if (!response.ok) throw await refusal(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

export const get = (path) => ask("GET", path);
export const post = (path, body = {}) => ask("POST", path, body);
export const remove = (path) => ask("DELETE", path);

export function generation(model, agent) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const name = model.split("/").map(part).join("/");
  return new WebSocket(`${scheme}://${location.host}${base}/models/generate/${name}?client_id=${part(agent)}`);
}
