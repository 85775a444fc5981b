// Server-sent events read with fetch: a refusal's reason is known, a dead link is noticed, and it comes back.

import { base, GONE, refusal } from "./api.js";

const SILENT_MS = 45_000; // the server sends a comment at least every 15 s
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

// Follows a path until the function returned is called, or the server says `end`, or refuses for good.
// on: {event name: (data) => ..., open(), lost(error), refused(error)}. Paused while the page is hidden.
export function events(path, on) {
  let over = null;
  let timer = 0;
  let wait = FIRST_WAIT_MS;
  let last = null;
  let closed = false;

  async function open() {
    const mine = new AbortController();
    over = mine;
    try {
      const headers = last === null ? {} : { "Last-Event-ID": last };
      const response = await fetch(base + path, { headers, signal: mine.signal, credentials: "same-origin", cache: "no-store" });
      if (!response.ok) throw await refusal(response);
      if (over !== mine) return;
      wait = FIRST_WAIT_MS;
      on.open?.();
      await read(response.body, mine, take);
      throw new Error(GONE);
    } catch (error) {
      if (closed || over !== mine) return;
      failed(error);
    }
  }

  function take({ name, data, id }) {
    if (closed) return;
    if (id !== null) last = id;
    if (name === "end") close();
    if (name === "error") throw Object.assign(new Error(data.error.message), { status: 200, ...data.error });
    try {
      on[name]?.(data);
    } catch (error) {
      reportError(error); // a fault of ours, not of the link
    }
  }

  function failed(error) {
    if (error.status !== undefined && !error.retryable) {
      close();
      if (error.status === 200 && error.kind === "not_signed_in") return void dispatchEvent(new Event("signed-out"));
      if (error.status !== 401) on.refused?.(error);
      return;
    }
    on.lost?.(error.status === undefined ? new Error(GONE) : error);
    if (closed) return;
    timer = setTimeout(open, Math.max(wait, error.retryAfterMs ?? error.retry_after_ms ?? 0));
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  }

  function pause() {
    const before = over;
    over = null;
    clearTimeout(timer);
    before?.abort();
  }

  function seen() {
    if (document.hidden) pause();
    else if (over === null) open();
  }

  function close() {
    closed = true;
    document.removeEventListener("visibilitychange", seen);
    pause();
  }

  document.addEventListener("visibilitychange", seen);
  seen();
  return close;
}

async function read(body, over, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const watchdog = setTimeout(() => over.abort(), SILENT_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(watchdog));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) parse(block, take);
  }
}

function parse(block, take) {
  const event = { name: null, data: null, id: null };
  for (const line of block.split("\n")) {
    const [key, ...rest] = line.split(": ");
    if (key === "event") event.name = rest.join(": ");
    else if (key === "data") event.data = JSON.parse(rest.join(": "));
    else if (key === "id") event.id = rest.join(": ");
  }
  if (event.name !== null) take(event);
}
