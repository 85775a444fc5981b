// Join tokens for new machines, credentials of known ones.

import { get, part, post, remove } from "./api.js";
import { action, copyable, field, h, notice, show, table, when } from "./dom.js";

export function accessView(place, agent) {
  const first = h("div");
  const tokens = h("div");
  if (agent) show(place, first, tokens, removal(agent));
  else {
    show(first, joinCard(drawTokens));
    place.append(first, tokens);
  }
  const draw = agent ? async () => show(first, credentialCard(agent, await get("/credentials"), draw)) : null;
  for (const work of [draw, drawTokens]) work?.().catch((error) => notice(error.message));

  async function drawTokens() {
    show(tokens, tokensCard(await get("/join-tokens"), drawTokens));
  }
}

function joinCard(draw) {
  const note = h("input", { maxlength: "200", placeholder: "for example gpu-box" });
  const issued = h("div", { "aria-live": "polite" });
  return h("form", { class: "card", onsubmit: action(async () => {
    const { secret } = await post("/join-tokens", note.value ? { note: note.value } : {});
    show(issued, h("p", {}, "Shown this once; good for one machine, for an hour. Put it into a file on that machine that only you can read (chmod 600 join.txt), then run:"),
      copyable(secret), copyable(`sudo obt-agent service install --server ${location.origin} --token-file join.txt`),
      h("p", { class: "quiet small" }, "Without systemd:"), copyable(`obt-agent enroll ${location.origin} --token-file join.txt && obt-agent run --server-url ${location.origin}`));
    await draw();
  }) }, h("h3", {}, "Issue a join token"), h("p", { class: "quiet" }, "The machine exchanges it for a credential of its own. It dials this server; nothing has to reach it."),
    field("Note", note), h("button", {}, "Issue"), issued);
}

function tokensCard(tokens, draw) {
  const state = (token) => (token.used_at ? `used ${when(token.used_at)}` : token.revoked_at ? "revoked" : token.expires_at < Date.now() / 1000 ? "expired" : `good until ${when(token.expires_at)}`);
  return h("section", { class: "card" }, h("h3", {}, "Join tokens"), table([
    { title: "Note", of: (token) => token.note || "–" }, { title: "Issued", of: (token) => when(token.created_at) }, { title: "State", of: state },
    { title: "", of: (token) => !token.used_at && !token.revoked_at && h("button", { class: "danger", type: "button", onclick: action(async () => { await remove(`/join-tokens/${part(token.id)}`); await draw(); }) }, "Revoke") },
  ], tokens, "None was issued yet."));
}

function credentialCard(agent, credentials, draw) {
  const own = credentials.filter((one) => one.agent_id === agent.id);
  const path = `/agents/${part(agent.id)}/credentials`;
  return h("section", { class: "card" }, h("h3", {}, "Credential of this machine"), table([
    { title: "State", of: (one) => one.state }, { title: "Since", of: (one) => when(one.created_at) }, { title: "Last used", of: (one) => when(one.last_used_at) },
  ], own, "It has none."),
  h("div", { class: "row" }, h("button", { class: "plain", type: "button", onclick: action(async () => {
    const { started } = await post(`${path}/rotate`);
    notice(started ? "The machine has made a new credential and uses it from its next dial on." : "It is asked when it is back.");
    await draw();
  }) }, "Rotate"), h("button", { class: "danger", type: "button", onclick: action(async () => {
    if (!confirm(`Revoke the credential of ${agent.name}? Its session ends at once, and it must be enrolled anew.`)) return;
    await post(`${path}/revoke`);
    await draw();
  }) }, "Revoke")));
}

function removal(agent) {
  return h("section", { class: "card" }, h("h3", {}, "Forget this machine"), h("p", { class: "quiet" }, "Ends its session and deletes what it reported, results included."),
    h("button", { class: "danger", type: "button", onclick: action(async () => {
      if (!confirm(`Forget ${agent.name} and delete its results?`)) return;
      await remove(`/agents/${part(agent.id)}`);
      location.hash = "#/";
    }) }, "Forget"));
}
