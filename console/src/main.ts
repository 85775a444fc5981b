import "./theme.css";
import "./app.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { applyTheme } from "$lib/state/settings.svelte";

applyTheme();
const target = document.getElementById("app");
if (target === null) throw new Error("index.html has no #app");
mount(App, { target });
