// How a machine is added: a join token, the commands to copy, and the news that it is there.

import { get, part, post, remove, server as home } from "./api.js";
import { count, when } from "./format.js";
import { action, card, copyable, failed, field, h, loading, redraw, show, table } from "./dom.js";
import { agents, on } from "./state.js";

export function addView(place) {
  const arrived = h("div", { role: "status" });
  const tokens = h("div", {}, loading("join tokens"));
  const before = new Set(agents.keys());
  show(place, h("div", { class: "title" }, h("h2", {}, agents.size ? "Add a machine" : "No machine yet: add the first")), joinCard(draw), arrived, tokens);
  draw().catch((error) => show(tokens, failed(error)));
  return on("agents", () => {
    const fresh = [...agents.values()].filter((agent) => !before.has(agent.id));
    show(arrived, fresh.map((agent) => h("p", { class: "welcome" }, "Here: ", h("a", { href: `#/machine/${part(agent.id)}/hardware` }, agent.name))));
    if (fresh.length) draw().catch(() => {});
  });

  async function draw() {
    redraw(tokens, tokensCard(await get("/join-tokens"), draw));
  }
}

function joinCard(draw) {
  const server = home.href.replace(/\/$/, "");
  const note = h("input", { maxlength: "200", placeholder: "for example gpu-box" });
  const issued = h("div", { role: "status" });
  const issue = action(async () => {
    const { secret } = await post("/join-tokens", note.value ? { note: note.value } : {});
    show(issued, h("p", {}, "Shown this once; good for one machine, for an hour:"), copyable(secret));
    await draw();
  });
  return card(null, h("p", {}, "A machine with Ollama dials this server; nothing has to reach it, and no port is opened there."), h("ol", { class: "steps" },
    h("li", {}, "Issue a join token. The machine exchanges it for a credential of its own.",
      h("form", { class: "row end", onsubmit: issue }, field("Note, for you", note), h("button", {}, "Issue a join token")), issued),
    h("li", {}, "On that machine, install the agent (Python 3.11 or newer):", copyable("python3 -m venv agent && agent/bin/pip install obt-agent")),
    h("li", {}, "Put the token into a file that only you can read: paste it, then press Enter and Ctrl-D.", copyable("install -m 600 /dev/null join.txt && cat > join.txt")),
    h("li", {}, "Install the service:", copyable(`sudo agent/bin/obt-agent service install --server ${server} --token-file join.txt`),
      h("details", {}, h("summary", {}, "Without systemd"), copyable(`agent/bin/obt-agent enroll ${server} --token-file join.txt && agent/bin/obt-agent run --server-url ${server}`))),
    h("li", {}, "It appears here by itself.")));
}

const state = (token) => (token.used_at ? `used ${when(token.used_at)}` : token.revoked_at ? "revoked"
  : token.expires_at < Date.now() / 1000 ? "expired" : `good until ${when(token.expires_at)}`);

function tokensCard(tokens, draw) {
  return card("Join tokens", table([
    { title: "Note", of: (token) => token.note || "–" }, { title: "Issued", of: (token) => when(token.created_at) }, { title: "State", of: state },
    { title: "", of: (token) => !token.used_at && !token.revoked_at && token.expires_at > Date.now() / 1000 && h("button", { class: "danger", type: "button", "data-key": `revoke ${token.id}`,
      "aria-label": `Revoke the join token ${token.note}`, onclick: action(async () => { await remove(`/join-tokens/${part(token.id)}`); await draw(); }) }, "Revoke") },
  ], tokens, "None was issued yet.", `${count(tokens.length, "join token")}`));
}
