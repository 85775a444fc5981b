// The frame: signing in, which view is shown, and whether the server answers.

import { get, post, remove } from "./api.js";
import { action, field, h, notice, show, tick } from "./dom.js";
import { addView } from "./add.js";
import { compareView } from "./compare.js";
import { machineView } from "./machine.js";
import { overviewView } from "./overview.js";
import { resultView } from "./result.js";
import { resultsView } from "./results.js";
import { drawSidebar, sidebar } from "./sidebar.js";
import { follow, forget, link, on } from "./state.js";

const main = document.getElementById("main");
const lost = document.getElementById("lost");
const signOut = document.getElementById("sign-out");
// Address (after #/): title, view(place, ...parts) giving {leave, update}. A view's `update` takes new parts in place.
const views = { "": ["Machines", overviewView], add: ["Add a machine", addView], results: ["Results", resultsView],
  result: ["Result", resultView], compare: ["Comparison", compareView], machine: ["Machine", machineView] };
let leave = () => {};
let shown = null;

addEventListener("hashchange", () => route(true));
addEventListener("signed-out", signedOut);
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
signOut.addEventListener("click", action(async () => { await remove("/session"); signedOut(); }));
on("link", drawLink);
on("agents", () => { drawSidebar(); route(false); });
setInterval(tick, 5000);
start();

async function start() {
  try {
    signedIn((await get("/session")).name);
  } catch (error) {
    if (error.status === 401) return signedOut();
    show(main, h("div", { class: "card sign-in", role: "alert" }, h("h2", {}, "The server does not answer"),
      h("p", { class: "quiet" }, "It is tried again every few seconds.")));
    setTimeout(start, 2000);
  }
}

function signedOut() {
  if (document.querySelector(".sign-in input")) return;
  forget();
  leave();
  leave = () => {};
  shown = null;
  sidebar.hidden = signOut.hidden = lost.hidden = true;
  document.title = "OBT";
  const name = h("input", { name: "name", autocomplete: "username", value: "admin", required: true });
  const password = h("input", { name: "password", type: "password", autocomplete: "current-password", required: true });
  const refused = h("p", { class: "error", id: "refused", role: "alert" });
  show(main, h("form", { class: "card sign-in", "aria-describedby": "refused", onsubmit: action(async () => {
    try {
      signedIn((await post("/session", { name: name.value, password: password.value })).name);
    } catch (error) {
      show(refused, error.message);
      password.select();
    }
  }) }, h("h2", {}, "Sign in"),
  h("p", { class: "quiet" }, "The password was printed when the server was started first. Lost? On the server: ", h("code", {}, "obt-server operators password admin")),
  field("Name", name), field("Password", password), refused, h("button", {}, "Sign in")));
  password.focus();
}

function signedIn(name) {
  signOut.hidden = sidebar.hidden = false;
  signOut.textContent = `Sign out ${name}`;
  show(main, h("p", { class: "quiet loading", role: "status" }, "Loading machines…"));
  follow();
  drawSidebar();
}

function drawLink() {
  if (signOut.hidden) return;
  lost.hidden = link.live;
  document.body.classList.toggle("stale", !link.live);
}

const address = () => location.hash.replace(/^#\/?/, "").split("/").map(decode);

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// asked: somebody followed a link; then the focus goes to what it led to.
function route(asked) {
  if (signOut.hidden || !link.known) return;
  const parts = address();
  const name = parts[0] in views ? parts[0] : "";
  const key = parts.join("/");
  if (key === shown) return;
  const sameMachine = name === "machine" && shown?.startsWith(`machine/${parts[1]}/`);
  shown = key;
  leave();
  const [title, view] = views[name];
  const place = h("div");
  show(main, place);
  document.title = `${title} · OBT`;
  leave = view(place, ...parts.slice(1)) ?? (() => {});
  drawSidebar();
  if (!asked) return;
  const target = sameMachine ? place.querySelector(".tabs [aria-current]") : place.querySelector("h2");
  if (target?.tagName === "H2") target.tabIndex = -1;
  target?.focus({ preventScroll: sameMachine });
  if (!sameMachine) scrollTo(0, 0);
}

addEventListener("unhandledrejection", (event) => { if (event.reason?.message) notice(event.reason.message); });
