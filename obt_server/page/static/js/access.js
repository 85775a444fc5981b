// The credential of a machine, and its removal.

import { get, part, post, remove } from "./api.js";
import { when } from "./format.js";
import { action, card, failed, h, loading, notice, redraw, show, since, table } from "./dom.js";

export function accessView(place, agent) {
  const credential = h("div", {}, loading("the credential"));
  show(place, credential, removal(agent));
  const draw = async () => redraw(credential, credentialCard(agent, await get("/credentials"), draw));
  draw().catch((error) => show(credential, failed(error)));
}

function credentialCard(agent, credentials, draw) {
  const own = credentials.filter((one) => one.agent_id === agent.id);
  const path = `/agents/${part(agent.id)}/credentials`;
  const rotate = action(async () => {
    const { started } = await post(`${path}/rotate`);
    notice(started ? "The machine has made a new credential and uses it from its next dial on." : "It is asked when it is back.", "good");
    await draw();
  });
  const revoke = action(async () => {
    if (!confirm(`Revoke the credential of ${agent.name}? Its session ends at once, and it must be enrolled anew.`)) return;
    await post(`${path}/revoke`);
    await draw();
  });
  return card("Credential of this machine", h("p", { class: "quiet" }, "A secret that only this machine holds; the server keeps its hash."), table([
    { title: "State", of: (one) => one.state }, { title: "Since", of: (one) => when(one.created_at) },
    { title: "Last used", of: (one) => (one.last_used_at ? since(one.last_used_at) : "never") },
  ], own, "It has none.", "Credentials"),
  h("div", { class: "row" }, h("button", { class: "plain", type: "button", onclick: rotate }, "Rotate"),
    h("button", { class: "danger", type: "button", onclick: revoke }, "Revoke")));
}

function removal(agent) {
  return card("Forget this machine", h("p", { class: "quiet" }, "Ends its session and deletes what it reported, results included."),
    h("button", { class: "danger", type: "button", onclick: action(async () => {
      if (!confirm(`Forget ${agent.name} and delete its results?`)) return;
      await remove(`/agents/${part(agent.id)}`);
      location.hash = "#/";
    }) }, "Forget"));
}
