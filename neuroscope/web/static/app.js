// The page: navigation, theme and the view that the address names.

import { atlasView } from "./atlas.js";
import { driftView } from "./drift.js";
import { faultText, fill, h } from "./dom.js";
import { flowsView } from "./flows.js";
import { ProbeView } from "./probe.js";
import { sessionsView } from "./sessions.js";
import { lastProbe, readState } from "./state.js";

const main = document.getElementById("view");
const models = JSON.parse(document.getElementById("models-known").textContent);

const views = {
  probe: (root, state) => new ProbeView(root, state, models),
  atlas: atlasView,
  drift: driftView,
  flows: flowsView,
  sessions: sessionsView,
};

let shown = null; // the view in use; it may have `close` and `redraw`

async function show() {
  shown?.close?.();
  shown = null;
  // each view has an element of its own, so that a late answer for the previous one is not seen
  const root = h("div", {}, h("p", { class: "page soft" }, "loading …"));
  fill(main, root);
  try {
    const state = readState();
    for (const link of document.querySelectorAll("nav a[data-view]")) {
      if (link.dataset.view === state.view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      // back to the neurons that were looked at last
      if (link.dataset.view === "probe") link.href = lastProbe();
    }
    const view = (views[state.view] ?? views.probe)(root, state);
    if (view instanceof ProbeView) shown = view;
    await view;
  } catch (error) {
    fill(root, h("div", { class: "page error", role: "alert" }, ...faultText(error)));
  }
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
  if (shown) shown.redraw();
  else show();
});
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => shown?.redraw(), 150);
});
window.addEventListener("popstate", () => {
  // another neuron of what was read needs no new reading
  if (!shown?.take(window.location)) show();
});
show();
