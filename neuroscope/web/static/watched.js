// The watch-list: neurons whose values are shown at every prompt and kept in sessions.

import { request } from "./api.js";
import { faultText, h, say, signed, table } from "./dom.js";
import { address, promptName } from "./state.js";

const KEY = "save-every-reading";

/** Return whether every reading is saved by itself. */
export const saves = () => localStorage.getItem(KEY) === "yes";

/** Save a probe with its watched neurons; tell the user what became of it. */
export async function saveSession(view) {
  const { found, state } = view;
  const watch = state.watch.filter((name) => row(view, name) >= 0);
  const other = state.watch.length - watch.length;
  try {
    const body = { id: found.id, watch, note: view.note, view: address(state) };
    const { run_id } = await request("POST", "/api/sessions", body);
    const left = other ? ` ${other} watched of another site ${other > 1 ? "are" : "is"} not in it.` : "";
    say("Saved. ", h("a", { href: `/sessions/${run_id}` }, "Open the session"), left);
  } catch (error) {
    say(...faultText(error));
  }
}

/** Return the watch-list with the values of its neurons, and the form that saves a probe. */
export function saveForm(view) {
  const note = h("input", { type: "text", name: "note", placeholder: "note", "aria-label": "Note", maxlength: 5000,
    value: view.note, oninput: (event) => { view.note = event.target.value; } });
  const button = h("button", { type: "submit", class: "primary" }, "Save this session");
  const always = h("input", {
    type: "checkbox", checked: saves(),
    onchange: (event) => localStorage.setItem(KEY, event.target.checked ? "yes" : "no"),
  });
  return h("div", { class: "save" },
    h("h2", {}, "Watch-list"),
    view.state.watch.length
      ? watchTable(view)
      : h("p", { class: "soft" }, "☆ beside a neuron lists it here, at every further prompt, and in what you save."),
    h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        button.disabled = true;
        await saveSession(view);
        button.disabled = false;
      },
    }, note, button, h("label", { class: "soft" }, always, " Save every reading by itself")));
}

function watchTable(view) {
  const { found, state } = view;
  const heads = ["z at", ...found.prompts.map((_, index) => promptName(index))];
  const rows = state.watch.map((name) => {
    const at = row(view, name);
    const unit = Number(name.split(".").at(-1));
    const z = at < 0 ? found.prompts.map(() => null) : view.zOf(at, unit);
    const choose = () => at >= 0 && view.choose(found.layers[at], unit);
    return h("tr", {},
      h("td", {}, view.watchButton(name), h("button", { type: "button", class: "link", "data-neuron": name, onclick: choose }, name)),
      ...z.map((value) => h("td", {}, signed(value))));
  });
  const none = () => view.unwatch();
  return h("div", { class: "watched" }, table(heads, rows), h("button", { type: "button", class: "link", onclick: none }, "Clear the watch-list"));
}

/** Return the row of a neuron's layer in a probe; -1 if the probe does not read it. */
function row(view, name) {
  const [site, layer, unit] = name.split(".");
  const { found } = view;
  return site === found.site && Number(unit) < found.neurons ? found.layers.indexOf(Number(layer)) : -1;
}
