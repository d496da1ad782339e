// The state of the page is its address, so that it can be shared and the back button works.
//
//   /m/minilm/mlp_act/L3/N57?p=The+cat&p=The+dog&show=difference&threshold=3&watch=mlp_act.3.57

export const SHOWN = ["z", "difference", "value"];

/** Return the state that the address holds. */
export function readState(location = window.location) {
  const [view, ...path] = location.pathname.split("/").slice(1).map(decodeURIComponent);
  const query = new URLSearchParams(location.search);
  const state = {
    view: view === "m" || view === "" ? "probe" : view,
    model: "",
    site: "mlp_act",
    layer: null,
    unit: null,
    prompts: query.getAll("p"),
    show: SHOWN.includes(query.get("show")) ? query.get("show") : "",
    prompt: Number(query.get("of") ?? 0) || 0,
    threshold: query.has("threshold") ? Number(query.get("threshold")) || 0 : null,
    watch: query.getAll("watch"),
    truncate: query.has("truncate"),
    path,
    query,
  };
  if (view === "m") {
    state.model = path[0] ?? "";
    state.site = path[1] ?? "mlp_act";
    state.layer = numbered(path[2], "L");
    state.unit = numbered(path[3], "N");
  }
  return state;
}

function numbered(part, letter) {
  const found = new RegExp(`^${letter}(\\d+)$`).exec(part ?? "");
  return found ? Number(found[1]) : null;
}

/** Return the address of a probe's state. */
export function address(state) {
  const path = ["m", state.model, state.site];
  if (state.layer != null) path.push(`L${state.layer}`);
  if (state.layer != null && state.unit != null) path.push(`N${state.unit}`);
  const query = new URLSearchParams();
  for (const prompt of state.prompts) query.append("p", prompt);
  if (state.show) query.set("show", state.show);
  if (state.prompt) query.set("of", state.prompt);
  if (state.threshold != null) query.set("threshold", state.threshold);
  if (state.truncate) query.set("truncate", "yes");
  for (const neuron of state.watch) query.append("watch", neuron);
  return `/${path.map(encodeURIComponent).join("/")}?${query}`;
}

/** Put a state into the address: as a new entry of the history, or in place of the present one. */
export function writeState(state, { replace = false } = {}) {
  const next = address(state);
  sessionStorage.setItem(LAST, next);
  if (next === window.location.pathname + window.location.search) return;
  window.history[replace ? "replaceState" : "pushState"](null, "", next);
}

const LAST = "last-probe";

/** Return the address of the probe that was looked at last, or of an empty one. */
export const lastProbe = () => sessionStorage.getItem(LAST) ?? "/";

const NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** Return the name of a prompt: A, B, …, Z, 27, 28, … */
export const promptName = (index) => NAMES[index] ?? String(index + 1);

/** Return the address of the last probe with one more neuron on its watch-list. */
export function watching(neuron) {
  const last = new URL(lastProbe(), window.location.origin);
  if (!last.searchParams.getAll("watch").includes(neuron)) last.searchParams.append("watch", neuron);
  return last.pathname + last.search;
}
